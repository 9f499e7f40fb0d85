"""What makes many runs."""
