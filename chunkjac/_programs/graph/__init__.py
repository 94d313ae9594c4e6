"""A recorded step: operations and what they are made of."""
