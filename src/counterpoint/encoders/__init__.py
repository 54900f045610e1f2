"""Networks with one user or many: images (timm), texts (transformers), and both in one space (CLIP and its kin)."""
