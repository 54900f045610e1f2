"""One of several representation spaces of a picture: an encoder of its own, and the projector that is trained on."""

from __future__ import annotations

from torch import Tensor, nn

from counterpoint.encoders.heads import mlp
from counterpoint.encoders.image import ImageEncoder

__all__ = ["Space"]


class Space(nn.Module):
    """An encoder with a linear map to the representation, and a projector to the heads that a loss sees.

    Args:
        encoder: see `ImageEncoder`.
        dim: length of the representation and of the heads.
        hidden: width of the projector, a linear map, batch normalisation, ReLU, and a linear map.
    """

    def __init__(self, encoder: str, dim: int, hidden: int) -> None:
        super().__init__()
        self.encoder = ImageEncoder(encoder)
        self.linear = nn.Linear(self.encoder.dim, dim)
        self.projector = mlp(dim, hidden, dim)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, s, s) -> (B, dim), the representation."""
        return self.linear(self.encoder(images))

    def heads(self, images: Tensor) -> Tensor:
        """(B, 3, s, s) -> (B, dim), of any length."""
        return self.projector(self(images))
