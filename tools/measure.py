"""How large the library is: lines of code without blanks, comments and docstrings, and what is over the limits.

python tools/measure.py
"""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path

LIBRARY = Path(__file__).parent.parent / "i2vae_lib"
OUTSIDE = ("experiments", "results", "disentanglement", "figures", "report", "explorers", "api", "cli", "commands")
OUTSIDE += ("notebooks", "__main__")
LARGEST_MODULE, LONGEST_FUNCTION, MOST_PARAMETERS = 350, 50, 8
EXCEPTIONS = {
    "api.py: fit": "a facade's keywords, all but the logs optional: each is a choice that people make by its name"
}


def code_lines(text: str) -> set[int]:
    """Numbers of the lines that hold code."""
    lines: set[int] = set()
    skipped = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in skipped:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            first = node.body[0]
            lines.difference_update(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    return lines


def functions(text: str, lines: set[int]) -> Iterator[tuple[str, int, int]]:
    """Name, lines of code and parameters of every function."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            parameters = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
            count = sum(one.arg not in ("self", "cls") for one in parameters)
            yield node.name, len(lines & set(range(node.lineno, (node.end_lineno or 0) + 1))), count


def main() -> None:
    sizes, public = {}, 0
    for path in sorted(LIBRARY.rglob("*.py")):
        text, name = path.read_text(encoding="utf-8"), path.relative_to(LIBRARY).as_posix()
        lines = code_lines(text)
        sizes[name] = len(lines)
        body = ast.parse(text).body
        public += sum(isinstance(one, ast.FunctionDef | ast.ClassDef) and one.name[0] != "_" for one in body)
        if len(lines) > LARGEST_MODULE:
            print(f"module of more than {LARGEST_MODULE} lines: {name} {len(lines)}")
        for function, length, parameters in functions(text, lines):
            if length > LONGEST_FUNCTION or parameters > MOST_PARAMETERS:
                print(f"{name}: {function} has {length} lines and {parameters} parameters")
                if reason := EXCEPTIONS.get(f"{name}: {function}"):
                    print(f"    {reason}")
    outer = [
        name
        for name in sizes
        if name.split("/")[0].removesuffix(".py") in OUTSIDE
        or name.startswith(("data/logs/", "recommenders/systems/", "recommenders/references/"))
    ]
    whole = sum(sizes.values())
    print(f"{len(sizes)} modules, {whole:,} lines of code, core {whole - sum(sizes[one] for one in outer):,}")
    print(f"{public} public functions and classes")


if __name__ == "__main__":
    main()
