"""Reverse and forward mode: what autograd tells."""
