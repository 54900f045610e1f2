"""A space: representation and heads are the maps that its docstring names."""

from __future__ import annotations

import torch

from counterpoint.encoders.spaces import Space


def test_heads_are_the_projected_representation() -> None:
    torch.manual_seed(0)
    space, images = Space("test_resnet?size=32", dim=5, hidden=7), torch.rand(4, 3, 32, 32)
    with torch.no_grad():
        space.train()  # batch normalisation by the batch
        representation = space.linear(space.encoder(images))
        first, last = space.projector[0], space.projector[3]
        hidden = representation @ first.weight.T + first.bias  # (4, 7)
        hidden = (hidden - hidden.mean(0)) / (hidden.var(0, unbiased=False) + 1e-5).sqrt()
        wanted = hidden.clamp(min=0) @ last.weight.T + last.bias
        torch.testing.assert_close(space(images), representation)
        torch.testing.assert_close(space.heads(images), wanted, rtol=1e-4, atol=1e-4)
    assert first.weight.shape == (7, 5) and last.weight.shape == (5, 7)
