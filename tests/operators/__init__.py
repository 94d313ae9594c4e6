"""Every differentiable operator of torch's own list of operators, in every mode, judged against independent referees.

``python -m tests.operators`` runs the sweep and writes ``tests/operators.json``.
"""
