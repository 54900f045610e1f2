"""Views of a recording: what is cut, changed and hidden, and that one number decides it all."""

from __future__ import annotations

import pickle
import tracemalloc
import wave
from pathlib import Path

import numpy as np
import pytest
import torch

from counterpoint.data import BadRow
from counterpoint.views.audio import (
    Cut,
    MaskedSpeech,
    Masking,
    Perturb,
    SpecAugment,
    Utterance,
    draw_distractors,
    pad_speech,
    span_mask,
)
from counterpoint.views.log_mel import LogMel

MEL = LogMel(rate=8000, bins=24)
SOUND = (0.1 * np.random.default_rng(0).standard_normal(16_000)).astype(np.float32)
ROW = {"id": "a", "audio": (SOUND, 8000)}
VIEW = MaskedSpeech(MEL, 4, Cut(1.0), Perturb(), Masking(span=4, least=1, distractors=7))


def test_spans_cover_what_they_say() -> None:
    for seed in range(200):
        rng = np.random.default_rng(seed)
        length, span = int(rng.integers(1, 60)), int(rng.integers(1, 9))
        mask = span_mask(length, probability=0.5, span=span, least=1, rng=rng, epsilon=rng.random())
        runs = np.diff(np.flatnonzero(np.diff(np.concatenate([[0], mask, [0]]))))[::2]
        assert mask.shape == (length,) and (not len(runs) or runs.min() >= span)
        assert mask.any() == (length >= span)


def test_number_of_spans() -> None:
    def covered(length: int, **settings: float) -> int:
        settings = {"probability": 0.65, "span": 10, "least": 1, "epsilon": 0.0, **settings}
        found = [span_mask(length, rng=np.random.default_rng(s), **settings).sum() for s in range(60)]  # type: ignore[arg-type]
        return int(max(found))  # without overlap

    assert covered(400, probability=0.1) == 40  # int(0.1 * 400 / 10) spans
    assert covered(395, probability=0.1, epsilon=0.99) == 40  # 3.95 + 0.99
    assert covered(100, probability=0.0, least=2) == 20
    assert covered(15, least=9) <= 15
    assert covered(9) == 0


def test_distractors_are_other_hidden_frames() -> None:
    mask = np.array([0, 1, 1, 0, 0, 1, 1, 0], dtype=bool)
    found = draw_distractors(mask, 4000, np.random.default_rng(0))
    for frame in range(8):
        if not mask[frame]:
            assert not found[frame].any()
            continue
        others = [other for other in (1, 2, 5, 6) if other != frame]
        counts = [int((found[frame] == other).sum()) for other in others]
        assert sum(counts) == 4000 and min(counts) > 1150  # a third each, give or take 4.5 deviations
    assert not draw_distractors(np.zeros(3, dtype=bool), 5, np.random.default_rng(0)).any()
    with pytest.raises(ValueError, match="at least two"):
        draw_distractors(np.array([True, False]), 5, np.random.default_rng(0))


def test_a_sample_of_the_view() -> None:
    sample = VIEW(ROW, np.random.default_rng(0))
    assert sample["features"].shape == (98, 24) and sample["features"].dtype == torch.float32
    assert sample["mask"].shape == (25,) and sample["mask"].dtype == torch.bool and sample["mask"].any()
    assert sample["distractors"].shape == (25, 7) and sample["distractors"].dtype == torch.int64
    again = pickle.loads(pickle.dumps(VIEW))(ROW, np.random.default_rng(0))
    assert all(torch.equal(again[name], value) for name, value in sample.items())
    other = VIEW(ROW, np.random.default_rng(1))
    assert not torch.equal(other["features"], sample["features"]) and other["seed"] != sample["seed"]


def test_short_recordings_hide_half_at_most_and_shorter_ones_are_bad_rows() -> None:
    for samples in (1200, 2000, 4000):
        for seed in range(20):
            sample = VIEW({"id": "a", "audio": (SOUND[:samples], 8000)}, np.random.default_rng(seed))
            assert 2 <= sample["mask"].sum() < len(sample["mask"])
    with pytest.raises(BadRow, match="too short: nothing of it can be hidden"):
        VIEW({"id": "a", "audio": (SOUND[:500], 8000)}, np.random.default_rng(0))


