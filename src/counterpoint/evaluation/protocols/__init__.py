"""One file a protocol; `evaluation.protocol` finds them by the name of their file."""
