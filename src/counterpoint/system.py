"""The interface every paper is written against: System, Term, Stage, Estimator, and the registry that finds them."""

from __future__ import annotations

import importlib
import math
import pkgutil
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from counterpoint.stage import Clock, Stage, Term

if TYPE_CHECKING:
    import numpy as np

    from counterpoint.data import Row, Rows

__all__ = [
    "Clock",
    "Estimator",
    "Stage",
    "System",
    "SystemInfo",
    "Term",
    "find_system",
    "list_systems",
    "system_name",
    "with_own_rate",
    "without_decay",
]

Batch = dict[str, Any]
Features = dict[str, Tensor]
View = Callable[["Row", "np.random.Generator"], dict[str, Any]]
"""(row, rng) -> one sample. Picklable; holds settings only, since it travels to loader workers."""
Preprocess = Callable[["Row"], dict[str, Any]]
"""row -> one sample, without randomness."""


class System(nn.Module):
    """A paper as a module. Constructor arguments are its whole configuration.

    A subclass gives `views`, `encode`, `loss` and `embed`; everything else is optional. It never asks how many
    processes there are or how a batch was cut: `encode` sees some rows, `loss` sees the rows of all processes.

    Class attributes:
        paper: "Title (arXiv number)".
        needs: columns a row must have for training.
        couples: rows meet in the loss; False (masked frames, rays) skips the gather.
        modality: what the system is listed under.
    """

    paper: ClassVar[str] = ""
    needs: ClassVar[tuple[str, ...]] = ("image",)
    couples: ClassVar[bool] = True
    modality: ClassVar[str] = "image"

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()

    def views(self) -> View:
        """What turns a row into the views that are contrasted."""
        raise NotImplementedError(f"{type(self).__name__} defines no views(): it cannot be trained")

    def preprocess(self) -> Preprocess:
        """The inference counterpart of `views`: row -> sample, no randomness."""
        raise NotImplementedError(f"{type(self).__name__} defines no preprocess(): it cannot embed rows")

    def collate(self, samples: Sequence[Mapping[str, Any]]) -> Batch:
        """Samples -> batch. Tensors are stacked; override for padding, mixup, span masks. Runs in loader workers."""
        return default_collate(list(samples))

    def encode(self, batch: Batch) -> Features:
        """Each row by itself; every returned tensor has the batch as its first dimension."""
        raise NotImplementedError(f"{type(self).__name__} defines no encode()")

    def loss(self, features: Features) -> dict[str, Tensor | Term]:
        """Named terms from the rows of all processes. A plain tensor is a mean with weight 1."""
        raise NotImplementedError(f"{type(self).__name__} defines no loss()")

    def after_step(self, features: Features) -> None:
        """Training only, after the optimiser: queue, momentum encoder, prototypes. `features` are detached."""

    def before_step(self) -> None:
        """Training only, before `encode`: in-place changes of weights that a paper makes first."""

    def embed(self, batch: Batch) -> Tensor | dict[str, Tensor]:
        """A preprocessed batch -> (B, D), or space -> (B, D). Rows are not normalised unless the paper says so."""
        raise NotImplementedError(f"{type(self).__name__} defines no embed()")

    def pair(self, features: Features) -> tuple[Tensor, Tensor] | None:
        """Two (N, D) tensors whose rows are positives of each other, for the health line; None when there are none."""
        return None

    def pair_temperature(self) -> float | None:
        """Temperature at which the loss contrasts `pair` with the other rows; None when it does no such thing."""
        return None

    def prepare(self, rows: Rows) -> dict[str, Any]:
        """Facts about the data, found once before step 0 and stored with the run: JSON values and tensors by name."""
        return {}

    def use(self, facts: Mapping[str, Any]) -> None:
        """Take the facts that `prepare` found, on a fresh run and again on `load`."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Groups with `params` and optionally `scale` (of the learning rate) and `weight_decay`.

        Default: biases, norms and other parameters with fewer than two dimensions have no weight decay.
        """
        decayed: list[nn.Parameter] = []
        plain: list[nn.Parameter] = []
        for parameter in self.parameters():
            if parameter.requires_grad:
                (decayed if parameter.dim() > 1 else plain).append(parameter)
        groups: list[dict[str, Any]] = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
        return [group for group in groups if group["params"]]

    def stages(self) -> list[Stage]:
        """Phases in order; a pure function of the configuration."""
        return [Stage()]

    def score(self, queries: Tensor, keys: Tensor) -> Tensor:
        """(Q, D), (K, D) -> (Q, K) similarity, larger is nearer. Cosine by default."""
        queries = nn.functional.normalize(queries.float(), dim=-1)
        return queries @ nn.functional.normalize(keys.float(), dim=-1).T

    def guess_level(self, rows: int) -> float:
        """Loss of a guesser over `rows` candidates: ln(rows)."""
        return math.log(max(rows, 1))

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        for tensor in (*self.parameters(), *self.buffers()):
            return tensor.device
        return torch.device("cpu")


