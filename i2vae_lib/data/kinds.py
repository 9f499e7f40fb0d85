"""Kinds of rows, as tables name them (docs/evaluation.md says which rows each has)."""

KINDS = ("all", "tailed", "tailed_warm", "cold", "no_history", "overlapping", "seen", "cold_released")
REPORTED_KINDS = KINDS[:-1]  # cold_released is the paper's kind, for its own tables
# The kinds of the mean over a pair's cells. None is counted twice (as `seen` would be where it equals `all`) or fixed
# by rule (`no_history`).
HEADLINE = ("tailed", "cold", "all")
