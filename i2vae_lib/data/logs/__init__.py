"""Timestamped logs as people have them: described, read, checked, joined to a pair.

=================================  ============================================================================
``describe``, ``layouts``          ``i2vae describe``: guesses the layout, counts, proposes a pair file
``looks``                          what the values of a column look like as times
``pair_file``                      the pair file: YAML that says how two logs are read
``files``, ``first_bytes``         one log file: opened, columns; what is no log at all
``separators``                     what stands between the values of a text file
``amazon``, ``c2dsr``, ``frames``  Amazon's ratings, C2DSR's text files, DataFrames
``database``                       the rows of both logs, staged in DuckDB
``checks``                         which rows are refused
``notations``                      dates as digits in a notation that no unit stands for
``suspicions``                     what is odd about times
``ids``                            numbers for ids, and what is suspicious about ids
``join``                           both logs as one pair
=================================  ============================================================================
"""
