"""A recorded step laid out in memory, and run."""
