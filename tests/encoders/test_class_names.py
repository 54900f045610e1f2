"""Class names through a text tower: bare, and once while nothing changes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from counterpoint.encoders.class_names import FrozenNames, bare_names
from counterpoint.encoders.clip import ClipEncoder


def test_a_frozen_tower_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, calls = ClipEncoder("fixture:vit"), []
    encode_text = encoder.encode_text

    def counted(tokens: dict[str, Tensor]) -> Any:
        calls.append(tokens)
        return encode_text(tokens)

    monkeypatch.setattr(encoder, "encode_text", counted)
    known = FrozenNames()
    found = known(encoder, ["red_door", "cat"])
    assert known(encoder, ["red_door", "cat"]) is found and len(calls) == 1
    assert not found.requires_grad
    plain = bare_names(encoder, ["red door", "cat"])
    assert plain.requires_grad and torch.equal(found, plain), "an underscore is a blank"
    assert not torch.equal(known(encoder, ["cat", "red_door"]), found) and len(calls) == 3
    with torch.no_grad():
        encoder.get_parameter(encoder.text_parameters()[0]).mul_(1.5)
    assert not torch.equal(known(encoder, ["red_door", "cat"]), found)
