"""Who judges derivatives, and which need no judge."""
