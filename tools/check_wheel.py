"""Install the kit as a package and use it, away from the checkout: the wheel alone, in an empty folder.

    python tools/check_wheel.py                       # this Python, the pinned versions: what make test-slow does
    python tools/check_wheel.py --release             # the lowest versions, and every Python: make test-release
    python tools/check_wheel.py --environment FOLDER  # a virtual environment that has the kit and what it needs

A line for each environment says what was done and with which versions; the exit status counts those that failed.
Standard library only: it runs under any Python. ``--cuda`` takes a build of torch with CUDA (gigabytes) where no other
can be reached.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SMOKE = ("run", "--preset", "smoke", "--out", "R")
VERSIONS = (
    "import platform; from importlib.metadata import version as v; print('Python', platform.python_version(), "
    "*(f'{n} {v(n)}' for n in ('torch', 'numpy', 'scipy', 'pandas', 'pyarrow', 'duckdb')))"
)


def called(*words: object, folder: Path, **variables: str) -> str:
    """Output of a command that must succeed, started without the checkout in reach.

    Raises
    ------
    RuntimeError
        It did not; with what it said.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "I2VAE"))}
    done = subprocess.run(
        [str(word) for word in words],
        cwd=folder,
        env=environment | {"OMP_NUM_THREADS": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"} | variables,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(
            f"{' '.join(map(str, words[:6]))}: exit status {done.returncode}\n{done.stdout}{done.stderr}"
        )
    return done.stdout


def build(python: Path, folder: Path) -> Path:
    """The wheel, made of the sdist, as whoever installs from source gets it."""
    called(python, "-m", "venv", "builder", folder=folder)
    builder = folder / "builder" / "bin" / "python"
    called(builder, "-m", "pip", "install", "--quiet", "build", folder=folder)
    called(builder, "-m", "build", "--outdir", folder / "dist", ROOT, folder=folder)
    [wheel] = (folder / "dist").glob("*.whl")
    return wheel


def lowest() -> dict[str, str]:
    """Each dependency at its lower bound."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = [re.match(r"([\w-]+)>=([\d.]+)", one) for one in project["dependencies"]]
    return {one[1]: f"{one[1]}=={one[2]}" for one in found if one}


def pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return {line.split("==")[0].lower(): line for line in lines if line and not line.startswith("#")}


def install(python: Path, wheel: Path, versions: Mapping[str, str], folder: Path, cuda: bool) -> Path:
    """A virtual environment with the kit and nothing that it can do without."""
    called(python, "-m", "venv", "environment", folder=folder)
    inside = folder / "environment" / "bin" / "python"
    torch = versions.get("torch", "torch")
    if cuda:
        called(inside, "-m", "pip", "install", "--quiet", torch, folder=folder)
    else:
        index = os.environ.get("TORCH_INDEX", "https://download.pytorch.org/whl/cpu")
        called(inside, ROOT / "tools" / "install_torch.py", torch, index, folder=folder)
    constraints = folder / "constraints.txt"
    constraints.write_text("\n".join(line for name, line in versions.items() if name != "torch"), encoding="utf-8")
    called(inside, "-m", "pip", "install", "--quiet", "-c", constraints, wheel, folder=folder)
    return folder / "environment"


def check(environment: Path, folder: Path) -> str:
    """Use what is installed, in an empty folder: the ten lines of the docs, the smoke run, the notebooks copied out."""
    python, kit = environment / "bin" / "python", environment / "bin" / "i2vae"
    cache = {"I2VAE_CACHE_DIR": str(folder / "cache")}
    versions = called(python, "-c", VERSIONS, folder=folder).strip()
    lines = (ROOT / "docs" / "own_data.md").read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    printed = called(python, "-c", lines, folder=folder, **cache)
    told = called(kit, *SMOKE, folder=folder, **cache)
    called(kit, *SMOKE, folder=folder, **cache)  # once more: from the cache and what is finished
    called(kit, "notebooks", "lessons", folder=folder)
    missing = [
        what
        for what, there in {
            "a recommendation of the ten lines": "700" in printed,
            "a reference ranker of the ten lines": "ordered_counts" in printed,
            "the model of the ten lines": (folder / "model" / "run.json").is_file(),
            "report.html": (folder / "R" / "report.html").is_file(),
            "a line about the notebooks": "pip install papermill" in told or (folder / "R" / "notebooks").is_dir(),
            "the notebooks": len(list((folder / "lessons").glob("*.ipynb"))) >= 13,
        }.items()
        if not there
    ]
    if missing:
        raise RuntimeError(f"missing: {', '.join(missing)}\n{printed}\n{told}")
    return versions


def pythons() -> list[Path]:
    """Every Python from 3.11 on that can be started by its name."""
    found = []
    for minor in range(11, 20):
        path = shutil.which(f"python3.{minor}")
        if path and subprocess.run([path, "-c", ""], capture_output=True).returncode == 0:
            found.append(Path(path))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--release", action="store_true", help="the lowest versions, and the newest under every Python")
    parser.add_argument("--environment", type=Path, help="only use what is installed there")
    parser.add_argument("--cuda", action="store_true", help="take a torch with CUDA if there is no other")
    given = parser.parse_args()
    this = Path(sys.executable)
    if given.environment:
        works = [("installed", this, {})]
    elif given.release:
        works = [("lowest", this, lowest()), *(("newest", one, {}) for one in pythons())]
    else:
        works = [("pinned", this, pinned())]
    failed = 0
    with tempfile.TemporaryDirectory(prefix="wheel-") as name:
        wheel = None if given.environment else build(this, Path(name))
        for i, (which, python, versions) in enumerate(works):
            folder, used = Path(name) / f"installed-{i}", Path(name) / f"used-{i}"
            folder.mkdir()
            used.mkdir()
            try:
                place = given.environment or install(python, wheel, versions, folder, given.cuda)
                print(f"passed: {which}: {check(place.absolute(), used)}", flush=True)
            except RuntimeError as error:
                failed += 1
                print(f"FAILED: {which}, {python.name}: {error}", flush=True)
            shutil.rmtree(folder)
    return failed


if __name__ == "__main__":
    raise SystemExit(main())
