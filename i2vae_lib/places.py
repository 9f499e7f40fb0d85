"""Folders of the kit's files, names of presets, words for messages. Imports nothing slow."""

import codecs
import difflib
import os
import re
from pathlib import Path


def preset_folder() -> Path:
    """Folder of the preset files: inside an installed wheel, else beside the package in a checkout."""
    inside = Path(__file__).parent / "presets"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "params"


def notebooks_folder() -> Path:
    """Folder of the notebooks: inside an installed wheel, else beside the package in a checkout."""
    inside = Path(__file__).parent / "lessons"
    return inside if inside.is_dir() else Path(__file__).parent.parent / "notebooks"


def preset_names() -> list[str]:
    """The names of the presets (``tuning.yaml`` beside them is no preset)."""
    return sorted(path.stem for path in preset_folder().glob("*.yaml") if path.stem != "tuning")


def runs_folder() -> Path:
    """Default folder of runs: ``I2VAE_RUNS_DIR``, else ``runs`` in the current checkout or the working directory.

    The checkout is the nearest folder, from the working directory up, that holds ``notebooks/`` and ``params/``. So
    JupyterLab, which works in ``notebooks/``, and papermill and ``make``, which work above it, find the same runs.
    """
    if folder := os.environ.get("I2VAE_RUNS_DIR"):
        return Path(folder)
    here = Path.cwd()
    checkouts = (at for at in (here, *here.parents) if (at / "notebooks").is_dir() and (at / "params").is_dir())
    checkout = next(checkouts, here)
    return Path("runs") if checkout == here else checkout / "runs"


def shortened(text: str) -> str:
    """A text for a message: its first 100 characters and ``…`` where there are more."""
    return text if len(text) <= 100 else f"{text[:100]}…"


def quoted(value: object) -> str:
    """A value for a message, :func:`shortened`."""
    return shortened(repr(value))


def not_utf8(content: bytes = b"") -> str:
    """What to say of a file that is not UTF-8 text."""
    encoding = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "latin1"
    guessed = ", if it is latin1: nothing in it tells, and a wrong guess changes letters" * (encoding == "latin1")
    return f"not UTF-8 text; convert it, e.g. `iconv -f {encoding} -t utf-8`{guessed}"


# of terminals, lines, writing direction; not the joiners U+200C and U+200D, without which some words are misspelt
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def brief(message: str) -> str:
    """A message without the middle of its long words (a path keeps its end), nor its own: values may be of any length.

    What is wrong and where stands first, what would be right last. Control characters are escaped: ``\\x1b``.
    """
    message = CONTROL.sub(lambda one: one[0] if one[0] in "\n\t" else ascii(one[0])[1:-1], message)
    words = re.sub(r"\S{501,}", lambda word: f"{word[0][:300]}…{word[0][-100:]}", message)
    return words if len(words) <= 1_500 else f"{words[:1_000]} … {words[-400:]}"


class Refusal(ValueError):
    """Something given that the kit does not accept; what is said of it is :func:`brief`."""

    def __init__(self, message: str = ""):
        super().__init__(brief(message))


def suggestion(word: str, known: list[str]) -> str:
    """``"; did you mean 'x'?"`` for the nearest known word, else the list of known words."""
    near = difflib.get_close_matches(shortened(word), known, n=1, cutoff=0.5)
    return f"; did you mean '{near[0]}'?" if near else f"; known: {', '.join(known) or 'none'}"
