"""`fit`: a frozen encoder and a training-free estimator, joined into a classifier in seconds."""

from __future__ import annotations

import inspect
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from counterpoint import storage
from counterpoint.construction import check_names, complete, construct, merged
from counterpoint.data import Rows
from counterpoint.encoders import assets
from counterpoint.encoders.clip import ClipEncoder
from counterpoint.evaluation.zero_shot import TEMPLATES
from counterpoint.fitted import FittedClassifier
from counterpoint.run import Run, finish_run, write_config
from counterpoint.system import Estimator, find_system
from counterpoint.training.devices import pick_device
from counterpoint.training.features import FeatureReader, text_features
from counterpoint.training.randomness import derive, seed_everything
from counterpoint.training.recipe import Recipe, choose_recipe
from counterpoint.training.sources import Data, check_out, describe_data, open_data

__all__ = ["fit"]


def fit(
    estimator: str | Estimator,
    data: Data = None,
    *,
    out: str | Path,
    model: str | None = None,
    recipe: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    shots: int | None = None,
    validation: Data = None,
    augmentations: int | None = None,
    templates: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    columns: Mapping[str, str] | None = None,
    seed: int = 0,
    batch: int = 64,
    workers: int = 0,
    device: str = "auto",
    max_skip_rate: float = 0.10,
    quiet: bool = False,
) -> Run:
    """Fit a training-free classifier on the features of a frozen image-text model.

    Args:
        estimator: name of a registered estimator, or an instance.
        data: labelled pictures (a folder with class folders, a table ...); pictures without labels need `classes`.
        out: the run directory; must not hold another run.
        model: what `ClipEncoder` takes: "open_clip:ARCH/TAG", "hf:ORG/NAME", "fixture:vit", "run:PATH" ...
        recipe: values for what is not given here; only read when it is named, or when `data` or `model` is missing.
        arguments: of the estimator's constructor.
        shots: pictures a class, drawn with `seed`; all by default.
        validation: labelled pictures for choosing settings; without them the estimator splits the data.
        augmentations: passes over the pictures with random crops (50-100 % of the area) and flips, 10 by default;
            0 takes each once, as it is.
        templates: prompts with {} for the class name.
        classes: class names, when the data do not name their classes.
        columns: renames columns, new name -> name in the data.
        seed: of shots and crops.
        batch: pictures encoded at once.
        workers: processes that load pictures.
        device: "auto", "cpu", "cuda" ...
        max_skip_rate: share of unusable pictures above which fitting is given up.
        quiet: print nothing.

    Returns:
        The run; `counterpoint.load` gives the classifier back.

    Raises:
        ValueError: an unknown name, no labels and no classes, a missing column, `out` taken.
        counterpoint.data.DataError: the data cannot be used.
    """
    began = time.perf_counter()
    path = Path(out)
    check_out(path, resume=False)
    given = {"model": model, "shots": shots, "validation": validation, "augmentations": augmentations}
    base, plan = _plan(estimator, data, recipe, {**given, "templates": templates, "classes": classes}, quiet)
    data = base.data if data is None else data
    columns = {**base.columns, **(columns or {})}
    chosen, described = _estimator(estimator, merged(base.system, arguments or {}))
    rows = _check(open_data(data, columns), plan.model)
    rows = _draw_shots(rows, plan.shots, seed) if "label" in rows.columns and plan.shots else rows
    seed_everything(seed, "weights")
    encoder = ClipEncoder(plan.model, trainable="none").to(pick_device(device)).eval()
    reader = FeatureReader(encoder, batch=batch, workers=workers, seed=seed, max_skip_rate=max_skip_rate)
    names = list(plan.classes) if plan.classes is not None else rows.class_names
    skipped = _fit_on(chosen, reader, rows, plan, names, columns)
    config = {
        "kind": "fit",
        "system": described,
        "encoder": plan.model,
        "class_names": names,
        "fitting": {**plan.described(), "seed": seed},
        "data": describe_data(data, rows),
        "columns": dict(columns),
        "rows": {"count": len(rows), "fingerprint": rows.fingerprint},
    }
    seconds = time.perf_counter() - began
    result = {"seconds": seconds, "rows_read": len(rows), "skipped": [list(item) for item in skipped]}
    run = _write(path, FittedClassifier(encoder, chosen, names), config, result)
    if not quiet:
        print(f"{path}: {described['name']} fitted on {len(rows)} rows in {seconds:.1f} s", file=sys.stderr)
    return run


