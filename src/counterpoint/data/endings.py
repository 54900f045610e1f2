"""File name endings of media other than pictures, and of files that lie beside media. Pictures: `images.EXTENSIONS`."""

from __future__ import annotations

__all__ = ["AUDIO", "POINTS", "SIDECARS", "VIDEO"]

VIDEO = frozenset([".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v"])
AUDIO = frozenset([".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a"])
POINTS = frozenset([".ply", ".pcd", ".las", ".laz", ".bin", ".npy", ".npz"])
"""Clouds of points. Some are endings of other things too, so a folder holds clouds only when it has no other media."""

SIDECARS = frozenset(  # fmt: skip
    [
        ".txt",
        ".json",
        ".jsonl",
        ".csv",
        ".tsv",
        ".xml",
        ".yaml",
        ".yml",
        ".md",
        ".html",
        ".htm",
        ".pdf",
        ".doc",
        ".docx",
        ".log",
        ".py",
        ".ini",
        ".cfg",
        ".toml",
        ".db",
        ".npy",
        ".npz",
        ".pkl",
        ".pickle",
        ".pt",
        ".pth",
        ".safetensors",
        ".svg",
        ".zip",
        ".tar",
        ".gz",
        ".parquet",
        ".lance",
        ".caption",
        ".cls",
    ]
)
"""Endings that are no media and are passed over without a word."""
