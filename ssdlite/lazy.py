"""Public names of a package, each loaded from its module on first use: importing the package costs nothing."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Collection, Mapping
from typing import Any


def attach(
    package: str, names: Mapping[str, str], packages: Collection[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """``(__getattr__, __dir__, __all__)`` for the ``__init__.py`` of ``package``; ``names`` is name -> full module.

    ``packages`` are packages in it that are loaded as attributes too.

    Type checkers see the same names by ordinary imports, and so find a name that is not among them::

        if TYPE_CHECKING:
            from ssdlite.runtime.model import load_model as load_model
        else:
            __getattr__, __dir__, __all__ = attach(__name__, {"load_model": "ssdlite.runtime.model"})
    """

    def load(name: str) -> Any:
        if name in packages:
            return importlib.import_module(f"{package}.{name}")
        if name not in names:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(names[name]), name)
        setattr(sys.modules[package], name, value)  # found without this function from now on
        return value

    def list_names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *names, *packages})

    return load, list_names, sorted(names)
