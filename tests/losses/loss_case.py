"""What the generic tests know of a loss. `cases/<loss>.py` holds `CASES`; nothing else lists them."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Arguments = dict[str, Any]
FOLDER = Path(__file__).parent / "cases"


@dataclass(frozen=True)
class Case:
    """One way to call a public loss.

    Attributes:
        name: unique.
        function: name of the public function in `counterpoint.losses`.
        call: arguments -> 0-d value; the function itself, or a sum over what it returns.
        make: (generator, rows, width) -> arguments in float64, random.
        oracle: arguments -> value, with loops over numbers, written from the equation only.
        learnt: arguments that get a gradient.
        rows: arguments with one row an example; gathered when there are several processes. () when row numbers
            are among the arguments, so that pieces of a batch are no batch.
        sharpness: (argument, value) of a temperature of 0.01.
        turned: arguments that may be rotated together without changing the value.
        swapped: two arguments that may change places.
        guess: (arguments) -> value when all rows are equal.
        linear: memory is linear in the rows.
        tiled: computed in tiles, without a second derivative; False for an ordinary differentiable expression.
        least: fewest rows for which the loss is defined.
    """

    name: str
    function: str
    call: Callable[..., Tensor]
    make: Callable[[torch.Generator, int, int], Arguments]
    oracle: Callable[..., float]
    learnt: tuple[str, ...]
    rows: tuple[str, ...] = ()
    sharpness: tuple[str, float] | None = None
    turned: tuple[str, ...] = ()
    swapped: tuple[str, str] | None = None
    guess: Callable[[Arguments], float] | None = None
    linear: bool = True
    tiled: bool = True
    least: int = 1

    def __str__(self) -> str:
        return self.name

    def features(self, arguments: Arguments) -> list[str]:
        """The row arguments that are embeddings."""
        return [name for name in self.rows if arguments[name].is_floating_point()]


def unit_rows(generator: torch.Generator, *shape: int) -> Tensor:
    """Random unit vectors in float64."""
    return torch.nn.functional.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


def log_uniform(generator: torch.Generator, low: float, high: float) -> float:
    """A number between `low` and `high`, its logarithm uniform."""
    return float(low * (high / low) ** torch.rand((), generator=generator).item())


def temperature(generator: torch.Generator) -> Tensor:
    """From 0.01 to 10, as trust in a loss is asked for."""
    return torch.tensor(log_uniform(generator, 0.01, 10.0), dtype=torch.float64)


def random_arguments(case: Case, seed: int, rows: int | None = None, width: int | None = None) -> Arguments:
    """Arguments of random size (2-9 rows, 1-16 wide) unless given."""
    generator = torch.Generator().manual_seed(seed)
    rows = int(torch.randint(max(2, case.least), 10, (), generator=generator)) if rows is None else rows
    width = int(torch.randint(1, 17, (), generator=generator)) if width is None else width
    return case.make(generator, rows, width)


def convert(arguments: Arguments, dtype: torch.dtype) -> Arguments:
    """Row tensors in another floating type; scalars (temperature ...) keep float64's value in float32."""
    return {
        name: value.to(dtype if value.dim() else torch.promote_types(dtype, torch.float32))
        if isinstance(value, Tensor) and value.is_floating_point()
        else value
        for name, value in arguments.items()
    }


def with_gradient(case: Case, arguments: Arguments) -> tuple[Tensor, dict[str, Tensor]]:
    """The value and the gradient of every learnt argument."""
    leaves = {name: arguments[name].detach().clone().requires_grad_() for name in case.learnt}
    value = case.call(**{**arguments, **leaves})
    if leaves:
        value.backward()
    return value.detach(), {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}


@functools.cache
def all_cases() -> tuple[Case, ...]:
    """Every case of every file, by file name."""
    cases: list[Case] = []
    for path in sorted(FOLDER.glob("*.py")):
        spec = importlib.util.spec_from_file_location(f"loss_cases_{path.stem}", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        cases += module.CASES
    return tuple(cases)


def find_case(name: str) -> Case:
    """The case called `name`, for worker processes."""
    return next(case for case in all_cases() if case.name == name)
