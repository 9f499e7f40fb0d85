"""Reads finished runs: differences between systems and their significance, lifts, the paper's tables, one renderer.

Every difference is one line of the same frame: a cell (domain, row kind, metric), a system, the base it is compared
with, and the mean difference with its interval and p value (:data:`i2vae_lib.results.differences.TESTS`).
"""
