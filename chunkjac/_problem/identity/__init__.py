"""Whether a function is the same as before."""
