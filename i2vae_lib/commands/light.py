"""What the commands do that need little: they import what takes time when they are called, and only what they use."""

import argparse
import contextlib
import json
import os
import socket
import sys
from pathlib import Path

from i2vae_lib.commands import listing
from i2vae_lib.data.registry import FOOD_KITCHEN, REGISTRY
from i2vae_lib.lazy import require
from i2vae_lib.places import notebooks_folder, suggestion
from i2vae_lib.progress import spoken


def list_known(given: argparse.Namespace) -> int:
    for name in given.what:
        if name not in listing.LISTS:
            raise ValueError(f"unknown list '{name}'{suggestion(name, list(listing.LISTS))}")
    found = {name: listing.LISTS[name]() for name in given.what or listing.LISTS}
    if given.json:
        print(json.dumps(found))
        return 0
    for name, lines in found.items():
        print(f"{name}\n\n{listing.text(lines)}\n")
    return 0


def run(given: argparse.Namespace) -> int:
    with spoken() as say:
        say("starting")  # imports take seconds
        from i2vae_lib.commands import actions

        return actions.run(given, say)


def describe(given: argparse.Namespace) -> int:
    from i2vae_lib.data.logs.describe import describe_files
    from i2vae_lib.runs import write_atomically

    found = describe_files(given.x, given.y, home=given.out.parent if given.out else None)
    print(found.text())
    if found.refusal:
        raise ValueError("no pair file that would work: see above")
    if given.out is not None:
        if given.out.exists():
            raise ValueError(f"{given.out} exists: choose another --out")
        write_atomically(given.out, lambda part: part.write_text(found.yaml, encoding="utf-8"))
        print(f"\nwritten: {given.out}")
    return 0


def print_completion(given: argparse.Namespace) -> int:
    require("shell completion", "shtab")
    import shtab

    print(shtab.complete(given.whole, given.shell))
    return 0


def explore(given: argparse.Namespace) -> int:
    import secrets
    import subprocess
    import tempfile

    from i2vae_lib.experiments.workers import terminated_as_interrupted
    from i2vae_lib.processes import isolated

    require("the page", "voila", "ipywidgets", "anywidget", "psutil")
    import psutil

    from i2vae_lib.explorers.contents import write_page

    with terminated_as_interrupted(), tempfile.TemporaryDirectory(prefix="explore-") as folder:
        notebook = write_page(given.folders, Path(folder))
        _require_port(given.port)
        token = secrets.token_urlsafe(24)
        environment = os.environ | isolated()
        environment |= {name: folder for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_PATH", "IPYTHONDIR")}
        command = [sys.executable, "-P", "-m", "i2vae_lib.explorers.page", str(notebook), str(given.port)]
        command += ["--no-browser"] if given.no_browser else []
        # its standard input ends when this process does, however it does
        server = subprocess.Popen(
            command, cwd=folder, env=environment | {"I2VAE_PAGE_TOKEN": token}, stdin=subprocess.PIPE, process_group=0
        )
        try:
            return server.wait()
        except KeyboardInterrupt:  # as it was told
            return 0
        finally:
            with contextlib.suppress(psutil.Error):  # kernels have nothing to lose, and end with a traceback if told to
                for process in psutil.Process(server.pid).children(recursive=True) if server.poll() is None else []:
                    process.kill()
            server.terminate()
            try:
                server.wait(5)  # it ends a kernel that it was just starting
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _require_port(port: int) -> None:
    """Refuse a port that cannot be listened on, before a server is started.

    Raises
    ------
    ValueError
    """
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError as error:
        why = os.strerror(error.errno or 0).lower()
        raise ValueError(f"--port {port} cannot be had ({why}): end what holds it, or choose another") from None


def show_cache(given: argparse.Namespace) -> int:
    from i2vae_lib import cache
    from i2vae_lib.runs import cache_folder

    released = [file.name for pair in REGISTRY.values() for file in (pair.train, pair.test)]
    found = cache.clear(released) if given.clear else cache.contents(released)
    total = sum(size for _, _, size in found)
    if given.json:
        kinds = [{"kind": kind, "entries": entries, "bytes": size} for kind, entries, size in found]
        print(json.dumps({"folder": str(cache_folder()), "cleared": given.clear, "kinds": kinds, "bytes": total}))
        return 0
    print(f"{cache_folder()}: {total / 2**20:,.1f} MiB{' cleared' if given.clear else ''}")
    if found:
        lines = [{"kind": kind, "entries": str(n), "MiB": f"{size / 2**20:,.1f}"} for kind, n, size in found]
        print(f"\n{listing.text(lines)}")
    return 0


def copy_notebooks(given: argparse.Namespace) -> int:
    import functools
    import shutil

    from i2vae_lib.runs import check_outside_runs, write_atomically

    check_outside_runs(given.folder / "notebooks")  # nor into the run itself
    if given.folder.exists() and not given.folder.is_dir():
        raise NotADirectoryError(f"{given.folder} is a file: name a folder for the notebooks")
    source = notebooks_folder()
    found = sorted(path.relative_to(source) for path in source.rglob("[!.]*") if path.is_file())
    found = [path for path in found if not any(part.startswith(".") for part in path.parts)]
    there = {path for path in found if (given.folder / path).exists()}
    # files equal to ours are of a call that did not end
    if other := [str(one) for one in sorted(there) if (given.folder / one).read_bytes() != (source / one).read_bytes()]:
        raise FileExistsError(f"{given.folder} has {', '.join(other[:3])} already: choose another folder")
    for path in found:
        if path not in there:
            write_atomically(given.folder / path, functools.partial(shutil.copyfile, source / path))
    print(f"{len(found)} files in {given.folder}; open them with: jupyter lab {given.folder}")
    return 0


def fetch(given: argparse.Namespace) -> int:
    from i2vae_lib.data.released import locate

    if given.name == FOOD_KITCHEN:
        from i2vae_lib.data.logs.amazon import fetch_amazon2014

        print(fetch_amazon2014(given.out or Path("data")))
        return 0
    if given.name not in REGISTRY:
        raise ValueError(f"unknown pair '{given.name}'{suggestion(given.name, [*REGISTRY, FOOD_KITCHEN])}")
    if given.out is not None:
        raise ValueError(f"--out is of {FOOD_KITCHEN}; a released pair goes where I2VAE_DATA_DIR or the cache says")
    for file in (REGISTRY[given.name].train, REGISTRY[given.name].test):
        print(locate(file))
    return 0
