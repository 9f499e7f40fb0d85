"""Rankers that stand in every table, and two ceilings."""
