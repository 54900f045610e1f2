"""counterpoint: contrastive representation learning for every modality.

Names are imported on first use: `import counterpoint` loads neither torch nor anything else that is heavy.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from counterpoint.claims import reproduce as reproduce
    from counterpoint.data import BadRow as BadRow
    from counterpoint.data import DataError as DataError
    from counterpoint.data import Rows as Rows
    from counterpoint.data import open_rows as open_rows
    from counterpoint.evaluation.evaluate import evaluate as evaluate
    from counterpoint.export.export import export as export
    from counterpoint.index.search import search as search
    from counterpoint.index.table import embed as embed
    from counterpoint.predict.predict import predict as predict
    from counterpoint.quickstart import quickstart as quickstart
    from counterpoint.reporting.report import report as report
    from counterpoint.run import Run as Run
    from counterpoint.run import load as load
    from counterpoint.system import Clock as Clock
    from counterpoint.system import Estimator as Estimator
    from counterpoint.system import Stage as Stage
    from counterpoint.system import System as System
    from counterpoint.system import Term as Term
    from counterpoint.system import list_systems as list_systems
    from counterpoint.training.doctor import doctor as doctor
    from counterpoint.training.fit import fit as fit
    from counterpoint.training.train import train as train

__version__ = "0.1.0"

_HOME = {
    "BadRow": "counterpoint.data",
    "Clock": "counterpoint.system",
    "DataError": "counterpoint.data",
    "Estimator": "counterpoint.system",
    "Rows": "counterpoint.data",
    "Run": "counterpoint.run",
    "Stage": "counterpoint.system",
    "System": "counterpoint.system",
    "Term": "counterpoint.system",
    "doctor": "counterpoint.training.doctor",
    "embed": "counterpoint.index.table",
    "evaluate": "counterpoint.evaluation.evaluate",
    "export": "counterpoint.export.export",
    "fit": "counterpoint.training.fit",
    "list_systems": "counterpoint.system",
    "load": "counterpoint.run",
    "open_rows": "counterpoint.data",
    "predict": "counterpoint.predict.predict",
    "quickstart": "counterpoint.quickstart",
    "report": "counterpoint.reporting.report",
    "reproduce": "counterpoint.claims",
    "search": "counterpoint.index.search",
    "train": "counterpoint.training.train",
}
"""Public name -> module that defines it."""

__all__ = [*_HOME, "__version__"]  # noqa: PLE0604


class _Package(ModuleType):
    """Keeps `counterpoint.export` the function: importing the submodule of the same name does not hide it."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    """A public name, imported from its home."""
    if name not in _HOME:
        raise AttributeError(f"module 'counterpoint' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names, imported or not, and the submodules that have been imported."""
    return sorted({*globals(), *__all__})
