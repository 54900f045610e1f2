"""Files of the model hub, or of its local cache when there is no network; safetensors only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import hf_hub_download
from transformers.utils import logging

__all__ = ["download", "one_line", "quiet"]


def one_line(error: Exception, limit: int = 300) -> str:
    """An error's text without line breaks, shortened."""
    return " ".join(str(error).split())[:limit] or type(error).__name__


def download(repository: str, files: Sequence[str], name: str) -> Path:
    """The first of `files` that a repository of the hub, or its local cache, has.

    Raises:
        ValueError: none of them is to be had.
    """
    for file in files:
        if not file.endswith(".safetensors"):
            raise ValueError(f"{name}: {file} is no safetensors file; other formats are not read, they may hold code")
    first: Exception | None = None
    for file in files:
        try:
            return Path(hf_hub_download(repository, file))
        except Exception as error:  # the client raises a dozen kinds; all mean that the file is not to be had now
            first = first or error
    assert first is not None
    raise ValueError(f"{name}: weights are neither in the hub's cache nor reachable: {one_line(first)}") from first


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' progress bars and its notes on weights that an encoder does not use."""
    bar, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
