"""Checks for leaks: no training before they pass."""
