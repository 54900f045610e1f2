"""How long an enhancement trains, in which turns, and what counts how much."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["EXTENSIONS", "MARGINS", "Alternation", "Weights"]

EXTENSIONS = {"guides": (100, 60.0), "enhance": (60, 90.0)}
"""Steps of an extension, and the loss above which there is one."""
MARGINS = {0: (1.0, 0.0), 1: (0.9, 0.2), 2: (0.9, 0.1)}
"""Number of results -> large and small margin of the ranking."""


@dataclass(frozen=True)
class Alternation:
    """How long the stages last, in steps, and how guides are learnt.

    Attributes:
        guides: first training of the guides.
        reconstruction: first training of the network, to leave pictures as they are.
        enhancement: of the network, in each round; None takes the run's own length.
        refinement: of the guides, in each round; 0 leaves them as they were learnt first.
        rounds: of enhancement and refinement.
        batch: pictures a step of the guides; None takes the run's.
        learning_rate: of the guides.
        extensions: a round whose loss is above 90 (guides: 60) goes on for 60 (100) steps, at most so many times.
            The official code has no such limit.
    """

    guides: int = 8000
    reconstruction: int = 1000
    enhancement: int | None = 2100
    refinement: int = 1000
    rounds: int = 14
    batch: int | None = 16
    learning_rate: float = 5e-6
    extensions: int = 20

    def __post_init__(self) -> None:
        least = {"guides": 1, "reconstruction": 1, "enhancement": 1, "refinement": 0, "rounds": 0, "extensions": 0}
        for name, low in least.items():
            if (value := getattr(self, name)) is not None and value < low:
                raise ValueError(f"{name} must be at least {low}, got {value}")


@dataclass(frozen=True)
class Weights:
    """Factors of the loss terms.

    Attributes:
        guidance, identity: while the network enhances.
        stages: of the five stages of features in `identity`.
        reconstruction: of the same features, all stages alike, while the network learns to leave pictures alone.
        ranking: while the guides are refined.
    """

    guidance: float = 320.0
    identity: float = 22.5
    stages: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0, 0.5)
    reconstruction: float = 25.0
    ranking: float = 200.0
