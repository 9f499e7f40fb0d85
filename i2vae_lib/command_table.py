"""The commands of ``i2vae``: what each is for, its options, and examples that show them all."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from i2vae_lib import commands, study_commands
from i2vae_lib.data.registry import FOOD_KITCHEN, REGISTRY
from i2vae_lib.listing import LISTS
from i2vae_lib.recommenders.registry import SYSTEMS


def _positive(word: str) -> int:
    number = int(word)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number}: at least one")
    return number


def _port(word: str) -> int:
    number = int(word)
    if not 1 <= number <= 65535:
        raise argparse.ArgumentTypeError(f"{number}: a port lies from 1 to 65535")
    return number


Option = tuple[str, dict[str, Any]]  # what argparse's add_argument takes


@dataclass(frozen=True)
class Command:
    """What a command is for, the function that is called with what was given, its options, and examples of all."""

    help: str
    run: Callable[[argparse.Namespace], int]
    options: Sequence[Option]
    examples: Sequence[str]


FORMATS = ("text", "csv", "latex", "markdown")
KINDS = ("tailed", "cold", "all")
DATA: Option = (
    "--data",
    {"help": f"synthetic, a released pair ({', '.join(REGISTRY)}), or the YAML file of a pair of logs"},
)
PROTOCOL: Option = ("--protocol", {"help": "released or strict; of logs: chronological or temporal"})
SYSTEM: Option = ("--system", {"help": f"what is trained: {', '.join(SYSTEMS)} (default: i2vae)"})
SEED: Option = ("--seed", {"type": int, "help": "initialisation, shuffling, sampling"})
EPOCHS: Option = ("--epochs", {"type": int, "help": "at most so many; training.epochs"})
WORKERS: Option = (
    "--workers",
    {"type": _positive, "help": "processes on this machine, a thread each (default: its cores)"},
)
SCHEDULER: Option = ("--scheduler", {"help": "tcp://HOST:PORT, tls://… or the scheduler file of your own Dask cluster"})
RESAMPLES: Option = ("--resamples", {"type": int, "default": 10_000, "help": "of the bootstrap (default: 10000)"})
FORMAT: Option = ("--format", {"choices": FORMATS, "default": "text", "help": "of what is printed (default: text)"})
JSON: Option = ("--json", {"action": "store_true", "help": "for programs: JSON instead of text"})


def _set(where: str) -> Option:
    return "--set", {"action": "append", "default": [], "metavar": "KEY=VALUE", "help": f"{where}; repeatable"}


def _of_the_file(option: Option) -> Option:
    """The option with the default that a sweep's or a search's file has."""
    flag, words = option
    return flag, words | {"help": f"{words['help']} (default: the file's)"}


def _preset(default: str) -> Option:
    return "--preset", {"default": default, "help": f"a file in params/, or a path (default: {default})"}


def _parameters(preset: str = "demo") -> tuple[Option, ...]:
    return DATA, PROTOCOL, _preset(preset), _set("e.g. model.d=64")


COMMANDS: dict[str, Command] = {
    "list": Command(
        "What there is: presets, pairs, systems, parameters with defaults and origins, runs.",
        commands.list_known,
        (("what", {"nargs": "*", "help": f"only these of {', '.join(LISTS)} (default: all)"}), JSON),
        ("i2vae list systems", "i2vae list parameters --json"),
    ),
    "run": Command(
        "Data, audit, pseudo-sequences, training, evaluation, report.",
        commands.run,
        (
            *_parameters(),
            SYSTEM,
            SEED,
            EPOCHS,
            (
                "--out",
                {"help": "run directory, resumed if unfinished (default: runs/DATA-PROTOCOL-PRESET-seedN[+KEY=VALUE])"},
            ),
            ("--no-notebooks", {"action": "store_true", "help": "leave the executed notebooks out"}),
            ("--no-report", {"action": "store_true", "help": "leave report.html out"}),
            ("--only-train", {"action": "store_true", "help": "stop before a test row is looked at (tuning)"}),
        ),
        (
            "i2vae run --no-notebooks --no-report",
            "i2vae run --data cloth_sport --protocol strict --preset paper --seed 0 --epochs 20 --out runs/a",
            "i2vae run --preset smoke --system multivae-m --set multivae.hidden=64 --set model.d=32 --only-train",
        ),
    ),
    "recommend": Command(
        "Recommend from a finished run, in people's own ids.",
        commands.recommend,
        (
            ("run", {"type": Path, "help": "the run's directory"}),
            ("--user", {"nargs": "+", "metavar": "ID", "help": "users of the data, whose histories are known"}),
            ("--users", {"type": Path, "help": "file of them: an id a line, or Parquet with a column user"}),
            (
                "--history",
                {"nargs": "*", "default": [], "metavar": "DOMAIN=ID,ID", "help": "anybody's, oldest first"},
            ),
            ("--histories", {"type": Path, "help": "Parquet with a column a domain: a list of ids a user"}),
            ("--domain", {"required": True, "help": "where to recommend: its name, or x or y"}),
            ("--k", {"type": int, "default": 10, "help": "how many items (default: 10)"}),
            ("--exclude", {"nargs": "+", "metavar": "ID", "help": "items that nobody gets"}),
            ("--only", {"nargs": "+", "metavar": "ID", "help": "the only items that anybody gets"}),
            (
                "--unknown",
                {"choices": ("error", "drop"), "default": "error", "help": "what becomes of unknown ids (error)"},
            ),
            ("--out", {"type": Path, "help": "Parquet file for user, item, score, rank; printed without it"}),
            JSON,
        ),
        (
            "i2vae recommend runs/a --history x=x20,s3 y=y40 --domain y --k 5",
            "i2vae recommend runs/a --histories people.parquet --domain x --unknown drop --json",
            "i2vae recommend runs/a --user u17 u20 --domain South --exclude y40 y41",
            "i2vae recommend runs/a --users users.txt --domain South --only y1 y2 y3 --out recommended.parquet",
        ),
    ),
    "audit": Command(
        "The leak audit of data under a protocol, or of a run; exit status 1 on a leak.",
        commands.audit_data,
        (
            *_parameters(),
            SYSTEM,
            ("--run", {"type": Path, "help": "a run directory: also what its generator and its model learnt from"}),
            FORMAT,
            JSON,
        ),
        (
            "i2vae audit --data cloth_sport --protocol released --json",
            "i2vae audit --data cloth_sport --format latex",
            "i2vae audit --preset smoke --system i2vae --set synthetic.users=600",
            "i2vae audit --run runs/a",
        ),
    ),
    "describe": Command(
        "What two logs hold, what is suspicious, and the pair file that reads them.",
        commands.describe,
        (
            ("x", {"type": Path, "help": "log of one domain: CSV, JSON lines or Parquet"}),
            ("y", {"type": Path, "nargs": "?", "help": "log of the other; none: one file, a column tells the domain"}),
            ("--out", {"type": Path, "help": "where the proposed pair file goes: beside the logs, say"}),
        ),
        ("i2vae describe Food.csv.gz Kitchen.csv.gz --out food_kitchen.yaml",),
    ),
    "compare": Command(
        "Runs side by side: the rows that matter, differences with intervals, significance.",
        study_commands.compare_runs,
        (
            ("runs", {"type": Path, "nargs": "+", "metavar": "RUN", "help": "run directories"}),
            ("--candidates", {"choices": ("sampled", "full"), "help": "default: sampled; --table has both"}),
            RESAMPLES,
            ("--base", {"help": "what others are compared with (default: the first run's; --table: i2vae)"}),
            ("--table", {"choices": ("paper",), "help": "the paper's table; RUN may be a folder of `i2vae table`"}),
            (
                "--all",
                {"action": "store_true", "help": "every kind of row, every metric and cell"},
            ),
            FORMAT,
            ("--systems", {"nargs": "+", "metavar": "SYSTEM", "help": "of --table: only these"}),
            ("--kinds", {"nargs": "+", "choices": KINDS, "help": "of --table: only these"}),
            JSON,
        ),
        (
            "i2vae compare runs/a runs/b",
            "i2vae compare runs/a runs/b --base popularity --candidates full --resamples 2000 --json",
            "i2vae compare runs/a runs/b --all --format csv",
            "i2vae compare runs/table --table paper --format latex --systems i2vae popularity --kinds cold all",
        ),
    ),
    "table": Command(
        "All systems, tuned alike, trained and measured; then the paper's table.",
        study_commands.make_table,
        (
            *_parameters("paper"),
            EPOCHS,
            ("--systems", {"nargs": "+", "metavar": "SYSTEM", "help": "default: all"}),
            ("--kinds", {"nargs": "+", "choices": KINDS, "help": "user types to print (default: all)"}),
            ("--seeds", {"nargs": "+", "type": int, "default": [0], "help": "default: 0"}),
            ("--trials", {"type": int, "help": "how many of each system's points are tried (default: all)"}),
            ("--tuning", {"type": Path, "help": "another file of the form of params/tuning.yaml"}),
            ("--workers", {"type": _positive, "default": 1, "help": "systems at a time (default: 1)"}),
            ("--out", {"type": Path, "help": "folder of all runs (default: runs/table-DATA-PROTOCOL-PRESET)"}),
            RESAMPLES,
            FORMAT,
            JSON,
        ),
        (
            "i2vae table --data cloth_sport --protocol strict --epochs 20 --workers 2 --out runs/table",
            "i2vae table --preset smoke --systems i2vae multivae-m --seeds 0 1 2 --trials 1 --set model.d=32 --json",
            "i2vae table --tuning mine.yaml --kinds cold all --format markdown --resamples 2000",
        ),
    ),
    "sweep": Command(
        "Every cell of a grid that is not there yet; then the table of what is.",
        study_commands.sweep,
        (
            ("file", {"help": "a file in params/sweeps/, or a path"}),
            ("--preset", {"help": "of the cells, as are --data, --protocol, --epochs and --set (default: the file's)"}),
            *map(_of_the_file, (DATA, PROTOCOL, EPOCHS)),
            _set("in every cell"),
            ("--seeds", {"type": int, "nargs": "+", "help": "of every cell (default: the file's)"}),
            ("--out", {"type": Path, "help": "folder of the cells (default: runs/sweep-FILE-DATA-PROTOCOL)"}),
            WORKERS,
            SCHEDULER,
            ("--dashboard", {"action": "store_true", "help": "say where the scheduler's page is"}),
            ("--dry-run", {"action": "store_true", "help": "only the plan: cells, hours, memory"}),
            ("--retry-failed", {"action": "store_true", "help": "run cells that failed before once more"}),
            FORMAT,
        ),
        (
            "i2vae sweep sensitivity --preset smoke --data synthetic --protocol strict --dry-run",
            "i2vae sweep robustness --epochs 5 --seeds 0 1 --set model.d=32 --workers 2 --dashboard --out runs/robust",
            "i2vae sweep paper_grid --scheduler tcp://127.0.0.1:8786 --retry-failed --format markdown",
        ),
    ),
    "search": Command(
        "Settings that validation NDCG@10 likes; no test row is looked at.",
        study_commands.search_for,
        (
            ("file", {"help": "a file in params/searches/, or a path"}),
            ("--preset", {"help": "what trials start from, as are --data, --protocol, --seed, --epochs"}),
            *map(_of_the_file, (DATA, PROTOCOL, SEED, EPOCHS)),
            ("--trials", {"type": int, "default": 20, "help": "in all, those of earlier calls included (default: 20)"}),
            ("--out", {"type": Path, "help": "folder of the trials (default: runs/search-FILE)"}),
            WORKERS,
            SCHEDULER,
        ),
        (
            "i2vae search tuned --preset smoke --data synthetic --protocol strict --seed 0 --epochs 3 --trials 5",
            "i2vae search tuned --out runs/search --workers 2",
            "i2vae search tuned --scheduler scheduler.json",
        ),
    ),
    "cache": Command(
        "What is kept to be done once (datasets, fits, ranks, downloads): how large it is, and away with it.",
        commands.show_cache,
        (("--clear", {"action": "store_true", "help": "remove it; what is needed again is made again"}), JSON),
        ("i2vae cache", "i2vae cache --clear --json"),
    ),
    "notebooks": Command(
        "Copy the notebooks that come with the kit into a folder, to be opened in JupyterLab.",
        commands.copy_notebooks,
        (("folder", {"type": Path, "metavar": "DIR", "help": "made if it is not there; no file in it is replaced"}),),
        ("i2vae notebooks lessons",),
    ),
    "fetch": Command(
        "Download a released pair and check it, or build the Food and Kitchen logs anew.",
        commands.fetch,
        (
            ("name", {"help": ", ".join([*REGISTRY, FOOD_KITCHEN])}),
            ("--out", {"type": Path, "help": f"where {FOOD_KITCHEN} is built (default: data)"}),
        ),
        ("i2vae fetch cloth_sport", f"i2vae fetch {FOOD_KITCHEN} --out data"),
    ),
    "report": Command(
        "Write report.html of a finished run anew.",
        commands.make_report,
        (("run", {"type": Path, "help": "the run's directory"}),),
        ("i2vae report runs/a",),
    ),
    "export": Command(
        "A trained model as a folder for others, with a model card; or a split with its candidates, as Parquet.",
        commands.export_out,
        (
            ("run", {"type": Path, "nargs": "?", "help": "the run's directory"}),
            ("--split", {"metavar": "DATA", "help": "not a run but rows and frozen candidates of DATA"}),
            PROTOCOL,
            _preset("paper"),
            _set("of the split, e.g. evaluation.negatives=99"),
            ("--out", {"type": Path, "required": True, "help": "the new folder"}),
            ("--with-users", {"action": "store_true", "help": "training users' ids and histories too"}),
            (
                "--licence",
                {"default": "", "help": "of the data, for the card (default: what the pair file says)"},
            ),
        ),
        (
            "i2vae export runs/a --out model --licence 'MovieTweetings, MIT'",
            "i2vae export runs/a --out model-of-our-own --with-users",
            "i2vae export --split params/pairs/films.yaml --protocol temporal --out split",
            "i2vae export --split synthetic --preset smoke --set evaluation.negatives=50 --out split",
        ),
    ),
    "completion": Command(
        "A script that completes commands and options in a shell.",
        commands.print_completion,
        (("shell", {"choices": ("bash", "zsh", "tcsh"), "help": "whose"}),),
        ("i2vae completion bash",),
    ),
    "explore": Command(
        "A page of explorers on this machine: runs and sweeps taken apart, without Jupyter.",
        commands.explore,
        (
            ("folders", {"type": Path, "nargs": "+", "metavar": "FOLDER", "help": "runs, folders of sweeps"}),
            ("--port", {"type": _port, "default": 8866, "help": "where it is served (default: 8866)"}),
            ("--no-browser", {"action": "store_true", "help": "open none"}),
        ),
        ("i2vae explore runs/a runs/b --port 9000 --no-browser",),
    ),
}