def _fit_on(
    estimator: Estimator,
    reader: FeatureReader,
    rows: Rows,
    plan: _Plan,
    names: Sequence[str] | None,
    columns: Mapping[str, str],
) -> list[tuple[str, str]]:
    """Features of everything, then `estimator.fit`; returns the rows that could not be used."""
    labelled = "label" in rows.columns
    if not labelled and not names:
        raise ValueError(f"{rows.name} has no labels: give `classes`, the names of the classes, to go without")
    support = reader.read(rows, plan.augmentations)
    if names and int(support.labels.max()) >= len(names):
        raise ValueError(f"classes names {len(names)} classes, but labels reach {int(support.labels.max())}")
    text = text_features(reader.encoder, names, plan.templates) if names else None
    options: dict[str, Any] = {"text_features": text}
    if plan.validation is not None:
        held_out = reader.read(_check(open_data(plan.validation, columns), plan.model), 0)
        options["validation"] = (held_out.values, held_out.labels)
    if "groups" in inspect.signature(estimator.fit).parameters:
        options["groups"] = support.groups
    estimator.fit(support.values, support.labels if labelled else None, **options)
    return support.skipped


@dataclass(frozen=True)
class _Plan:
    """What is fitted on, the caller's values on top of the recipe's."""

    model: str
    shots: int | None = None
    validation: Data = None
    augmentations: int = 10
    templates: Sequence[str] = TEMPLATES
    classes: Sequence[str] | None = None

    def described(self) -> dict[str, Any]:
        """For config.yaml."""
        return {
            "model": self.model,
            "shots": self.shots,
            "validation": None if self.validation is None else str(self.validation),
            "augmentations": self.augmentations,
            "templates": list(self.templates),
        }


def _plan(
    estimator: str | Estimator, data: Data, recipe: str | None, given: Mapping[str, Any], quiet: bool
) -> tuple[Recipe, _Plan]:
    base = Recipe("none")
    if recipe is not None or data is None or given["model"] is None:
        name = estimator if isinstance(estimator, str) else type(estimator).__module__.rsplit(".", 1)[-1]
        base, why = choose_recipe(find_system(name).name, recipe)
        if not quiet:
            print(why, file=sys.stderr, flush=True)
    check_names(base.fitting, list(given), "fitting")
    values = {**base.fitting, **{key: value for key, value in given.items() if value is not None}}
    if values.get("model") is None:
        raise ValueError("model is missing: name an image-text model, e.g. model=open_clip:ViT-B-32/openai")
    for name, least in (("augmentations", 0), ("shots", 1)):
        if values.get(name) is not None and values[name] < least:
            raise ValueError(f"{name} must be at least {least}, got {values[name]}")
    return base, _Plan(**values)


def _estimator(estimator: str | Estimator, arguments: Mapping[str, Any] | None) -> tuple[Estimator, dict[str, Any]]:
    if isinstance(estimator, Estimator):
        name = type(estimator).__module__.rsplit(".", 1)[-1]
        arguments = {key: value for key, value in vars(estimator).items() if not key.endswith("_")}
        cls: type = type(estimator)
    else:
        info = find_system(estimator)
        if not issubclass(info.cls, Estimator):
            raise ValueError(f"{info.name} is a system that is trained: use `train` instead of `fit`")
        name, cls = info.name, info.cls
        arguments = dict(arguments or {})
        estimator = construct(info.cls, arguments)
        assert isinstance(estimator, Estimator)
    return estimator, {"name": name, "class": cls.__name__, "arguments": complete(cls, arguments)}


def _check(rows: Rows, model: str) -> Rows:
    if "image" not in rows.columns:
        raise ValueError(
            f"{model} encodes pictures, so rows need the column 'image'; {rows.name} has {', '.join(rows.columns)}. "
            "Rename one: columns image=NAME"
        )
    return rows


def _draw_shots(rows: Rows, shots: int, seed: int) -> Rows:
    """`shots` rows of every class, drawn with the seed."""
    labels = np.asarray([-1 if label is None else int(label) for label in rows.column("label")])
    generator = np.random.default_rng(derive(seed, "shots"))
    chosen = []
    for label in sorted(set(labels.tolist()) - {-1}):
        members = np.flatnonzero(labels == label)
        if len(members) < shots:
            warnings.warn(f"class {label} has {len(members)} rows, fewer than shots={shots}: taking all", stacklevel=3)
        chosen.append(np.sort(generator.permutation(members)[:shots]))
    return rows.select(np.concatenate(chosen))


def _write(path: Path, classifier: FittedClassifier, config: Mapping[str, Any], result: Mapping[str, Any]) -> Run:
    path.mkdir(parents=True, exist_ok=True)
    write_config(path, config)
    assets.save(classifier, path / "assets")
    storage.write_json(path / "estimator.json", classifier.estimator.state()[1])
    finish_run(path, classifier.state_dict(), result)
    return Run(path)
