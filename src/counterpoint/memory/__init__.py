"""What outlives a step: queues, momentum encoders, prototypes."""

from counterpoint.memory.momentum import MomentumEncoder
from counterpoint.memory.prototypes import Prototypes
from counterpoint.memory.queue import Queue, Queues

__all__ = ["MomentumEncoder", "Prototypes", "Queue", "Queues"]
