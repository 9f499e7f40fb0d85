"""The kit's only YAML reader: plain values, no duplicate keys, no larger or deeper than a person would write."""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from pydantic import BaseModel

_DEEPEST = 30  # levels of nested lists and mappings

MOST_VALUES = 100_000  # aliases (`*name`) count as the values that they stand for: ten lines of them can make 10^10


# what stands for a number, by the kind that YAML takes it for
_PLAIN = {
    "int": "[-+]?(0|[1-9][0-9]*)",
    "float": r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
}


class _Loader(yaml.SafeLoader):
    """Refuses duplicate keys, of which PyYAML would silently take the last, and numbers that are not what they say."""

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


def _number(loader: _Loader, node: yaml.ScalarNode) -> int | float:
    """A number in plain digits: YAML 1.1 has others, so that 010 is 8, 1:30 is 90 and 1_0 is 10."""
    kind = node.tag.rsplit(":", 1)[-1]
    number = loader.construct_yaml_int(node) if kind == "int" else loader.construct_yaml_float(node)
    if re.fullmatch(_PLAIN[kind], node.value):
        return number
    problem = (
        f"{node.value} would be read as {number}: write that in plain digits, or '{node.value}' in quotes for text"
    )
    raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


for _kind in _PLAIN:
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _number)


_LONGEST = 1_000_000  # characters, comments among them, which cost the parser as much time as values


def parse(text: str) -> Any:
    """The content of a YAML text.

    Raises
    ------
    yaml.YAMLError
        Malformed, too deep, too large, with a duplicate key or a number that reads otherwise than it looks; gives line
        and column.
    """
    if len(text) > _LONGEST:
        raise yaml.YAMLError(f"{len(text):,} characters, where {_LONGEST:,} are the most: is it the right file?")
    _measure(text)
    try:
        return yaml.load(text, _Loader)  # noqa: S506  # a yaml.SafeLoader
    except (ValueError, TypeError, OverflowError) as error:  # a date of month 13, a number of 5,000 digits
        raise yaml.YAMLError(f"a value that cannot be read: {error}") from None


def _measure(text: str) -> None:
    """Check depth and size on the parser's events, which need no memory, before any value is built."""
    sizes: dict[str | None, int] = {}
    inside: list[tuple[str | None, int]] = []  # anchor of each open part, and the number of values before it
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


_WANTED = {
    "path_type": "Input should be the path of one file",
    "tuple_type": "Input should be a list",
    "list_type": "Input should be a list",
    "dict_type": "Input should be a mapping of names to values",
    "string_type": "Input should be text",
    "bool_type": "Input should be true or false",
    "bool_parsing": "Input should be true or false",
    "string_pattern_mismatch": "Input should be of letters, digits and _ . - alone",
    "missing": "missing",
    "extra_forbidden": "unknown name",
}


def wanted(error: Mapping[str, Any], parts: type[BaseModel]) -> str:
    """What pydantic wants of a value, in a file's words and not in those of Python's classes.

    ``parts`` is the class that those of the file's parts inherit from.
    """
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    if error["type"] == "model_type":
        names = {one.__name__: one.model_fields for one in parts.__subclasses__()}
        return f"Input should be a mapping with {', '.join(names.get(error['ctx']['class_name'], ('names',)))}"
    return _WANTED.get(error["type"], error["msg"])
