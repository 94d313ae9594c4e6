"""What is made of blocks where the Jacobian is never held."""
