"""Widgets over tables and figures."""
