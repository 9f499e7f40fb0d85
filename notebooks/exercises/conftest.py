"""Exercises are generated: the tests run the solutions from their source, and tasks have no answer to run."""

collect_ignore_glob = ["*.ipynb"]