def test_cuts_are_spread_over_a_long_recording_and_only_they_are_decoded(tmp_path: Path) -> None:
    path, minutes = tmp_path / "hour.wav", 60
    ramp = np.linspace(0, 1, 60 * minutes)
    with wave.open(str(path), "wb") as file:  # its loudness tells where a cut is from
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        for level in ramp:
            file.writeframes((SOUND[:8000] * 20_000 * level).astype("<i2").tobytes())
    tracemalloc.start()
    cuts = [Cut(2.0)(path, 8000, np.random.default_rng(seed)) for seed in range(200)]
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert {len(cut) for cut in cuts} == {16_000}
    loudness = np.array([cut.std() for cut in cuts]) / (SOUND[:8000].std() * 20_000 / 32_768)
    assert np.histogram(loudness, 4, (0, 1))[0].min() > 25
    assert most < 200 * 16_000 * 4 + 5e6, "more than the cuts themselves"


def test_a_short_recording_is_taken_whole() -> None:
    np.testing.assert_array_equal(Cut(5.0)((SOUND, 8000), 8000, np.random.default_rng(0)), SOUND)


def test_speed_changes_length_and_pitch() -> None:
    tone = np.sin(2 * np.pi * 500 * np.arange(8000) / 8000).astype(np.float32)
    fast = Perturb(speed=(1.25,))(tone, np.random.default_rng(0))
    assert len(fast) == 6400
    assert np.abs(np.fft.rfft(fast)).argmax() * 8000 / 6400 == pytest.approx(625, abs=2)
    lengths = {len(Perturb(speed=(0.8, 1.0, 1.25))(tone, np.random.default_rng(seed))) for seed in range(40)}
    assert lengths == {10_000, 8000, 6400}


def test_noise_is_as_loud_as_it_says() -> None:
    for level in (0.0, 20.0):
        for seed in range(10):
            noisy = Perturb(noise=1.0, decibels=(level, level))(SOUND, np.random.default_rng(seed))
            ratio = 10 * np.log10((SOUND**2).mean() / ((noisy - SOUND) ** 2).mean())
            assert ratio == pytest.approx(level, abs=0.05)
    changed = [not np.array_equal(Perturb(noise=0.5)(SOUND, np.random.default_rng(s)), SOUND) for s in range(100)]
    assert 30 < sum(changed) < 70
    assert np.isfinite(Perturb(noise=1.0)(np.zeros(100, dtype=np.float32), np.random.default_rng(0))).all()


def test_bands_and_stretches_are_hidden() -> None:
    features = np.ones((200, 80), dtype=np.float32)
    hidden_bands, hidden_times = [], []
    for seed in range(300):
        found = SpecAugment(bands=1, width=27, stretches=1, share=0.05)(features, np.random.default_rng(seed))
        hidden_bands.append(int((found.sum(axis=0) == 0).sum()))
        hidden_times.append(int((found.sum(axis=1) == 0).sum()))
        assert set(np.unique(found)) <= {0.0, 1.0}
    assert (min(hidden_bands), max(hidden_bands)) == (0, 27) and (min(hidden_times), max(hidden_times)) == (0, 10)
    assert features.all()
    nothing = SpecAugment(bands=0, stretches=0)(features, np.random.default_rng(0))
    np.testing.assert_array_equal(nothing, features)


def test_inference_takes_the_middle_of_a_long_recording() -> None:
    sound = np.concatenate([0 * SOUND, SOUND, 0 * SOUND])
    whole, middle = Utterance(MEL)({"audio": (sound, 8000)}), Utterance(MEL, longest=2.0)({"audio": (sound, 8000)})
    assert len(whole["features"]) == MEL.count(48_000)
    torch.testing.assert_close(middle["features"], torch.from_numpy(MEL(SOUND)))


def test_padding() -> None:
    samples = [VIEW({"id": "a", "audio": (SOUND[:n], 8000)}, np.random.default_rng(n)) for n in (4000, 8000)]
    batch = pad_speech(samples)
    assert batch["lengths"].tolist() == [48, 98] and batch["seed"].shape == (2,)
    assert batch["features"].shape == (2, 98, 24) and not batch["features"][0, 48:].any()
    assert batch["mask"].shape == (2, 25) and not batch["mask"][0, 12:].any()
    assert batch["distractors"].shape == (2, 25, 7)


def test_settings_are_checked() -> None:
    for make, reason in (
        (lambda: Cut(0.0), "seconds must be above 0"),
        (lambda: Perturb(noise=1.5), "noise must be in"),
        (lambda: Perturb(speed=()), "speed must hold"),
        (lambda: Perturb(speed=(9.0,)), "speed must hold"),
        (lambda: Perturb(decibels=(3.0, 1.0)), "decibels must be"),
        (lambda: SpecAugment(share=2.0), "share must be in"),
        (lambda: SpecAugment(bands=-1), "must not be negative"),
        (lambda: Masking(probability=-0.1), "probability must be in"),
        (lambda: Masking(span=1), "span must be at least 2"),
        (lambda: Masking(distractors=0), "distractors at least 1"),
    ):
        with pytest.raises(ValueError, match=reason):
            make()
