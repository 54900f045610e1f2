"""The training loop and what surrounds it: settings, schedules, optimisers, checkpoints, logging, health."""
