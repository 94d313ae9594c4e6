"""Faults put into the package on purpose: do the tests notice? ``python -m tests.mutants``."""
