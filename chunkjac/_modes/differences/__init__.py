"""Finite differences: what evaluations tell."""
