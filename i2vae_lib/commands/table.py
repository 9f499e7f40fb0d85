"""The commands of ``i2vae``: the purpose and options of each, with examples that use every option."""

import argparse
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from i2vae_lib.commands.listing import LISTS
from i2vae_lib.data.kinds import HEADLINE
from i2vae_lib.data.registry import FOOD_KITCHEN, REGISTRY
from i2vae_lib.recommenders.registry import SYSTEMS


def _positive(word: str) -> int:
    number = int(word)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number}: at least one")
    return number


def _path(word: str) -> Path:
    if not word:  # an unset shell variable; as a path it would mean the working directory
        raise argparse.ArgumentTypeError("an empty path: name a file or a folder")
    return Path(word)


def _port(word: str) -> int:
    if not word.isdecimal() or not 1 <= int(word) <= 65535:
        raise argparse.ArgumentTypeError(f"{word}: a port is a number from 1 to 65535")
    return int(word)


_Option = tuple[str, dict[str, Any]]  # what argparse's add_argument takes


def _option(name: str, said: str, **words: Any) -> _Option:
    return name, {"help": said, **words}


def _flag(name: str, said: str) -> _Option:
    return _option(name, said, action="store_true")


@dataclass(frozen=True)
class _Command:
    """A command: its help text, the function that gets the parsed arguments, its options, and examples of them all."""

    help: str
    location: str
    options: Sequence[_Option]
    examples: Sequence[str]

    def run(self, given: argparse.Namespace) -> int:
        """Call the function, whose module is imported now; returns the exit status."""
        module, _, name = self.location.partition(".")
        status: int = getattr(importlib.import_module(f"{__package__}.{module}"), name)(given)
        return status


_FORMATS = ("text", "csv", "latex", "markdown")
_DATA = _option(
    "--data", f"synthetic, a released pair ({', '.join(REGISTRY)}), or the YAML file of your own pair of logs"
)
_PROTOCOL = _option("--protocol", "released or strict; for logs: chronological or temporal")
_SYSTEM = _option("--system", f"the system to train: {', '.join(SYSTEMS)} (default: i2vae)")
_SEED = _option("--seed", "seed of initialisation, shuffling and sampling", type=int)
_EPOCHS = _option("--epochs", "the most epochs to train; sets training.epochs", type=int)
_WORKERS = _option("--workers", "processes on this machine, one thread each (default: one per core)", type=_positive)
_SCHEDULER = _option("--scheduler", "tcp://HOST:PORT, tls://… or the scheduler file of your own Dask cluster")
_RESAMPLES = _option("--resamples", "resamples of the bootstrap (default: 10000)", type=int, default=10_000)
_FORMAT = _option("--format", "output format (default: text)", choices=_FORMATS, default="text")
_JSON = _flag("--json", "print JSON instead of text")


def _set(where: str) -> _Option:
    return _option("--set", f"{where}; repeatable", action="append", default=[], metavar="KEY=VALUE")


def _of_the_file(option: _Option) -> _Option:
    """The option, with the value in the sweep's or search's file as its default."""
    flag, words = option
    return flag, words | {"help": f"{words['help']} (default: the file's)"}


def _preset(default: str) -> _Option:
    return _option("--preset", f"a preset in params/, or a path (default: {default})", default=default)


def _parameters(preset: str = "demo") -> tuple[_Option, ...]:
    return _DATA, _PROTOCOL, _preset(preset), _set("override a parameter, e.g. model.d=64")


