"""Log-mel features against the extractor that wav2vec2-bert was trained with, and against what they must do."""

from __future__ import annotations

import numpy as np
import pytest
from transformers import SeamlessM4TFeatureExtractor

from counterpoint.views.log_mel import LogMel, normalised

NOISE = (0.1 * np.random.default_rng(0).standard_normal(16_000)).astype(np.float32)


def test_equals_the_feature_extractor_of_wav2vec2_bert() -> None:
    theirs = SeamlessM4TFeatureExtractor()(NOISE, sampling_rate=16_000, return_tensors="np")["input_features"][0]
    ours = LogMel()(NOISE)
    np.testing.assert_allclose(ours.reshape(-1, 160), theirs, atol=1e-4)  # it stacks two windows


def test_a_tone_is_in_the_band_that_holds_it() -> None:
    mel = LogMel(bins=40)
    edges = 700 * np.expm1(np.linspace(np.log1p(20 / 700), np.log1p(8000 / 700), 42))
    for frequency in (300.0, 1000.0, 5000.0):
        tone = 0.5 * np.sin(2 * np.pi * frequency * np.arange(8000) / 16_000)
        assert (np.abs(edges[1:-1] - frequency).argmin() == mel.raw(tone).mean(axis=0).argmax()).all()


def test_windows_lie_inside_and_do_not_depend_on_what_follows() -> None:
    mel = LogMel(rate=8000, bins=24)
    assert [mel.count(n) for n in (0, 1, 199, 200, 279, 280, 8000)] == [1, 1, 1, 1, 1, 2, 98]
    for count in (1, 200, 285, 8000):
        assert mel.raw(NOISE[:count]).shape == (mel.count(count), 24)
    np.testing.assert_array_equal(mel.raw(NOISE)[:50], mel.raw(NOISE[: 200 + 49 * 80]))


def test_loudness_and_silence() -> None:
    mel = LogMel(bins=40)
    np.testing.assert_allclose(mel.raw(2 * NOISE) - mel.raw(NOISE), 2 * np.log(2), atol=1e-4)
    np.testing.assert_allclose(mel(0.3 * NOISE), mel(NOISE), atol=1e-3)
    silence = mel(np.zeros(16_000, dtype=np.float32))
    assert np.abs(silence).max() < 1e-6
    assert not mel(np.zeros(10)).any(), "one window has no variance"


def test_normalised_has_mean_0_and_variance_1_in_every_band() -> None:
    features = normalised(np.random.default_rng(0).normal(3, 5, (50, 4)))
    np.testing.assert_allclose(features.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(features.std(axis=0, ddof=1), 1, atol=1e-6)


def test_settings_are_checked() -> None:
    for wrong in ({"rate": 10}, {"bins": 0}, {"low": 9000.0}):
        with pytest.raises(ValueError, match="rate must be at least 1000"):
            LogMel(**wrong)
    for wrong in ({"hop": 0.0}, {"hop": 0.1}, {"window": 2.0}):
        with pytest.raises(ValueError, match="hop <= window"):
            LogMel(**wrong)
