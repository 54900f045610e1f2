"""Settings from YAML or the command line to constructor arguments and back, guided by the type hints."""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

__all__ = ["as_plain", "check_names", "complete", "construct", "convert", "merged"]

Built = TypeVar("Built")


def check_names(given: Mapping[str, Any], known: Sequence[str], what: str) -> None:
    """Refuse names that are not known, with the nearest that are.

    Raises:
        ValueError: names the unknown key, the nearest known ones, and `what` it was given for.
    """
    for name in given:
        if name not in known:
            near = get_close_matches(str(name), known, n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(known) or 'none'}"
            raise ValueError(f"{what} has no {name!r}; {hint}")


def _hints(cls: type) -> dict[str, Any]:
    target = cls if dataclasses.is_dataclass(cls) else cls.__init__  # type: ignore[misc]
    try:
        return typing.get_type_hints(target)
    except NameError:  # a hint that only type checkers can see
        return {}


def _parameters(cls: type) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(cls).parameters
    keyword = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {name: parameter for name, parameter in parameters.items() if parameter.kind in keyword}


def construct(cls: type[Built], arguments: Mapping[str, Any]) -> Built:
    """Build `cls` from plain values: nested mappings become dataclasses, lists tuples, numbers in text numbers.

    Raises:
        ValueError: an unknown, missing or unusable argument; names it.
    """
    parameters = _parameters(cls)
    check_names(arguments, list(parameters), cls.__name__)
    missing = [name for name, p in parameters.items() if p.default is inspect.Parameter.empty and name not in arguments]
    if missing:
        raise ValueError(f"{cls.__name__} needs {', '.join(missing)}")
    hints = _hints(cls)
    values = {name: convert(value, hints.get(name, Any), f"{cls.__name__}.{name}") for name, value in arguments.items()}
    return cls(**values)


def complete(cls: type, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments of `cls` as plain values, defaults filled in at every depth: what config.yaml keeps."""
    hints = _hints(cls)
    values = {}
    for name, parameter in _parameters(cls).items():
        what = f"{cls.__name__}.{name}"
        if name in arguments:
            values[name] = as_plain(convert(arguments[name], hints.get(name, Any), what), what)
        elif parameter.default is not inspect.Parameter.empty:
            values[name] = as_plain(parameter.default, what)
    return values


def merged(base: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """`extra` on top of `base`; a group of settings keeps what `extra` does not name."""
    both = dict(base)
    for name, value in extra.items():
        old = both.get(name)
        both[name] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return both


def as_plain(value: Any, what: str) -> Any:
    """A value made of mappings, lists, text, numbers, booleans and None.

    Raises:
        TypeError: something else is inside; names `what`.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [field.name for field in dataclasses.fields(value) if field.init]
        return {name: as_plain(getattr(value, name), f"{what}.{name}") for name in fields}
    if isinstance(value, Mapping):
        return {str(key): as_plain(item, f"{what}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_plain(item, what) for item in value]
    if isinstance(value, Path):
        return str(value)
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise TypeError(f"{what} is a {type(value).__name__}; settings are text, numbers, lists and dataclasses of those")


def convert(value: Any, hint: Any, what: str) -> Any:
    """`value` as the type `hint` asks for, where plain text or YAML cannot say it.

    Raises:
        ValueError: `value` cannot be read as `hint`; names `what`.
    """
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(value, typing.get_args(hint), what)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type) and isinstance(value, Mapping):
        return construct(hint, value)
    if origin is typing.Literal and value not in typing.get_args(hint):
        raise ValueError(f"{what} must be one of {list(typing.get_args(hint))}, got {value!r}")
    if origin in (tuple, list) and isinstance(value, list | tuple):
        return _convert_sequence(value, origin, typing.get_args(hint), what)
    if hint in (int, float, bool):
        return _convert_number(value, hint, what)
    if hint is str and not isinstance(value, str | Path):
        raise ValueError(f"{what} must be text, got {value!r}")
    return value


def _convert_number(value: Any, kind: type, what: str) -> Any:
    words = {int: "a whole number", float: "a number", bool: "true or false"}
    if kind is bool:
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in ("true", "false"):
            return value.lower() == "true"
    elif not isinstance(value, bool):
        try:
            number = float(value)
            if kind is float:
                return number
            if number.is_integer():
                return int(number)
        except (TypeError, ValueError, OverflowError):
            pass
    raise ValueError(f"{what} must be {words[kind]}, got {value!r}")


def _convert_sequence(value: Sequence[Any], origin: type, hints: tuple[Any, ...], what: str) -> Any:
    if origin is tuple and hints and hints[-1] is not Ellipsis:
        if len(value) != len(hints):
            raise ValueError(f"{what} must have {len(hints)} values, got {list(value)}")
        return tuple(convert(item, hint, what) for item, hint in zip(value, hints, strict=True))
    hint = hints[0] if hints else Any
    return origin(convert(item, hint, what) for item in value)


def _convert_union(value: Any, hints: tuple[Any, ...], what: str) -> Any:
    """The first alternative that takes the value; a mapping only becomes a dataclass that has all its names."""
    if value is None and type(None) in hints:
        return None
    hints = tuple(hint for hint in hints if hint is not type(None))
    exact = [hint for hint in hints if isinstance(hint, type) and type(value) is hint]
    if exact:
        return value
    problems = []
    for hint in hints:
        try:
            converted = convert(value, hint, what)
        except ValueError as error:
            problems.append(str(error))
            continue
        if not (isinstance(value, Mapping) and converted is value and any(map(dataclasses.is_dataclass, hints))):
            return converted
    raise ValueError(problems[-1] if problems else f"{what} cannot be {value!r}")
