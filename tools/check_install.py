"""Imports what every run needs, so that a torch and a torchvision that do not fit are noticed at installation."""

import importlib
import sys

for name in ("torch", "torchvision", "timm", "transformers", "open_clip", "lightning_fabric", "counterpoint"):
    try:
        importlib.import_module(name)
    except Exception as error:
        sys.exit(
            f"error: {name} is installed but does not import ({type(error).__name__}: {error}).\n"
            "A torchvision that was built for another torch is the usual reason: choose a matching pair at "
            "https://pytorch.org/get-started/locally/ (torch 2.14 or newer), install it into .venv, and try again."
        )
