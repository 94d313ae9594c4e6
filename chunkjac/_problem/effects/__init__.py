"""What an evaluation does beside giving a value: what it draws, and what it leaves behind."""