class Estimator:
    """A training-free system, used like scikit-learn's: `fit` once on features, fitted attributes end in `_`.

    Subclasses keep every setting as an attribute named like its constructor argument, and every fitted tensor as an
    attribute ending in `_` (saved as safetensors; numbers and strings ending in `_` as JSON).
    """

    paper: ClassVar[str] = ""
    needs: ClassVar[tuple[str, ...]] = ("image", "label")
    modality: ClassVar[str] = "image-text"

    def fit(
        self,
        features: Tensor,
        labels: Tensor | None = None,
        *,
        text_features: Tensor | None = None,
        validation: tuple[Tensor, Tensor] | None = None,
    ) -> Estimator:
        """Estimate from features (N, D), labels (N,) in [0, K), text features (K, D); returns self."""
        raise NotImplementedError

    def predict_proba(self, features: Tensor) -> Tensor:
        """(N, D) -> (N, K), rows sum to one."""
        raise NotImplementedError

    def predict(self, features: Tensor) -> Tensor:
        """(N, D) -> (N,) class indices."""
        return self.predict_proba(features).argmax(dim=1)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Fitted tensors and fitted JSON values, by name."""
        fitted = {k: v for k, v in vars(self).items() if k.endswith("_") and not k.startswith("_")}
        tensors = {k: v for k, v in fitted.items() if isinstance(v, Tensor)}
        return tensors, {k: v for k, v in fitted.items() if k not in tensors}

    def load_state(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Give back what `state` returned."""
        for name, value in {**tensors, **values}.items():
            setattr(self, name, value)


def with_own_rate(
    groups: Iterable[Mapping[str, Any]], parameters: Iterable[Tensor], scale: float
) -> list[dict[str, Any]]:
    """Parameter groups in which some parameters learn at `scale` times the rate, each still with its weight decay."""
    return _with_settings(groups, parameters, {"scale": scale})


def without_decay(groups: Iterable[Mapping[str, Any]], parameters: Iterable[Tensor]) -> list[dict[str, Any]]:
    """Parameter groups in which some parameters have no weight decay, each still with its rate."""
    return _with_settings(groups, parameters, {"weight_decay": 0.0})


def _with_settings(
    groups: Iterable[Mapping[str, Any]], parameters: Iterable[Tensor], settings: Mapping[str, Any]
) -> list[dict[str, Any]]:
    chosen = {id(parameter) for parameter in parameters}
    found = []
    for group in groups:
        for own in (False, True):
            part = [parameter for parameter in group["params"] if (id(parameter) in chosen) == own]
            if part:
                found.append({**group, "params": part, **(settings if own else {})})
    return found


@dataclass(frozen=True)
class SystemInfo:
    """A registered system or estimator."""

    name: str
    cls: type[System] | type[Estimator]
    summary: str

    @property
    def trains(self) -> bool:
        """True for systems with a training loop, False for estimators."""
        return issubclass(self.cls, System)


def system_name(cls: type) -> str:
    """Name in the registry: that of the file the class lives in (`counterpoint.systems.swav` -> "swav")."""
    return cls.__module__.rsplit(".", 1)[-1]


def _module_names() -> list[str]:
    names = []
    for package in ("counterpoint.systems", "counterpoint.tasks"):
        module = importlib.import_module(package)
        names += [f"{package}.{found.name}" for found in pkgutil.iter_modules(module.__path__)]
    return [name for name in names if not name.rsplit(".", 1)[-1].startswith("_")]


def _main_class(module: Any) -> type[System] | type[Estimator] | None:
    """The class named like its file, case and underscores aside; else the only one defined there."""
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, (System, Estimator))
        and value.__module__ == module.__name__
        and not value.__name__.startswith("_")
    ]
    wanted = re.sub("_", "", module.__name__.rsplit(".", 1)[-1]).lower()
    named = [cls for cls in found if cls.__name__.lower() == wanted]
    return next(iter(named or found), None)


@cache
def _registry() -> dict[str, SystemInfo]:
    registry = {}
    for module_name in _module_names():
        cls = _main_class(importlib.import_module(module_name))
        if cls is not None:
            summary = (cls.__doc__ or "").strip().split("\n")[0]
            registry[system_name(cls)] = SystemInfo(system_name(cls), cls, summary)
    return dict(sorted(registry.items()))


def list_systems() -> list[SystemInfo]:
    """Every system and estimator found in `counterpoint.systems` and `counterpoint.tasks`, by name."""
    return list(_registry().values())


def find_system(name: str) -> SystemInfo:
    """The registered system called `name`; dashes and case are forgiven.

    Raises:
        ValueError: no such system; names the nearest.
    """
    registry = _registry()
    wanted = name.strip().lower().replace("-", "_")
    if wanted in registry:
        return registry[wanted]
    near: Iterable[str] = get_close_matches(wanted, registry, n=3, cutoff=0.4) or list(registry)
    raise ValueError(f"no system is called {name!r}; nearest: {', '.join(near)} (see `counterpoint systems`)")
