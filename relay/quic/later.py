"""Packages that aioquic imports and a daemon never needs: imported when first something of them is used.

Must never live here: a package that the daemon does use.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import Any, Final

UNUSED: Final = (
    "service_identity",
)  # judges the certificates of servers, for clients: an eighth of the start


class _Later(ModuleType):
    """Stands for a package until something of it is asked for."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # the import system looks around
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(import_module(self.__name__), name)


def put_off() -> None:
    """To be called before aioquic is imported; what is imported already stays as it is."""
    for name in UNUSED:
        sys.modules.setdefault(name, _Later(name))
