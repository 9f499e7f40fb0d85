"""Make the run that the package carries: the recipe on a small planted pair, without what only its making needs.

    python tools/make_sample_run.py

Minutes on two cores. It goes to ``i2vae_lib/sample_files/``, at most 2 MB of Parquet, safetensors and JSON; the
planted truth, checkpoints and what was recalled stay out.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from i2vae_lib import evaluate, load, open_run
from i2vae_lib.runs import Run
from i2vae_lib.sample import SAMPLE

SMALL = {
    "synthetic.users": 2500,
    "synthetic.items": 150,
    "synthetic.shared_topics": 8,
    "synthetic.specific_topics": 8,
    "synthetic.linked_items": 10,
    "synthetic.zipf": 0.6,
    "evaluation.negatives": 99,
}
"""A world that fits into the package; everything else is the demo preset's."""

KEPT = ("run.json", "history.parquet", "ranks.parquet", "metrics.json", "dataset", "model")
LEFT_OUT = ("dataset/truth.npz", "pseudo.parquet")
MOST_BYTES = 2_000_000


def keep(run: Run, target: Path) -> int:
    """Copy what a reader needs of a finished run; the number of bytes.

    Raises
    ------
    ValueError
        More than the package may carry.
    """
    known = {key: one for key, one in run.record["sha256"].items() if key not in LEFT_OUT}
    run.note(sha256=known)
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for path in sorted(one for one in run.folder.rglob("*") if one.is_file()):
        name = path.relative_to(run.folder)
        if name.parts[0] in KEPT and name.as_posix() not in LEFT_OUT:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / name)
    size = sum(one.stat().st_size for one in target.rglob("*") if one.is_file())
    if size > MOST_BYTES:
        raise ValueError(f"{target} has {size:,} bytes, the package may carry {MOST_BYTES:,}")
    return size


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = open_run(load("demo", SMALL), Path(folder) / "sample")
        evaluate(run)
        print(f"{SAMPLE}: {keep(run, SAMPLE):,} bytes")


if __name__ == "__main__":
    main()
