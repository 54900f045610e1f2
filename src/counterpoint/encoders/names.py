"""Names of models: `scheme:rest?option=value&option=value`, and what to say when there is no such model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

__all__ = ["ModelName", "parse_name", "unknown_model"]


@dataclass(frozen=True)
class ModelName:
    """A parsed name.

    Attributes:
        full: as the user wrote it.
        scheme: what stands before the first colon, "path" for a local folder, "" for a bare name.
        rest: what the scheme is about.
        options: what stands after the question mark.
    """

    full: str
    scheme: str
    rest: str
    options: dict[str, str] = field(default_factory=dict)

    def whole(self, option: str, default: int) -> int:
        """A positive whole number among the options.

        Raises:
            ValueError: the value is no positive whole number.
        """
        text = self.options.get(option, str(default))
        if not text.isdecimal() or int(text) < 1:
            raise ValueError(f"{self.full!r}: option {option} must be a positive whole number, got {text!r}")
        return int(text)

    def share(self, option: str, default: float) -> float:
        """A number in [0, 1) among the options.

        Raises:
            ValueError: the value is no such number.
        """
        text = self.options.get(option, str(default))
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not 0 <= value < 1:
            raise ValueError(f"{self.full!r}: option {option} must be a number in [0, 1), got {text!r}")
        return value

    def flag(self, option: str, default: bool) -> bool:
        """A yes/no among the options.

        Raises:
            ValueError: the value is neither.
        """
        text = self.options.get(option, "yes" if default else "no").lower()
        if text not in ("yes", "true", "1", "no", "false", "0"):
            raise ValueError(f"{self.full!r}: option {option} must be yes or no, got {text!r}")
        return text in ("yes", "true", "1")


def parse_name(name: str, schemes: Iterable[str], options: Iterable[str] = ()) -> ModelName:
    """Take a model name apart.

    Args:
        name: `resnet18`, `timm:resnet18.a1_in1k`, `hf:ORG/NAME`, `run:PATH`, a local folder, ...; any of them
            may end in `?option=value&option=value`.
        schemes: prefixes that are understood here.
        options: options that are understood here.

    Raises:
        ValueError: empty name, unknown prefix (the nearest is named), missing part, or unknown option.
        TypeError: not a string.
    """
    if not isinstance(name, str):
        raise TypeError(f"a model name must be a string, got {type(name).__name__}")
    schemes, allowed = list(schemes), list(options)
    body, _, tail = name.strip().partition("?")
    if not body:
        raise ValueError(f"empty model name; understood: {', '.join(f'{s}:...' for s in schemes)}")
    found = {}
    for part in filter(None, tail.split("&")):
        option, equals, value = part.partition("=")
        if option not in allowed or not equals:
            hint = f"understood: {', '.join(allowed)}" if allowed else "none are understood here"
            raise ValueError(f"model name {name!r}: unknown option {part!r}; {hint}")
        found[option] = value
    scheme, colon, rest = body.partition(":")
    if colon and scheme in schemes:
        if not rest:
            raise ValueError(f"model name {name!r} says nothing after {scheme + ':'!r}")
        return ModelName(name, scheme, rest, found)
    if Path(body).expanduser().is_dir():
        return ModelName(name, "path", str(Path(body).expanduser()), found)
    if colon:
        near = get_close_matches(scheme, schemes, n=1) or schemes
        raise ValueError(f"model name {name!r}: no prefix {scheme + ':'!r}; did you mean {', '.join(near)}?")
    if "/" in body or body.startswith("."):
        raise ValueError(f"model name {name!r}: there is no such folder; for a model of the hub write 'hf:{body}'")
    return ModelName(name, "", body, found)


def unknown_model(kind: str, name: str, candidates: Iterable[str]) -> ValueError:
    """The error for a model that does not exist: names the nearest ones."""
    candidates = sorted(candidates)
    near = get_close_matches(name, candidates, n=4, cutoff=0.5) or get_close_matches(name, candidates, n=3, cutoff=0.2)
    hint = f"nearest: {', '.join(near)}" if near else f"known: {', '.join(candidates[:10])}"
    return ValueError(f"no {kind} is called {name!r}; {hint}")
