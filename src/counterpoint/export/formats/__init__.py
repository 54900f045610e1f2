"""One file a format. Each offers `refuses`, `write`, `read` and `usage`; `export` finds it by its name."""
