"""The Conformer against loops and against its absence of padding."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor

from counterpoint.encoders.conformer import (
    Conformer,
    ConformerBlock,
    FeatureEncoder,
    RelativeAttention,
    relative_positions,
)


def _random(module: torch.nn.Module) -> torch.nn.Module:
    """Every parameter drawn, also those that begin at 0 or 1."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data = parameter.data + 0.3 * torch.randn(parameter.shape, generator=generator)
    return module.double()


def _rows(*lengths: int, width: int = 8) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(length, width, dtype=torch.float64, generator=generator) for length in lengths]


def _batch(rows: list[Tensor], extra: int = 0) -> tuple[Tensor, Tensor]:
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return torch.nn.functional.pad(padded, (0, 0, 0, extra)), torch.tensor([len(row) for row in rows])


def _slow_attention(module: RelativeAttention, x: Tensor) -> Tensor:
    """One recording, score by score (Dai et al. 2019, section 3.3)."""
    frames, dim = x.shape
    heads, size = module.heads, dim // module.heads
    query, key, value = module.query(x), module.key(x), module.value(x)
    out = torch.zeros(frames, dim, dtype=x.dtype)
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        for i in range(frames):
            scores = []
            for j in range(frames):
                angles = [(i - j) * 10000 ** (-2 * k / dim) for k in range(dim // 2)]
                sines = [function(angle) for angle in angles for function in (math.sin, math.cos)]
                assert module.position is not None
                distance = module.position(torch.tensor(sines, dtype=x.dtype))[part]
                content = (query[i, part] + module.content_bias[head, 0]) @ key[j, part]
                scores.append((content + (query[i, part] + module.distance_bias[head, 0]) @ distance) / math.sqrt(size))
            weights = torch.stack(scores).softmax(dim=0)
            out[i, part] = sum(weights[j] * value[j, part] for j in range(frames))
    return module.out(out)


def test_attention_against_loops() -> None:
    module = _random(RelativeAttention(8, 2))
    assert isinstance(module, RelativeAttention)
    rows = _rows(5, 3)
    x, lengths = _batch(rows)
    mask = torch.arange(5) < lengths[:, None]
    found = module(x, mask, relative_positions(5, 8, like=x))
    for place, row in enumerate(rows):
        torch.testing.assert_close(found[place, : len(row)], _slow_attention(module, row))


@pytest.mark.parametrize("norm", ["batch", "layer"])
@pytest.mark.parametrize("training", [True, False])
def test_padding_is_seen_by_nothing(norm: str, training: bool) -> None:
    """Neither outputs nor gradients nor running statistics know how far a batch was padded, or with what."""
    model = _random(Conformer(8, 2, 8, 2, 3, norm=norm)).train(training)  # type: ignore[arg-type]
    other = copy.deepcopy(model)
    features, lengths = _batch(_rows(21, 9, 1))
    longer = torch.nn.functional.pad(features, (0, 0, 0, 14), value=7.0)
    for place, length in enumerate(lengths.tolist()):
        longer[place, length:] = 7.0
    found, frames = model(features, lengths)
    again, again_frames = other(longer, lengths)
    assert torch.equal(frames, again_frames) and frames.tolist() == [6, 3, 1]
    for a, b, length in zip(found, again, frames.tolist(), strict=True):
        torch.testing.assert_close(a[:length], b[:length], rtol=1e-12, atol=1e-12)
    for outputs, network in ((found, model), (again, other)):
        sum(row[:length].square().sum() for row, length in zip(outputs, frames.tolist(), strict=True)).backward()  # type: ignore[union-attr]
        assert all(parameter.grad is not None for parameter in network.parameters())
    for (name, a), b in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-11, msg=name)
    for (name, a), b in zip(model.named_buffers(), other.named_buffers(), strict=True):
        torch.testing.assert_close(a, b[1], rtol=1e-12, atol=1e-12, msg=name)


def test_a_recording_alone_is_a_recording_among_others() -> None:
    model = _random(Conformer(8, 2, 8, 2, 3)).eval()
    rows = _rows(21, 9, 30)
    together, frames = model(*_batch(rows))
    for place, row in enumerate(rows):
        alone, length = model(*_batch([row]))
        torch.testing.assert_close(together[place, : int(length)], alone[0])
        assert int(frames[place]) == int(length)


def test_batch_statistics_are_those_of_the_real_frames() -> None:
    block = ConformerBlock(8, 2, 16, 3).double().train()
    seen: list[Tensor] = []
    block.convolution.frame_norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x, lengths = _batch(_rows(7, 2, 4))
    block(x, torch.arange(7) < lengths[:, None], relative_positions(7, 8, like=x))
    assert seen[0].shape == (13, 8)
    norm = block.convolution.frame_norm
    assert isinstance(norm, torch.nn.BatchNorm1d)
    torch.testing.assert_close(norm.running_mean, 0.1 * seen[0].mean(dim=0).detach())


def test_features_are_a_quarter_as_long_rounded_up() -> None:
    encoder = FeatureEncoder(10, 6, 4)
    for length in range(1, 20):
        x, frames = encoder(torch.randn(1, length, 10), torch.tensor([length]))
        assert x.shape == (1, -(-length // 4), 6) and int(frames) == x.shape[1]


def test_half_precision() -> None:
    model = Conformer(8, 2, 8, 2, 3)
    features, lengths = _batch(_rows(21, 9))
    wanted, _ = model.eval()(features.float(), lengths)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, _ = model(features.float(), lengths)
        model.train()(features.float(), lengths)[0].float().sum().backward()
    assert (found.float() - wanted)[0].abs().max() < 0.1 * wanted[0].abs().max()


def test_wrong_sizes_are_named() -> None:
    with pytest.raises(ValueError, match="width 8 must be a multiple of the number of heads 3"):
        RelativeAttention(8, 3)
    with pytest.raises(ValueError, match="kernel must be odd"):
        ConformerBlock(8, 2, 16, 4)
