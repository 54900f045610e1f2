"""What all encoders share: a name, stored assets, and parts that stay frozen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

__all__ = ["Encoder", "Trainable"]

Trainable = str | Sequence[str]
"""What is trained: "all", "none", "head", "last:N" (the last N blocks and what follows), or parameter-name prefixes."""


class Encoder(nn.Module):
    """A network with a name, whose frozen parts stay in evaluation mode whatever `train()` says.

    Frozen means: no gradient, no dropout, batch-normalisation statistics untouched.

    Attributes:
        kind: "image", "text" or "clip".
        name: the name it was built from.
    """

    kind: ClassVar[str] = ""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self._frozen: frozenset[str] = frozenset()

    def save_assets(self, folder: Path) -> dict[str, Any]:
        """Write tokenizer files and the like into `folder`; returns what goes into config.json. No weights."""
        raise NotImplementedError

    def head_parameters(self) -> list[str]:
        """Names of the parameters that "head" trains: what comes after the blocks."""
        return []

    def blocks(self) -> list[list[str]]:
        """Names of the parameters of each block, first block first; what stands before the first is in none."""
        return []

    def freeze(self, trainable: Trainable) -> None:
        """Freeze everything but `trainable`.

        Raises:
            ValueError: nothing is called so; the names at hand are listed.
        """
        kept = self._kept(trainable)
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name in kept)
        frozen = frozenset(name for name, _ in self.named_parameters()) - kept
        for prefix, module in self.named_modules():
            if isinstance(module, Encoder):  # itself, and the encoders it is made of
                start = f"{prefix}." if prefix else ""
                module._frozen = frozenset(name[len(start) :] for name in frozen if name.startswith(start))
        self.train(self.training)

    def _kept(self, trainable: Trainable) -> frozenset[str]:
        names = [name for name, _ in self.named_parameters()]
        if not isinstance(trainable, str):
            return self._matching(names, list(trainable))
        if trainable == "all":
            return frozenset(names)
        if trainable == "none":
            return frozenset()
        if trainable == "head":
            head = self.head_parameters()
            if not head:
                raise ValueError(f"trainable='head': {self.name!r} has no head; use 'last:1', 'all' or 'none'")
            return frozenset(head)
        if trainable.startswith("last:"):
            return self._last(trainable)
        return self._matching(names, [part.strip() for part in trainable.split(",") if part.strip()])

    def _last(self, trainable: str) -> frozenset[str]:
        count, blocks = trainable.removeprefix("last:"), self.blocks()
        if not count.isdecimal() or not 0 < int(count) <= len(blocks):
            raise ValueError(f"trainable={trainable!r}: {self.name!r} has {len(blocks)} blocks, give last:1 and up")
        kept = {name for block in blocks[-int(count) :] for name in block}
        return frozenset(kept | set(self.head_parameters()))

    def _matching(self, names: list[str], prefixes: list[str]) -> frozenset[str]:
        kept: set[str] = set()
        for prefix in prefixes:
            found = {name for name in names if name.startswith(prefix)}
            if not found:
                parts = sorted({".".join(name.split(".")[:3]) for name in names})
                shown = ", ".join(parts[:12]) + (", ..." if len(parts) > 12 else "")
                raise ValueError(f"trainable: no parameter of {self.name!r} starts with {prefix!r}; it has {shown}")
            kept |= found
        return frozenset(kept)

    def train(self, mode: bool = True) -> Encoder:
        """Training or evaluation mode; what is frozen stays in evaluation mode."""
        super().train(mode)
        if mode:
            _rest(self, "", self._frozen)
        return self


def _rest(module: nn.Module, prefix: str, frozen: frozenset[str]) -> None:
    """Evaluation mode for every module all of whose parameters are frozen, with everything below it."""
    names = [prefix + name for name, _ in module.named_parameters()]
    if names and all(name in frozen for name in names):
        for part in module.modules():
            part.training = False
        return
    for name, child in module.named_children():
        _rest(child, f"{prefix}{name}.", frozen)
