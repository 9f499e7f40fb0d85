"""Packages whose names are imported when they are first used (PEP 562), so that importing a package costs nothing."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def lazy_names(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package.

    Parameters
    ----------
    package
        ``__name__`` of the package.
    modules
        Each public name, and the full name of the module that has it. Submodules need no line.
    """

    def __getattr__(name: str) -> Any:
        if name in modules:
            return getattr(importlib.import_module(modules[name]), name)
        module = f"{package}.{name}"
        try:
            if not name.startswith("_"):
                return importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name != module:  # the module is there; what it needs is not
                raise
        raise AttributeError(f"module '{package}' has no attribute '{name}'")

    return __getattr__
