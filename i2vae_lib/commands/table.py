"""The commands of ``i2vae``: what each is for, its options, and examples that show them all."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from i2vae_lib.commands import actions, studies
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
    if not word:  # a variable of a shell that is not set; as a path it would be the working directory
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
    """What a command is for, the function that is called with what was given, its options, and examples of all."""

    help: str
    run: Callable[[argparse.Namespace], int]
    options: Sequence[_Option]
    examples: Sequence[str]


_FORMATS = ("text", "csv", "latex", "markdown")
_DATA = _option("--data", f"synthetic, a released pair ({', '.join(REGISTRY)}), or the YAML file of a pair of logs")
_PROTOCOL = _option("--protocol", "released or strict; of logs: chronological or temporal")
_SYSTEM = _option("--system", f"what is trained: {', '.join(SYSTEMS)} (default: i2vae)")
_SEED = _option("--seed", "initialisation, shuffling, sampling", type=int)
_EPOCHS = _option("--epochs", "at most so many; training.epochs", type=int)
_WORKERS = _option("--workers", "processes on this machine, a thread each (default: its cores)", type=_positive)
_SCHEDULER = _option("--scheduler", "tcp://HOST:PORT, tls://… or the scheduler file of your own Dask cluster")
_RESAMPLES = _option("--resamples", "of the bootstrap (default: 10000)", type=int, default=10_000)
_FORMAT = _option("--format", "of what is printed (default: text)", choices=_FORMATS, default="text")
_JSON = _flag("--json", "for programs: JSON instead of text")


def _set(where: str) -> _Option:
    return _option("--set", f"{where}; repeatable", action="append", default=[], metavar="KEY=VALUE")


def _of_the_file(option: _Option) -> _Option:
    """The option with the default that a sweep's or a search's file has."""
    flag, words = option
    return flag, words | {"help": f"{words['help']} (default: the file's)"}


def _preset(default: str) -> _Option:
    return _option("--preset", f"a file in params/, or a path (default: {default})", default=default)


def _parameters(preset: str = "demo") -> tuple[_Option, ...]:
    return _DATA, _PROTOCOL, _preset(preset), _set("e.g. model.d=64")


COMMANDS: dict[str, _Command] = {
    "list": _Command(
        "What there is: presets, pairs, systems, parameters with defaults and origins, runs.",
        actions.list_known,
        (_option("what", f"only these of {', '.join(LISTS)} (default: all)", nargs="*"), _JSON),
        ("i2vae list systems", "i2vae list parameters --json"),
    ),
    "run": _Command(
        "Data, audit, pseudo-sequences, training, evaluation, report.",
        actions.run,
        (
            *_parameters(),
            _SYSTEM,
            _SEED,
            _EPOCHS,
            _option(
                "--out", "run directory, resumed if unfinished (default: runs/DATA-PROTOCOL-PRESET-seedN[+KEY=VALUE])"
            ),
            _flag("--no-notebooks", "leave the executed notebooks out"),
            _flag("--no-report", "leave report.html out"),
            _flag("--only-train", "stop before a test row is looked at (tuning)"),
        ),
        (
            "i2vae run --no-notebooks --no-report",
            "i2vae run --data cloth_sport --protocol strict --preset paper --seed 0 --epochs 20 --out runs/a",
            "i2vae run --preset smoke --system multivae-m --set multivae.hidden=64 --set model.d=32 --only-train",
        ),
    ),
    "recommend": _Command(
        "Recommend from a finished run, in people's own ids.",
        actions.recommend,
        (
            _option("run", "the run's directory", type=_path),
            _option("--user", "users of the data, whose histories are known", nargs="+", metavar="ID"),
            _option("--users", "file of them: an id a line, or Parquet with a column user", type=_path),
            _option("--history", "anybody's, oldest first", nargs="*", default=[], metavar="DOMAIN=ID,ID"),
            _option("--histories", "Parquet with a column a domain: a list of ids a user", type=_path),
            _option("--domain", "where to recommend: its name, or x or y", required=True),
            _option("--k", "how many items (default: 10)", type=int, default=10),
            _option("--exclude", "items that nobody gets", nargs="+", metavar="ID"),
            _option("--only", "the only items that anybody gets", nargs="+", metavar="ID"),
            _option("--unknown", "what becomes of unknown ids (error)", choices=("error", "drop"), default="error"),
            _option("--out", "Parquet file for user, item, score, rank; printed without it", type=_path),
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
        "The leak audit of data under a protocol, or of a run; exit status 1 on a leak.",
        actions.audit_data,
        (
            *_parameters(),
            _SYSTEM,
            _option("--run", "a run directory: also what its generator and its model learnt from", type=_path),
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
        "What two logs hold, what is suspicious, and the pair file that reads them.",
        actions.describe,
        (
            _option("x", "log of one domain: CSV, JSON lines or Parquet", type=_path),
            _option("y", "log of the other; none: one file, a column tells the domain", type=_path, nargs="?"),
            _option("--out", "where the pair file goes; it finds the logs from there", type=_path),
        ),
        ("i2vae describe Food.csv.gz Kitchen.csv.gz --out food_kitchen.yaml",),
    ),
    "compare": _Command(
        "Runs side by side: the rows that matter, differences with intervals, significance.",
        studies.compare_runs,
        (
            _option("runs", "run directories", type=_path, nargs="+", metavar="RUN"),
            _option("--candidates", "default: sampled; --table has both", choices=("sampled", "full")),
            _RESAMPLES,
            _option("--base", "what others are compared with (default: the first run's; --table: i2vae)"),
            _option("--table", "the paper's table; RUN may be a folder of `i2vae table`", choices=("paper",)),
            _flag("--all", "every kind of row, every metric and cell"),
            _FORMAT,
            _option("--systems", "of --table: only these", nargs="+", metavar="SYSTEM"),
            _option("--kinds", "of --table: only these", nargs="+", choices=HEADLINE),
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
        "All systems, tuned on validation, trained and measured; then the paper's table.",
        studies.make_table,
        (
            *_parameters("paper"),
            _EPOCHS,
            _option("--systems", "default: all", nargs="+", metavar="SYSTEM"),
            _option("--kinds", "user types to print (default: all)", nargs="+", choices=HEADLINE),
            _option("--seeds", "default: 0", nargs="+", type=int, default=[0]),
            _option("--trials", "of each system's points, if it has so many (default: all)", type=_positive),
            _option("--tuning", "another file of the form of params/tuning.yaml", type=_path),
            _option("--workers", "systems at a time (default: 1)", type=_positive, default=1),
            _option("--out", "folder of all runs (default: runs/table-DATA-PROTOCOL-PRESET)", type=_path),
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
        "Every cell of a grid that is not there yet; then the table of what is.",
        studies.sweep,
        (
            _option("file", "a file in params/sweeps/, or a path"),
            _option("--preset", "of the cells, as are --data, --protocol, --epochs and --set (default: the file's)"),
            *map(_of_the_file, (_DATA, _PROTOCOL, _EPOCHS)),
            _set("in every cell"),
            _option("--seeds", "of every cell (default: the file's)", type=int, nargs="+"),
            _option("--out", "folder of the cells (default: runs/sweep-FILE-DATA-PROTOCOL)", type=_path),
            _WORKERS,
            _SCHEDULER,
            _flag("--dashboard", "say where the scheduler's page is"),
            _flag("--dry-run", "only the plan: cells, hours, memory"),
            _flag("--retry-failed", "run cells that failed before once more"),
            _FORMAT,
        ),
        (
            "i2vae sweep sensitivity --preset smoke --data synthetic --protocol strict --dry-run",
            "i2vae sweep robustness --epochs 5 --seeds 0 1 --set model.d=32 --workers 2 --dashboard --out runs/robust",
            "i2vae sweep paper_grid --scheduler tcp://127.0.0.1:8786 --retry-failed --format markdown",
        ),
    ),
    "search": _Command(
        "Settings that validation NDCG@10 likes; no test row is looked at.",
        studies.search_for,
        (
            _option("file", "a file in params/searches/, or a path"),
            _option("--preset", "what trials start from, as are --data, --protocol, --seed, --epochs"),
            *map(_of_the_file, (_DATA, _PROTOCOL, _SEED, _EPOCHS)),
            _option("--trials", "in all, those of earlier calls included (default: 20)", type=_positive, default=20),
            _option("--out", "folder of the trials (default: runs/search-FILE)", type=_path),
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
        "What is kept to be done once (datasets, fits, ranks, downloads): how large it is, and away with it.",
        actions.show_cache,
        (_flag("--clear", "remove it; what is needed again is made again"), _JSON),
        ("i2vae cache", "i2vae cache --clear --json"),
    ),
    "notebooks": _Command(
        "Copy the notebooks that come with the kit into a folder, to be opened in JupyterLab.",
        actions.copy_notebooks,
        (_option("folder", "made if it is not there; no file in it is replaced", type=_path, metavar="DIR"),),
        ("i2vae notebooks lessons",),
    ),
    "fetch": _Command(
        "Download a released pair and check it, or build the Food and Kitchen logs anew.",
        actions.fetch,
        (
            _option("name", ", ".join([*REGISTRY, FOOD_KITCHEN])),
            _option("--out", f"where {FOOD_KITCHEN} is built (default: data)", type=_path),
        ),
        ("i2vae fetch cloth_sport", f"i2vae fetch {FOOD_KITCHEN} --out data"),
    ),
    "report": _Command(
        "Write report.html of a finished run anew.",
        actions.make_report,
        (_option("run", "the run's directory", type=_path),),
        ("i2vae report runs/a",),
    ),
    "export": _Command(
        "A trained model as a folder for others, with a model card; or a split with its candidates, as Parquet.",
        actions.export_out,
        (
            _option("run", "the run's directory", type=_path, nargs="?"),
            _option("--split", "not a run but rows and frozen candidates of DATA", metavar="DATA"),
            _PROTOCOL,
            _preset("paper"),
            _set("of the split, e.g. evaluation.negatives=99"),
            _option("--out", "the new folder", type=_path, required=True),
            _flag("--with-users", "training users' ids and histories too"),
            _option("--licence", "of the data, for the card (default: what the pair file says)", default=""),
        ),
        (
            "i2vae export runs/a --out model --licence 'MovieTweetings, MIT'",
            "i2vae export runs/a --out model-of-our-own --with-users",
            "i2vae export --split params/pairs/films.yaml --protocol temporal --out split",
            "i2vae export --split synthetic --preset smoke --set evaluation.negatives=50 --out split",
        ),
    ),
    "completion": _Command(
        "A script that completes commands and options in a shell.",
        actions.print_completion,
        (_option("shell", "whose", choices=("bash", "zsh", "tcsh")),),
        ("i2vae completion bash",),
    ),
    "explore": _Command(
        "A page of explorers on this machine: runs and sweeps taken apart, without Jupyter.",
        actions.explore,
        (
            _option("folders", "runs, folders of sweeps", type=_path, nargs="+", metavar="FOLDER"),
            _option("--port", "where it is served (default: 8866)", type=_port, default=8866),
            _flag("--no-browser", "open none"),
        ),
        ("i2vae explore runs/a runs/b --port 9000 --no-browser",),
    ),
}
