"""How near enhanced pictures come to the originals they were made worse from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from counterpoint.data import BadRow
from counterpoint.evaluation.enhancing import enhanced, psnr, read_picture, ssim
from counterpoint.evaluation.protocol import Measured, NotApplicable, Protocol
from counterpoint.evaluation.task import Task

__all__ = ["Enhancement", "brightened"]


@dataclass(frozen=True)
class Enhancement(Protocol):
    """PSNR (dB) and SSIM of enhanced pictures against `target`, and of the pictures as they were.

    At the pictures' own resolution, rounded to 8 bits as they are written to a file. Rows without a target are left
    out. `uniform_psnr` is what the best single factor reaches, the same for all values of all pictures and chosen on
    the scored rows themselves: a model that only makes everything brighter stays below it.

    Attributes:
        factors: to choose from.
    """

    columns: ClassVar[tuple[str, ...]] = ("image", "target")

    factors: tuple[float, ...] = tuple(1 + step / 10 for step in range(21))

    def run(self, task: Task) -> Measured:
        """`psnr`, `ssim`, the same of the input, `psnr_gain`, `uniform_psnr`; a guesser leaves pictures as they are."""
        if not hasattr(task.system, "enhance"):
            raise NotApplicable("needs a model that enhances pictures")
        sums = dict.fromkeys(("psnr", "ssim", "input_psnr", "input_ssim"), 0.0)
        uniform, count = np.zeros(len(self.factors)), 0
        for position, row in enumerate(task.rows.scan()):
            try:
                if isinstance(row, BadRow):
                    raise row
                if row["target"] is None:
                    continue
                picture, target = read_picture(row["image"]), read_picture(row["target"])
                if picture.shape != target.shape:
                    raise BadRow(f"picture and target differ in shape: {picture.shape} and {target.shape}")
                result = enhanced(task.system, picture)
            except BadRow as error:
                task.skipped[task.rows.row_id(position)] = str(error)
                continue
            count += 1
            sums["psnr"] += psnr(result, target)
            sums["ssim"] += ssim(result, target)
            sums["input_psnr"] += psnr(picture, target)
            sums["input_ssim"] += ssim(picture, target)
            uniform += [psnr(brightened(picture, factor), target) for factor in self.factors]
        if not count:
            raise NotApplicable("needs rows with a picture in `target`")
        scores = {name: total / count for name, total in sums.items()}
        scores["psnr_gain"] = scores["psnr"] - scores["input_psnr"]
        scores["uniform_psnr"] = float(uniform.max()) / count
        chance = {"psnr": scores["input_psnr"], "ssim": scores["input_ssim"], "psnr_gain": 0.0}
        return Measured(scores, chance, {"pictures": count, "factor": self.factors[int(uniform.argmax())]})


def brightened(picture: np.ndarray, factor: float) -> np.ndarray:
    """(H, W, 3) uint8 times a factor, rounded."""
    return np.clip(np.round(picture * factor), 0, 255).astype(np.uint8)
