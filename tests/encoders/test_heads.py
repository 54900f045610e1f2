"""Heads are the layers that their docstrings name."""

from __future__ import annotations

from torch import nn

from counterpoint.encoders.heads import conv_mlp, deep_projector, mlp, projection_head


def test_a_projection_head_has_norms_that_see_all_rows() -> None:
    head = projection_head(8, 16, 4, 3)
    kinds = [type(part) for part in head]
    assert kinds == [nn.Linear, nn.BatchNorm1d, nn.ReLU] * 3 + [nn.Linear]
    assert [part.out_features for part in head if isinstance(part, nn.Linear)] == [16, 16, 16, 4]
    assert all(part.sees_all_rows for part in head if isinstance(part, nn.BatchNorm1d))
    assert [type(part) for part in projection_head(8, 16, 4)] == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]


def test_other_heads_leave_their_norms_to_the_trainer() -> None:
    deep = [nn.Linear, nn.BatchNorm1d, nn.ReLU] * 3
    for head, kinds, widths in (
        (mlp(8, 16, 4), deep[:3] + [nn.Linear], [16, 4]),
        (deep_projector(8, 4), deep[:-1], [4, 4, 4]),
        (conv_mlp(8, 16, 4), [nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Conv2d], [16, 4]),
    ):
        assert [type(part) for part in head] == kinds
        found = [part.out_features for part in head if isinstance(part, nn.Linear)]
        found += [part.out_channels for part in head if isinstance(part, nn.Conv2d)]
        assert found == widths
        assert not any(hasattr(part, "sees_all_rows") for part in head)
