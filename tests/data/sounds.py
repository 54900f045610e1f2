"""Recordings of a known sound in every form people keep them in."""

from __future__ import annotations

import io

import av
import numpy as np
import soundfile

FORMATS = {
    "wav-8": ("WAV", "PCM_U8"),
    "wav-16": ("WAV", "PCM_16"),
    "wav-24": ("WAV", "PCM_24"),
    "wav-32": ("WAV", "PCM_32"),
    "wav-float": ("WAV", "FLOAT"),
    "wav-double": ("WAV", "DOUBLE"),
    "wav-mu-law": ("WAV", "ULAW"),
    "flac": ("FLAC", "PCM_24"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}


def noise(seconds: float, rate: int, seed: int = 0) -> np.ndarray:
    """(N,) in [-1, 1]: noise below 3 kHz whose loudness rises and falls; the same sound at every rate."""
    count, tones = round(seconds * rate), int(3000 * seconds)
    spectrum = np.zeros(count // 2 + 1, dtype=complex)
    spectrum[1:tones] = np.random.default_rng(seed).standard_normal((tones - 1, 2)) @ np.array([1, 1j])
    samples = np.fft.irfft(spectrum, n=count) * count / np.sqrt(tones)
    return 0.1 * samples * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * np.arange(count) / rate))


def encoded(samples: np.ndarray, rate: int, form: str) -> bytes:
    """(N,) or (N, channels) as bytes of one of `FORMATS`."""
    container, kind = FORMATS[form]
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=container, subtype=kind)
    return buffer.getvalue()


def in_container(samples: np.ndarray, rate: int, codec: str, container: str) -> bytes:
    """(N,) as bytes that libsndfile does not read: ("aac", "mp4"), ("libopus", "webm")."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate, layout="stereo")
        frame = av.AudioFrame.from_ndarray(np.stack([samples] * 2).astype(np.float32), format="fltp", layout="stereo")
        frame.sample_rate, frame.pts = rate, 0
        for packet in (*stream.encode(frame), *stream.encode(None)):
            output.mux(packet)
    return buffer.getvalue()
