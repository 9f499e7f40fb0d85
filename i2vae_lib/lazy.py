"""Imports that wait: names of a package until they are used (PEP 562), libraries that only some commands need."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

_MODULES = {"scikit-learn": "sklearn", "umap-learn": "umap"}  # of libraries that are installed under another name


class MissingLibrary(ImportError):
    """A library that only this work needs is not installed; the message says which, and how to get it."""


def require(work: str, *libraries: str) -> None:
    """Refuse work whose libraries are not all installed (extras in ``pyproject.toml``). Imports none of them.

    Raises
    ------
    MissingLibrary
    """
    missing = [one for one in libraries if importlib.util.find_spec(_MODULES.get(one, one)) is None]
    if missing:
        raise MissingLibrary(f"{work} needs {', '.join(missing)}: pip install {' '.join(missing)}")


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
