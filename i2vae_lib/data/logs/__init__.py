"""Timestamped logs as people have them: found out, read, checked, joined to a pair."""
