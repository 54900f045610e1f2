"""Names behind learnt contexts and the context decoder, against loops and the plain text tower."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from counterpoint.encoders.clip import ClipEncoder
from counterpoint.encoders.guiding import text_tower
from counterpoint.encoders.prompting import ContextDecoder, DecoderShape, contextual_features, short_tokens

NAMES = ("dog", "a very long name of many words", "fish")


@pytest.fixture(scope="module")
def clip() -> ClipEncoder:
    return ClipEncoder("fixture:vit", trainable="none").eval()


def test_names_are_cut_but_keep_their_end(clip: ClipEncoder) -> None:
    tokens = clip.tokenize(NAMES)
    ids, real = tokens["input_ids"], tokens["attention_mask"].sum(dim=1)
    end = int(ids.max())
    found = short_tokens(clip, NAMES, 5)
    assert found.shape == (3, 5)
    for row, given, length in zip(found.tolist(), ids.tolist(), real.tolist(), strict=True):
        if length <= 5:
            assert row == given[:length] + [0] * (5 - length)
        else:
            assert row == [*given[:4], end]
    assert int(real[1]) > 5 and int(real[0]) < 5
    assert short_tokens(clip, NAMES, ids.shape[1] + 7).shape == (3, ids.shape[1] + 7)
    with pytest.raises(ValueError, match="length must be at least 3"):
        short_tokens(clip, NAMES, 2)


def test_without_contexts_it_is_the_text_tower(clip: ClipEncoder) -> None:
    """Also shows that the positions beyond a short text do not count: the mask is causal."""
    names = ("dog", "fish", "umbrella")
    tokens = short_tokens(clip, names, 8)
    width = text_tower(clip).token_embedding.weight.shape[1]
    with torch.no_grad():
        found = contextual_features(text_tower(clip), tokens, torch.zeros(1, 0, width))
        wanted = clip.encode_text(clip.tokenize(names))
    torch.testing.assert_close(found[0], wanted, rtol=1e-4, atol=1e-5)


def test_contexts_of_words_are_those_words(clip: ClipEncoder) -> None:
    """Learnt vectors equal to the words "a red" turn "dog" into "a red dog"."""
    tower = text_tower(clip)
    sentence = short_tokens(clip, ("a red dog",), 8)
    with torch.no_grad():
        contexts = tower.token_embedding(sentence[:, 1:3])  # (1, 2, width)
        found = contextual_features(tower, short_tokens(clip, ("dog",), 6), contexts)
        torch.testing.assert_close(found[0], clip.encode_text(clip.tokenize(["a red dog"])), rtol=1e-4, atol=1e-5)


def test_every_set_of_contexts_by_itself(clip: ClipEncoder) -> None:
    tower, tokens = text_tower(clip), short_tokens(clip, NAMES, 5)
    width = tower.token_embedding.weight.shape[1]
    contexts = torch.randn(2, 3, width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        both = contextual_features(tower, tokens, contexts)
        assert both.shape == (2, 3, clip.dim)
        for place in range(2):
            alone = contextual_features(tower, tokens, contexts[place : place + 1])
            torch.testing.assert_close(both[place], alone[0], rtol=1e-4, atol=1e-5)


def test_a_frozen_tower_passes_the_gradient_to_the_contexts(clip: ClipEncoder) -> None:
    tower, tokens = text_tower(clip), short_tokens(clip, NAMES, 5)
    contexts = torch.randn(1, 3, tower.token_embedding.weight.shape[1]).requires_grad_()
    contextual_features(tower, tokens, contexts).square().sum().backward()
    assert contexts.grad is not None and bool((contexts.grad.abs().sum(dim=2) > 0).all())
    assert all(parameter.grad is None for parameter in tower.transformer.parameters())


def test_too_long_for_the_tower(clip: ClipEncoder) -> None:
    tower = text_tower(clip)
    most, width = len(tower.positional_embedding), tower.token_embedding.weight.shape[1]
    with pytest.raises(ValueError, match=f"{most} contexts and 5 tokens make {most + 5}, .* set fewer contexts"):
        contextual_features(tower, short_tokens(clip, NAMES, 5), torch.zeros(1, most, width))


def _attend(module: nn.Module, queries: Tensor, memory: Tensor, heads: int) -> Tensor:
    """Multi-head attention with loops over heads and places, (Q, W), (M, W) -> (Q, W)."""
    q, k, v = module.q_proj.weight @ queries.T, module.k_proj.weight @ memory.T, module.v_proj.weight @ memory.T
    size = q.shape[0] // heads
    found = torch.zeros_like(q)
    for head in range(heads):
        own = slice(head * size, (head + 1) * size)
        for i in range(q.shape[1]):
            logits = [float(q[own, i] @ k[own, j]) / math.sqrt(size) for j in range(k.shape[1])]
            weights = [math.exp(logit - max(logits)) for logit in logits]
            for j, weight in enumerate(weights):
                found[own, i] += weight / sum(weights) * v[own, j]
    return found.T @ module.proj.weight.T + module.proj.bias


@torch.no_grad()
def test_the_decoder_against_loops() -> None:
    torch.manual_seed(0)
    shape = DecoderShape(width=8, heads=2, layers=2)
    decoder = ContextDecoder(6, shape, output=5).double().eval()
    for parameter in decoder.parameters():  # the norms' own start is 1 and 0: a wrong one would not show
        parameter.add_(0.3 * torch.randn_like(parameter))
    texts, picture = torch.randn(2, 3, 6).double(), torch.randn(2, 4, 6).double()
    found = decoder(texts, picture)
    assert found.shape == (2, 3, 5)
    for row in range(2):
        memory, x = decoder.memory_proj(picture[row]), decoder.text_proj(texts[row])
        for layer in decoder.decoder:
            normed = layer.norm1(x)
            x = x + _attend(layer.self_attn, normed, normed, 2)
            x = x + _attend(layer.cross_attn, layer.norm2(x), memory, 2)
            hidden = layer.mlp[0](layer.norm3(x))
            x = x + layer.mlp[3](0.5 * hidden * (1 + torch.erf(hidden / math.sqrt(2))))
        torch.testing.assert_close(found[row], decoder.out_proj(x))


def test_dropout_only_in_training() -> None:
    decoder = ContextDecoder(6, DecoderShape(width=8, heads=2, layers=1, dropout=0.5))
    texts, picture = torch.randn(1, 3, 6), torch.randn(1, 4, 6)
    torch.manual_seed(0)
    assert not torch.equal(decoder(texts, picture), decoder(texts, picture))
    decoder.eval()
    assert torch.equal(decoder(texts, picture), decoder(texts, picture))


def test_shapes_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="width must be a multiple of heads"):
        DecoderShape(width=10, heads=4)
    with pytest.raises(ValueError, match="layers at least 1"):
        DecoderShape(layers=0)
    with pytest.raises(ValueError, match=r"dropout must be in \[0, 1\)"):
        DecoderShape(dropout=1.0)
