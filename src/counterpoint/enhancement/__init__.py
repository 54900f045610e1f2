"""What systems share that brighten backlit pictures by a map of light and a frozen CLIP."""

from counterpoint.enhancement.enhancement import LOGIT_SCALE, Enhancement
from counterpoint.enhancement.plan import Alternation, Weights

__all__ = ["LOGIT_SCALE", "Alternation", "Enhancement", "Weights"]