COMMANDS: dict[str, _Command] = {
    "list": _Command(
        "List presets, pairs, systems, parameters (with defaults and origins), and runs.",
        "light.list_known",
        (_option("what", f"which lists to print: {', '.join(LISTS)} (default: all)", nargs="*"), _JSON),
        ("i2vae list systems", "i2vae list parameters --json"),
    ),
    "run": _Command(
        "Run everything: data, audit, pseudo-sequences, training, evaluation, report.",
        "light.run",
        (
            *_parameters(),
            _SYSTEM,
            _SEED,
            _EPOCHS,
            _option(
                "--out",
                "run directory; an unfinished run is resumed (default: runs/DATA-PROTOCOL-PRESET-seedN[+KEY=VALUE])",
            ),
            _flag("--no-notebooks", "do not execute notebooks"),
            _flag("--no-report", "do not write report.html"),
            _flag("--only-train", "stop after training, before any test row is used (for tuning)"),
        ),
        (
            "i2vae run --no-notebooks --no-report",
            "i2vae run --data cloth_sport --protocol strict --preset paper --seed 0 --epochs 20 --out runs/a",
            "i2vae run --preset smoke --system multivae-m --set multivae.hidden=64 --set model.d=32 --only-train",
        ),
    ),
    "recommend": _Command(
        "Recommend items from a finished run, using your own ids.",
        "actions.recommend",
        (
            _option("run", "run directory", type=_path),
            _option("--user", "users in the data, whose histories are known", nargs="+", metavar="ID"),
            _option("--users", "file of such users: one id per line, or Parquet with a column user", type=_path),
            _option(
                "--history",
                "a new history, oldest item first (ids with a comma: --histories)",
                nargs="*",
                default=[],
                metavar="DOMAIN=ID,ID",
            ),
            _option(
                "--histories",
                "Parquet file of new histories: one column per domain, one list of ids per row",
                type=_path,
            ),
            _option("--domain", "domain to recommend from: its name, or x or y", required=True),
            _option("--k", "number of items (default: 10)", type=int, default=10),
            _option("--exclude", "items never to recommend", nargs="+", metavar="ID"),
            _option("--only", "recommend only from these items", nargs="+", metavar="ID"),
            _option(
                "--unknown", "how to treat unknown ids (default: error)", choices=("error", "drop"), default="error"
            ),
            _option(
                "--out", "write user, item, score and rank to this Parquet file instead of printing them", type=_path
            ),
            _JSON,
        ),
        (
            "i2vae recommend runs/a --history x=x20,s3 y=y40 --domain y --k 5",
            "i2vae recommend runs/a --histories people.parquet --domain x --unknown drop --json",
            "i2vae recommend runs/a --user u17 u20 --domain South --exclude y40 y41",
            "i2vae recommend runs/a --users users.txt --domain South --only y1 y2 y3 --out recommended.parquet",
        ),
    ),
    "audit": _Command(
        "Audit data under a protocol, or a run, for leaks; exit status 1 if there is one.",
        "actions.audit_data",
        (
            *_parameters(),
            _SYSTEM,
            _option(
                "--run", "audit this run directory, including what its generator and model were trained on", type=_path
            ),
            _FORMAT,
            _JSON,
        ),
        (
            "i2vae audit --data cloth_sport --protocol released --json",
            "i2vae audit --data cloth_sport --format latex",
            "i2vae audit --preset smoke --system i2vae --set synthetic.users=600",
            "i2vae audit --run runs/a",
        ),
    ),
    "describe": _Command(
        "Describe two logs: what they hold, what looks suspicious, and a pair file that reads them.",
        "light.describe",
        (
            _option("x", "log of the first domain: CSV, JSON lines or Parquet", type=_path),
            _option(
                "y", "log of the second domain (omit it if one file has a column for the domain)", type=_path, nargs="?"
            ),
            _option("--out", "where to write the pair file; paths in it are relative to its folder", type=_path),
        ),
        ("i2vae describe Food.csv.gz Kitchen.csv.gz --out food_kitchen.yaml",),
    ),
    "compare": _Command(
        "Compare runs: results side by side, differences with intervals, significance.",
        "studies.compare_runs",
        (
            _option("runs", "run directories", type=_path, nargs="+", metavar="RUN"),
            _option(
                "--candidates",
                "candidates to rank among (default: sampled; --table shows both)",
                choices=("sampled", "full"),
            ),
            _RESAMPLES,
            _option(
                "--base", "system to compare the others with (default: that of the first run; with --table: i2vae)"
            ),
            _option(
                "--table", "print the paper's table; RUN may then be a folder made by `i2vae table`", choices=("paper",)
            ),
            _flag("--all", "show every kind of row and every metric"),
            _FORMAT,
            _option("--systems", "with --table: only these", nargs="+", metavar="SYSTEM"),
            _option("--kinds", "with --table: only these", nargs="+", choices=HEADLINE),
            _JSON,
        ),
        (
            "i2vae compare runs/a runs/b",
            "i2vae compare runs/a runs/b --base popularity --candidates full --resamples 2000 --json",
            "i2vae compare runs/a runs/b --all --format csv",
            "i2vae compare runs/table --table paper --format latex --systems i2vae popularity --kinds cold all",
        ),
    ),
    "table": _Command(
        "Tune all systems on validation rows, train and evaluate them, and print the paper's table.",
        "studies.make_table",
        (
            *_parameters("paper"),
            _EPOCHS,
            _option("--systems", "systems to include (default: all)", nargs="+", metavar="SYSTEM"),
            _option("--kinds", "kinds of row to print (default: all)", nargs="+", choices=HEADLINE),
            _option("--seeds", "seeds to run (default: 0)", nargs="+", type=int, default=[0]),
            _option("--trials", "how many tuning points to try per system (default: all it has)", type=_positive),
            _option("--tuning", "a tuning file in place of params/tuning.yaml", type=_path),
            _option("--workers", "systems to run at a time (default: 1)", type=_positive, default=1),
            _option("--out", "folder for all runs (default: runs/table-DATA-PROTOCOL-PRESET)", type=_path),
            _RESAMPLES,
            _FORMAT,
            _JSON,
        ),
        (
            "i2vae table --data cloth_sport --protocol strict --epochs 20 --workers 2 --out runs/table",
            "i2vae table --preset smoke --systems i2vae multivae-m --seeds 0 1 2 --trials 1 --set model.d=32 --json",
            "i2vae table --tuning mine.yaml --kinds cold all --format markdown --resamples 2000",
        ),
    ),
    "sweep": _Command(
        "Run the unfinished cells of a sweep, then print its table.",
        "studies.sweep",
        (
            _option("file", "a sweep in params/sweeps/, or a path"),
            _option("--preset", "preset of the cells (default: the file's)"),
            *map(_of_the_file, (_DATA, _PROTOCOL, _EPOCHS)),
            _set("override a parameter in every cell"),
            _option("--seeds", "seeds of every cell (default: the file's)", type=int, nargs="+"),
            _option("--out", "folder for the cells (default: runs/sweep-FILE-DATA-PROTOCOL)", type=_path),
            _WORKERS,
            _SCHEDULER,
            _flag("--dashboard", "print the address of the scheduler's dashboard"),
            _flag("--dry-run", "only print the plan: cells, hours, memory"),
            _flag("--retry-failed", "run failed cells again"),
            _FORMAT,
        ),
        (
            "i2vae sweep sensitivity --preset smoke --data synthetic --protocol strict --dry-run",
            "i2vae sweep robustness --epochs 5 --seeds 0 1 --set model.d=32 --workers 2 --dashboard --out runs/robust",
            "i2vae sweep paper_grid --scheduler tcp://127.0.0.1:8786 --retry-failed --format markdown",
        ),
    ),
    "search": _Command(
        "Search for settings with a better validation NDCG@10; no test row is used.",
        "studies.search_for",
        (
            _option("file", "a search in params/searches/, or a path"),
            _option("--preset", "preset that trials start from (default: the file's)"),
            *map(_of_the_file, (_DATA, _PROTOCOL, _SEED, _EPOCHS)),
            _option(
                "--trials",
                "number of trials in total, earlier calls included (default: 20)",
                type=_positive,
                default=20,
            ),
            _option("--out", "folder for the trials (default: runs/search-FILE)", type=_path),
            _WORKERS,
            _SCHEDULER,
        ),
        (
            "i2vae search tuned --preset smoke --data synthetic --protocol strict --seed 0 --epochs 3 --trials 5",
            "i2vae search tuned --out runs/search --workers 2",
            "i2vae search tuned --scheduler scheduler.json",
        ),
    ),
    "cache": _Command(
        "Show the size of the cache (datasets, fits, ranks, downloads), or clear it.",
        "light.show_cache",
        (_flag("--clear", "delete the cache; anything needed later is made again"), _JSON),
        ("i2vae cache", "i2vae cache --clear --json"),
    ),
    "notebooks": _Command(
        "Copy the kit's notebooks into a folder, to open in JupyterLab.",
        "light.copy_notebooks",
        (_option("folder", "folder, created if missing; no existing file is overwritten", type=_path, metavar="DIR"),),
        ("i2vae notebooks lessons",),
    ),
    "fetch": _Command(
        "Download and check a released pair, or rebuild the Food and Kitchen logs.",
        "light.fetch",
        (
            _option("name", ", ".join([*REGISTRY, FOOD_KITCHEN])),
            _option("--out", f"folder for {FOOD_KITCHEN} (default: data)", type=_path),
        ),
        ("i2vae fetch cloth_sport", f"i2vae fetch {FOOD_KITCHEN} --out data"),
    ),
    "report": _Command(
        "Rewrite report.html of a finished run.",
        "actions.make_report",
        (_option("run", "run directory", type=_path),),
        ("i2vae report runs/a",),
    ),
    "export": _Command(
        "Export a trained model with a model card, or a split and its candidates as Parquet.",
        "actions.export_out",
        (
            _option("run", "run directory", type=_path, nargs="?"),
            _option("--split", "export the rows and fixed candidates of DATA instead of a run", metavar="DATA"),
            _PROTOCOL,
            _preset("paper"),
            _set("override a parameter of the split, e.g. evaluation.negatives=99"),
            _option("--out", "new folder to write to", type=_path, required=True),
            _flag("--with-users", "include the ids and histories of training users"),
            _option("--licence", "licence of the data, for the card (default: the pair file's)", default=""),
        ),
        (
            "i2vae export runs/a --out model --licence 'MovieTweetings, MIT'",
            "i2vae export runs/a --out model-of-our-own --with-users",
            "i2vae export --split params/pairs/films.yaml --protocol temporal --out split",
            "i2vae export --split synthetic --preset smoke --set evaluation.negatives=50 --out split",
        ),
    ),
    "completion": _Command(
        "Print a script that completes commands and options in your shell.",
        "light.print_completion",
        (_option("shell", "your shell", choices=("bash", "zsh", "tcsh")),),
        ("i2vae completion bash",),
    ),
    "explore": _Command(
        "Serve a page on this machine to explore runs and sweeps, without Jupyter.",
        "light.explore",
        (
            _option("folders", "run directories or sweep folders", type=_path, nargs="+", metavar="FOLDER"),
            _option("--port", "port to serve on (default: 8866)", type=_port, default=8866),
            _flag("--no-browser", "do not open a browser"),
        ),
        ("i2vae explore runs/a runs/b --port 9000 --no-browser",),
    ),
}
