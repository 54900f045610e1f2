"""The quantiser: choice, straight-through gradient, and draws that belong to a row alone."""

from __future__ import annotations

import pytest
import torch

from counterpoint.encoders.quantiser import Codebook, GumbelQuantiser, gumbel_noise, select, uniform_of_rows


def test_the_choice_is_one_hot_and_the_gradient_that_of_the_softmax() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(4, 6, dtype=torch.float64, generator=generator, requires_grad=True)
    noise = gumbel_noise(torch.rand(4, 6, dtype=torch.float64, generator=generator))
    chosen, codes = select(scores, noise, temperature=0.7)
    assert torch.equal(codes, (scores + noise).argmax(dim=1))
    assert torch.equal(chosen.detach(), torch.nn.functional.one_hot(codes, 6).double()), "exactly"
    weights = torch.randn(4, 6, dtype=torch.float64, generator=generator)
    (found,) = torch.autograd.grad((chosen * weights).sum(), scores)
    (wanted,) = torch.autograd.grad((((scores + noise) / 0.7).softmax(dim=1) * weights).sum(), scores)
    torch.testing.assert_close(found, wanted)
    plain, codes = select(scores, None, temperature=0.7)
    assert torch.equal(codes, scores.argmax(dim=1)) and not plain.requires_grad


def test_noise_chooses_with_the_probabilities_of_the_softmax() -> None:
    scores = torch.tensor([1.0, 0.0, -1.0])
    noise = gumbel_noise(torch.rand(40_000, 3, generator=torch.Generator().manual_seed(0)))
    _, codes = select(scores.expand(40_000, 3), noise, temperature=1.0)
    torch.testing.assert_close(codes.bincount() / 40_000, scores.softmax(dim=0), atol=0.01, rtol=0)
    assert torch.isfinite(gumbel_noise(torch.tensor([0.0, 1 - 2**-24]))).all()


def test_codebooks_stand_side_by_side() -> None:
    module = GumbelQuantiser(5, Codebook(2, 3, 8))
    found = module(torch.randn(2, 7, 5))
    assert found.vectors.shape == (2, 7, 8) and found.codes.shape == (2, 7, 2)
    torch.testing.assert_close(found.probabilities.sum(dim=3), torch.ones(2, 7, 2))
    first, second = found.codes[1, 4].tolist()
    torch.testing.assert_close(found.vectors[1, 4], torch.cat([module.vectors[0, first], module.vectors[1, second]]))


def test_draws_depend_on_the_seed_of_the_row_alone() -> None:
    like = torch.zeros(1, dtype=torch.float64)
    together = uniform_of_rows(torch.tensor([5, 2**61, 7]), (11, 3), like=like)
    assert together.dtype == torch.float64 and ((together >= 0) & (together < 1)).all()
    for frames in (1, 4, 11, 200):
        alone = uniform_of_rows(torch.tensor([2**61]), (frames, 3), like=like)[0]
        shared = min(frames, 11)
        assert torch.equal(alone[:shared], together[1, :shared])
    assert not torch.equal(together[0], together[1])
    assert uniform_of_rows(torch.zeros(0, dtype=torch.int64), (4, 3), like=like).shape == (0, 4, 3)


def test_the_temperature_cools_to_its_coldest() -> None:
    codebook = Codebook(hottest=2.0, coldest=0.5, cooling=0.9)
    assert [codebook.temperature(step) for step in (0, 1, 1000)] == pytest.approx([2.0, 1.8, 0.5])


def test_settings_are_checked() -> None:
    for wrong in ({"groups": 0}, {"codes": 1}, {"groups": 3, "dim": 8}):
        with pytest.raises(ValueError, match="groups must be at least 1 and divide dim"):
            Codebook(**wrong)
    for wrong in ({"coldest": 0.0}, {"coldest": 3.0}, {"cooling": 1.5}):
        with pytest.raises(ValueError, match="coldest <= hottest"):
            Codebook(**wrong)  # type: ignore[arg-type]
