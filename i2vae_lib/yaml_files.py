"""The one reader of YAML: plain values, every key once, of a size and depth that a person writes."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import yaml

_DEEPEST = 30
"""Lists and mappings in each other."""

MOST_VALUES = 100_000
"""Aliases (``*name``) counted as what they stand for: ten lines of them can name 10^10 values."""


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice, of which the last would count in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[str, yaml.Node] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        f"'{key.value}' stands here", seen[key.value].start_mark, "and again", key.start_mark
                    )
                seen[key.value] = key
        return super().construct_mapping(node, deep)


def parse(text: str) -> Any:
    """What YAML says.

    Raises
    ------
    yaml.YAMLError
        Malformed, too deep, too large, or a key that stands twice: with line and column.
    """
    _measure(text)
    try:
        return yaml.load(text, _Loader)  # noqa: S506  # a yaml.SafeLoader
    except (ValueError, TypeError, OverflowError) as error:  # a date of month 13, a number of 5,000 digits
        raise yaml.YAMLError(f"a value that cannot be read: {error}") from None


def _measure(text: str) -> None:
    """Look at the events, which takes no memory, before anything is built of them."""
    sizes: dict[str | None, int] = {}
    inside: list[tuple[str | None, int]] = []  # anchor of each open part, and how many values stood before it
    count = 0
    for event in yaml.parse(text, _Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            inside.append((event.anchor, count))
            if len(inside) > _DEEPEST:
                raise _at(event, f"nested too deeply: more than {_DEEPEST} levels")
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = inside.pop()
            sizes[anchor] = count - before
        elif isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in inside):
                raise _at(event, f"*{event.anchor} holds itself")
            count += sizes.get(event.anchor, 0)
        count += 1
        if count > MOST_VALUES:
            raise _at(event, f"more than {MOST_VALUES:,} values, aliases counted as what they stand for")


def _at(event: Any, problem: str) -> yaml.YAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
