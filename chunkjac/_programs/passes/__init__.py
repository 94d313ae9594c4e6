"""What makes a recorded step simpler, one theorem a file."""
