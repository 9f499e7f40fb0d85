"""Install torch without downloading gigabytes of CUDA by accident.

    python tools/install_torch.py REQUIREMENT INDEX

Tries INDEX (by default the public index of CPU builds) beside wherever pip is set up to look. If nothing comes of it,
asks pip what REQUIREMENT would bring from there alone, and installs it only if no CUDA package comes along.
Standard library only: it runs before anything is installed.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

CUDA = ("nvidia-", "cuda-", "triton")


def pip(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *words]
    return subprocess.run(command, text=True, capture_output=True)


def would_install(requirement: str) -> list[str] | None:
    """Names of the packages that pip would install for ``requirement``; None if it finds none."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        done = pip("install", "--quiet", "--dry-run", "--report", str(report), requirement)
        if done.returncode:
            print(done.stderr, file=sys.stderr)
            return None
        return [one["metadata"]["name"].lower() for one in json.loads(report.read_text())["install"]]


def main(requirement: str, index: str) -> int:
    print(f"torch: {requirement} from {index}", flush=True)
    # --no-deps: the index of torch builds need not serve anything else; the rest comes with the kit itself
    words = ("install", "--quiet", "--no-deps", "--retries", "0", "--timeout", "30")
    if pip(*words, "--index-url", index, requirement).returncode == 0:
        return 0
    print("torch: not from there; asking pip what it finds otherwise", flush=True)
    names = would_install(requirement)
    if names is None:
        print(f"torch: {requirement} is nowhere to be found. Set TORCH_INDEX to an index that has it.", file=sys.stderr)
        return 1
    if any(name.startswith(CUDA) for name in names):
        print(
            f"torch: {index} cannot be reached, and the build that pip finds otherwise brings CUDA (gigabytes).\n"
            f"Try again with a network, set TORCH_INDEX to a reachable index of CPU builds, or, if you do want CUDA:\n"
            f"    make setup TORCH_INDEX=https://download.pytorch.org/whl/cu128",
            file=sys.stderr,
        )
        return 1
    done = pip("install", "--quiet", "--no-deps", requirement)
    print(done.stderr, end="", file=sys.stderr)
    return done.returncode


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
