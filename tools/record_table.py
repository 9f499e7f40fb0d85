"""Keep the table of a comparison: docs/results/NAME.csv + NAME.json, and the table of that name in README and docs.

    python tools/record_table.py NAME "COMMAND" FOLDER...

Where systems had several trials, what each reached on validation is kept as search_NAME.csv (without ``systems_``).
Several folders are one comparison whose systems were trained in several calls. A page's tables of systems stand between
``<!-- systems: NAME -->`` and the next blank line, as a test holds.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import kept
import numpy as np
import pages
import pandas as pd

from i2vae_lib.results.paper_tables import Table, paper_table, trials
from i2vae_lib.runs import committed_path, read_record


def record(folders: Sequence[Path], name: str, command: str) -> Path:
    """Store the table as far as it is done, with what made it."""
    found = paper_table(folders, rng=np.random.default_rng(0))
    records = [read_record(path.parent) for folder in folders for path in sorted(folder.rglob("metrics.json"))]
    path = committed_path(name)
    about = kept.made_by(records, command) | {
        "dataset_sha256": records[0]["dataset_sha256"],
        "hours": round(float((found.systems["seconds"] * found.systems["seeds"]).sum()) / 3600, 2),  # of training
    }
    found.save(path, **about, references=records[0].get("references"))  # what validation chose for them
    tried = pd.concat([trials(folder) for folder in folders], ignore_index=True)
    if tried["trial"].max() > 1:
        spent = {"hours": round(float(tried["seconds"].sum()) / 3600, 2)}
        kept.keep(f"search_{name.removeprefix('systems_')}", tried, about | spent)
    return path


def markdown(table: Table) -> str:
    """The form of the pages: HR@10, sampled."""
    wide = table.wide(style="markdown").drop(columns=["seeds", "MiB"])
    return str(wide.to_markdown(index=False, disable_numparse=True))


def fill(page: str, name: str, table: Table) -> str:
    """A page with the table of that name written anew (unchanged if it has none)."""
    return pages.fill(page, f"systems: {name}", markdown(table))


def main(name: str, command: str, *folders: str) -> None:
    path = record([Path(folder) for folder in folders], name, command)
    table = Table.load(path)
    pages.rewrite(lambda page: fill(page, name, table))
    print(path)


if __name__ == "__main__":
    main(*sys.argv[1:])
