"""The code blocks of a page, and how a test runs what they say.

Where a block names a model of the hub, a tiny one of the same kind takes its place (tests have no network), and where
it trains from a recipe that takes minutes, `tiny` and two steps do. Nothing else is changed.

Run as a program it is `counterpoint` with these replacements, for blocks that run as processes.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from counterpoint.cli import main

_BLOCK = re.compile(r"^```(\w+)((?: \w+)*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_HUB = re.compile(r"^(hf|open_clip|timm):(?!PATH)")
_LENGTH = ("--steps", "--epochs", "--seconds", "--resume")


@dataclass(frozen=True)
class Block:
    """A code block: language, tags behind it, text, and the line it starts at."""

    language: str
    tags: tuple[str, ...]
    text: str
    line: int

    def commands(self) -> list[str]:
        """Lines of a shell block, continued lines joined, comments and prompts removed."""
        joined = re.sub(r"\\\n\s*", " ", self.text)
        lines = [line.strip().removeprefix("$ ") for line in joined.splitlines()]
        return [line for line in lines if line and not line.startswith("#")]


def blocks(path: Path) -> list[Block]:
    """All code blocks of a page, in order."""
    text = path.read_text(encoding="utf-8")
    return [
        Block(found[1], tuple(found[2].split()), found[3], text.count("\n", 0, found.start()) + 2)
        for found in _BLOCK.finditer(text)
    ]


def small(argv: Sequence[str]) -> list[str]:
    """A `counterpoint` command line that needs no network and no minutes."""
    words = [_without_hub(word, argv) for word in argv]
    if words[:1] == ["train"]:
        if "--recipe" not in words and "--resume" not in words:
            words += ["--recipe", "tiny"]
        if not any(word in _LENGTH for word in words):
            words += ["--steps", "2"]
    return words


def _without_hub(word: str, argv: Sequence[str]) -> str:
    if not _HUB.match(word):
        return word
    kinds = {"esimcse": "bert:1x32x2", "contriever": "bert:1x32x2", "swav": "test_resnet?size=32"}
    return kinds.get(argv[1] if len(argv) > 1 else "", "fixture:vit")


if __name__ == "__main__":
    sys.exit(main(small(sys.argv[1:])))
