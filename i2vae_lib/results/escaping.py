"""Names from users' files, escaped for a document: nothing in them may act as markup or as a command."""

import html
import re

from i2vae_lib.places import CONTROL

_LATEX = str.maketrans(
    {one: f"\\{one}" for one in "&%$#_{}"}
    | {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"}
)
_MARKDOWN = re.compile(r"[\\`*\[\]<|]|(?<![a-z0-9])_|_(?![a-z0-9])", re.IGNORECASE)


def escaped(name: str, style: str) -> str:
    """A name for a document of this style. Control characters, which could end a line, become blanks."""
    name = CONTROL.sub(" ", name)
    if style == "html":
        return html.escape(name)
    if style == "latex":
        return name.translate(_LATEX)
    return _MARKDOWN.sub(r"\\\g<0>", name) if style == "markdown" else name
