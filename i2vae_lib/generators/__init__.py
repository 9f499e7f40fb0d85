"""What recalls pseudo-sequences, and what else is counted in training rows."""
