"""How much of a view is hidden, and which settings mean nothing."""

from __future__ import annotations

import numpy as np
import pytest

from counterpoint.data import open_rows
from counterpoint.views.masked import MaskedViews


def test_the_hidden_share_is_drawn_for_every_view() -> None:
    view, row = MaskedViews(size=32, patch=8, masked=0.5, masked_spread=0.2), open_rows("digits:train")[0]
    shares = []
    for seed in range(40):
        views = view(row, np.random.default_rng(seed))
        assert views["first_seen"].shape == (1, 4, 4) and set(views["first_seen"].unique().tolist()) <= {0.0, 1.0}
        shares.append(1 - float(views["second_seen"].mean()))
    assert min(shares) >= 0.3 - 1 / 32 and max(shares) <= 0.7 + 1 / 32 and max(shares) - min(shares) > 0.2


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(ValueError, match="patch must divide the size 32, got 7"):
        MaskedViews(size=32, patch=7)
    with pytest.raises(ValueError, match="must lie in"):
        MaskedViews(masked=0.1, masked_spread=0.2)
