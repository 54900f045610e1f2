"""An entry of the verb table. Cheap to import: the table is built before anybody knows what is wanted."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["Verb"]


@dataclass(frozen=True)
class Verb:
    """An entry of the verb table.

    Attributes:
        target: "module:function" that is called; imported only when the verb is used.
        summary: one line for `counterpoint --help`.
        places: parameters that are given by their place, in this order.
        many: the one of them that takes any number of words.
        system: the first place names a system, whose constructor arguments become options.
        training: training settings become options.
        show: function of `counterpoint.command.printing` that prints the result.
        json: `--json` prints the result for machines.
    """

    target: str
    summary: str
    places: tuple[str, ...] = ()
    many: str | None = None
    system: bool = False
    training: bool = False
    show: str = "show_value"
    json: bool = False

    def load(self) -> Callable[..., Any]:
        """The library function."""
        module, _, name = self.target.partition(":")
        return getattr(importlib.import_module(module), name)
