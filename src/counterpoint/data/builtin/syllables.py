"""Synthesised speech-like sounds with their words, for tests and first steps: nobody speaks here.

Words of two or three syllables, a noise burst or a murmur and a vowel each, made by a small formant synthesiser in
NumPy from a seed; it needs no package. Twelve voices differ in pitch, length of the vocal tract, breath and pace. What
is learnt from it says nothing about human speech: take the set `prompts` for that. Columns:
    audio: wav, 8,000 samples a second, 16 bits.
    transcript: the words, spelt as they sound.
    label: the first word, one of 24.
    speaker: the voice, from 0.

Splits: train (600), validation (120) and test (240) hold one word each; train-phrases, validation-phrases and
test-phrases as many phrases of two to four. The voices of validation (2) and test (3) are not heard in train (7).
"""

from __future__ import annotations

import io
import wave
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.signal import lfilter

from counterpoint.data.package_rows import made_once
from counterpoint.data.rows import Rows

_COUNTS = {"train": 600, "validation": 120, "test": 240}
SPLITS = (*_COUNTS, *(f"{part}-phrases" for part in _COUNTS), "all")
NEEDS = ()
LICENCE = "as counterpoint (made by its code)"

RATE = 8000
_VOICES = {"train": range(7), "validation": range(7, 9), "test": range(9, 12)}
_REVISION = 1

_VOWELS = {
    "a": (750, 1250, 2500),
    "e": (480, 1900, 2550),
    "i": (300, 2250, 3000),
    "o": (480, 880, 2400),
    "u": (330, 750, 2300),
}
"""Formants in Hz of an adult's vocal tract."""

_CONSONANTS = {
    "b": (300, 500, 0.025, True),
    "d": (1800, 900, 0.025, True),
    "k": (1500, 700, 0.06, False),
    "m": (260, 150, 0.08, True),
    "n": (1300, 200, 0.08, True),
    "s": (3300, 700, 0.11, False),
    "f": (2400, 2200, 0.09, False),
    "t": (2900, 1300, 0.05, False),
}
"""Centre and width in Hz of the band, seconds, and whether the voice sounds."""

WORDS = (
    *("bado", "dime", "kusa", "mena", "nofi", "sito", "fuka", "tabe"),
    *("somi", "keda", "tuno", "bifu", "nasi", "foke", "mitu", "dabo"),
    *("kasemi", "tobuna", "sifode", "namiku", "bedota", "fumise", "dikano", "metuba"),
)
_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("audio", pa.binary()),
        ("transcript", pa.string()),
        ("label", pa.int64()),
        ("speaker", pa.int64()),
        ("split", pa.string()),
    ]
)


def rows(split: str) -> Rows:
    """The rows of a split; see the module's docstring."""
    reader = made_once(f"syllables-{_REVISION}", _SCHEMA, _speak)
    everything = Rows(reader, name=f"syllables:{split}", class_names=WORDS)
    return everything if split == "all" else everything.select(np.array(list(everything.column("split"))) == split)


def _speak() -> Iterator[dict[str, Any]]:
    for number, split in enumerate(name for name in SPLITS if name != "all"):
        part, _, phrases = split.partition("-")
        for index in range(_COUNTS[part]):
            rng = np.random.default_rng([2108, number, index])
            voice = int(rng.choice(list(_VOICES[part])))
            count = int(rng.integers(2, 5)) if phrases else 1
            words = [index % len(WORDS), *(int(word) for word in rng.integers(len(WORDS), size=count - 1))]
            yield {
                "id": f"{split}/{index:03d}",
                "audio": _wav(_phrase([WORDS[word] for word in words], voice, rng)),
                "transcript": " ".join(WORDS[word] for word in words),
                "label": words[0],
                "speaker": voice,
                "split": split,
            }


def _wav(samples: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return buffer.getvalue()


def _phrase(words: list[str], voice: int, rng: np.random.Generator) -> np.ndarray:
    """Words with short silences between them; a faint noise lies under all."""
    of_voice = np.random.default_rng([2108, 99, voice])
    pitch, tract, breath, pace = of_voice.uniform((85, 0.88, 0.0, 0.85), (240, 1.15, 0.3, 1.2))
    pieces = [np.zeros(int(rng.uniform(0.03, 0.1) * RATE))]
    for word in words:
        heights = pitch * rng.uniform(0.9, 1.1) * np.linspace(1.08, 0.92, len(word) // 2)
        for place, height in enumerate(heights):
            consonant, vowel = word[2 * place], word[2 * place + 1]
            pieces += _syllable(consonant, vowel, height, tract, breath, pace * rng.uniform(0.9, 1.15), rng)
        pieces.append(np.zeros(int(rng.uniform(0.05, 0.15) * RATE)))
    samples = np.concatenate(pieces)
    samples = rng.uniform(0.3, 0.8) * samples / np.abs(samples).max()
    return np.clip(samples + 10 ** rng.uniform(-3.2, -2.2) * rng.standard_normal(len(samples)), -1, 1)


def _syllable(
    consonant: str, vowel: str, pitch: float, tract: float, breath: float, pace: float, rng: np.random.Generator
) -> list[np.ndarray]:
    centre, width, seconds, voiced = _CONSONANTS[consonant]
    length, onset = int(rng.uniform(0.12, 0.18) * pace * RATE), int(seconds * pace * RATE)
    source = _source(length + onset, pitch, breath, rng)
    noise = rng.standard_normal(onset)
    burst = _resonance(source[:onset] * 2 + 0.2 * noise if voiced else noise, centre * tract, width)
    body = source[onset:]
    formants = np.array(_VOWELS[vowel]) * tract * rng.uniform(0.96, 1.04, 3)
    for frequency, band in zip(formants, (70, 100, 150), strict=True):
        body = _resonance(body, frequency, band)
    fade = np.minimum(1.0, np.minimum(np.arange(1, length + 1), np.arange(length, 0, -1)) / (0.015 * RATE))
    burst = burst / (np.abs(burst).max() + 1e-9) * (0.5 if voiced else 0.35)
    return [burst, body / (np.abs(body).max() + 1e-9) * fade]


def _source(length: int, pitch: float, breath: float, rng: np.random.Generator) -> np.ndarray:
    """Pulses of the voice, softened, with breath between them."""
    phase = np.cumsum(pitch * (1 + 0.02 * np.sin(2 * np.pi * 5 * np.arange(length) / RATE)) / RATE)
    pulses = (np.diff(np.floor(phase), prepend=0.0) > 0).astype(float)
    return lfilter([1.0], [1.0, -0.9], pulses) + 0.1 * breath * rng.standard_normal(length)


def _resonance(samples: np.ndarray, frequency: float, band: float) -> np.ndarray:
    """A resonator of two poles (Klatt 1980)."""
    radius = np.exp(-np.pi * band / RATE)
    angle = 2 * np.pi * min(frequency, 0.47 * RATE) / RATE
    first, second = 2 * radius * np.cos(angle), -(radius**2)
    return lfilter([1 - first - second], [1.0, -first, -second], samples)
