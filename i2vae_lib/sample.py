"""A small finished run that the package carries, so that there is something to look at before anything is trained."""

import shutil
from pathlib import Path

from i2vae_lib.places import runs_folder
from i2vae_lib.runs import new_folder

# made by `python tools/make_sample_run.py`: the recipe on a small planted pair
SAMPLE = Path(__file__).parent / "sample_files"


def sample_run() -> Path:
    """The folder of a finished run of i2VAE on a planted pair: a copy of the package's, in the runs folder.

    Returns
    -------
    Path
        ``runs/sample``; put there if it is missing or of another version of the package.
    """
    target = runs_folder() / "sample"
    packaged = (SAMPLE / "run.json").read_bytes()
    if not (target / "run.json").is_file() or (target / "run.json").read_bytes() != packaged:
        shutil.rmtree(target, ignore_errors=True)
        with new_folder(target) as part:
            shutil.copytree(SAMPLE, part, dirs_exist_ok=True)
    return target
