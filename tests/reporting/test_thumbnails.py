from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from counterpoint.data import BadRow
from counterpoint.reporting.thumbnails import drawn_column, list_thumbnails, thumbnail


def test_pictures_come_first() -> None:
    assert list_thumbnails()[0] == "image"
    assert drawn_column(["text", "label"]) is None
    assert drawn_column(["text", "image", "label"]) == "image"


def test_a_picture_is_made_smaller_and_keeps_its_shape() -> None:
    found = thumbnail("image", np.zeros((40, 200, 3), dtype=np.uint8), 64)
    assert found.size == (64, 13) and found.mode == "RGB"
    file = io.BytesIO()
    Image.new("L", (8, 6)).save(file, format="PNG")
    assert thumbnail("image", file.getvalue(), 64).size == (8, 6)
    with pytest.raises(BadRow):
        thumbnail("image", b"no picture", 64)


def test_a_recording_is_its_waveform_over_its_spectrogram() -> None:
    rate = 16_000
    tone = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(rate) / rate)
    found = np.asarray(thumbnail("audio", (np.concatenate([np.zeros(rate), tone]), rate), 90)).astype(int)
    assert found.shape == (90, 180, 3)
    inked = (found[:30] != 255).any(axis=2)  # (30, 180)
    assert inked[:, :85].sum(axis=0).max() <= 3 and inked[:, 95:].sum(axis=0).min() >= 28
    bright = found[30:].sum(axis=2)  # (60, 180)
    assert bright[:, :80].max() < 100 < bright[:, 100:].max()
    middle = bright[:, 100:170].mean(axis=1).argmax()
    assert 0.5 < middle / 60 < 0.75, "1 kHz lies a third up the mel scale"
    for samples in (np.zeros(1), np.zeros(rate * 60)):
        assert thumbnail("audio", (samples, rate), 64).size == (128, 64)
    with pytest.raises(BadRow):
        thumbnail("audio", b"no sound", 64)
