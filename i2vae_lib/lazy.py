"""Deferred imports: names of a package until they are used (PEP 562), libraries that only some commands need."""

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

_MODULES = {"scikit-learn": "sklearn", "umap-learn": "umap"}  # name to install -> name to import


class MissingLibrary(ImportError):
    """An optional library is not installed; the message says which one, and how to get it."""


def require(work: str, *libraries: str) -> None:
    """Refuse work unless all its libraries are installed (extras in ``pyproject.toml``). Imports none of them.

    Raises
    ------
    MissingLibrary
    """
    missing = [name for name in libraries if importlib.util.find_spec(_MODULES.get(name, name)) is None]
    if missing:
        raise MissingLibrary(f"{work} needs {', '.join(missing)}: pip install {' '.join(missing)}")


def lazy_names(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package.

    Parameters
    ----------
    package
        ``__name__`` of the package.
    modules
        Public name -> full name of its module. Submodules need no entry.
    """

    def __getattr__(name: str) -> Any:
        if name in modules:
            return getattr(importlib.import_module(modules[name]), name)
        module = f"{package}.{name}"
        try:
            if not name.startswith("_"):
                return importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name != module:  # the module exists, but something that it imports does not
                raise
        raise AttributeError(f"module '{package}' has no attribute '{name}'")

    return __getattr__
