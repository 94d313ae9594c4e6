"""A machine that looks for more: random functions, each in many ways, against plain autograd in float64.

``grammar`` holds the statements that functions are made of, ``cases`` puts some together, ``ways`` says how a Jacobian
is asked for, ``truth`` what it must be, ``shrinking`` makes a failure small, ``coverage`` counts what was met.
"""
