"""What finished runs say: differences between systems and what they are worth, lifts, the paper's tables, one renderer.

A difference is always the same line: a cell (domain, row kind, metric), a system, the base that it is compared with,
the mean difference with its interval and p (:data:`i2vae_lib.results.differences.TESTS`).
"""
