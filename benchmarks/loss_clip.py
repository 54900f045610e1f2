"""Time and extra peak memory of a loss, forward and backward, against the dense formula of the same loss.

    python benchmarks/loss_clip.py                                 # clip_loss against open_clip's ClipLoss
    python benchmarks/loss_clip.py --rows 16384 --width 512 --repeats 3
    python benchmarks/loss_clip.py --loss nt_xent --rows 4096 --width 128
    python benchmarks/loss_clip.py --loss late_interaction --rows 256 --width 256
    python benchmarks/loss_clip.py --rows 65536 --alone            # without the peer, which would not fit

Both run in one process, in turn, and the shortest time of each counts: another program on the same cores can
only lengthen a run. The time on the cores is that of all threads together; with one thread it is what the
clock would show on an idle machine. Memory is the peak of a fresh process above what it held with the inputs
ready, gradients included.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import torch
from open_clip.loss import ClipLoss, SigLipLoss
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from counterpoint.losses import clip_loss, late_interaction, nt_xent, siglip_loss

Call = Callable[..., Tensor]
TOKENS = (49, 32)
"""Image and text tokens of late interaction: a ViT-B/32 at 224 pixels, and captions."""


def dense_nt_xent(first: Tensor, second: Tensor) -> Tensor:
    """Each view against all others as one matrix."""
    views = torch.cat([first, second])
    logits = views @ views.T / 0.1
    logits = logits.masked_fill(torch.eye(len(views), dtype=torch.bool), float("-inf"))
    return cross_entropy(logits, torch.arange(len(views)).roll(len(first)))


def dense_late_interaction(image: Tensor, text: Tensor) -> Tensor:
    """All token similarities as one tensor."""
    scores = torch.einsum("ikd,jrd->ijkr", image, text)
    own = torch.arange(len(image))
    of_image, of_text = scores.amax(3).mean(2), scores.amax(2).mean(2)
    return (cross_entropy(of_image / 0.07, own) + cross_entropy(of_text.T / 0.07, own)) / 2


PAIRS: dict[str, tuple[str, Call, Call]] = {
    "clip": (
        "open_clip ClipLoss",
        lambda image, text, scale: clip_loss(image, text, logit_scale=scale),
        lambda image, text, scale: ClipLoss()(image, text, scale),
    ),
    "siglip": (
        "open_clip SigLipLoss",
        lambda image, text, scale: siglip_loss(image, text, logit_scale=scale, logit_bias=-10.0),
        lambda image, text, scale: SigLipLoss()(image, text, scale, torch.tensor(-10.0)),
    ),
    "nt_xent": (
        "dense formula",
        lambda first, second, scale: nt_xent(first, second, temperature=0.1),
        lambda first, second, scale: dense_nt_xent(first, second),
    ),
    "late_interaction": (
        "dense formula",
        lambda image, text, scale: late_interaction(image, text, temperature=0.07),
        lambda image, text, scale: dense_late_interaction(image, text),
    ),
}


def inputs(loss: str, rows: int, width: int, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """Unit rows and a scale, all with gradient; the second side resembles the first, as in training."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(rows, count, width) for count in TOKENS] if loss == "late_interaction" else [(rows, width)] * 2
    first, second = (normalize(torch.randn(*shape, generator=generator), dim=-1) for shape in shapes)
    if loss != "late_interaction":
        second = normalize(first + 2 * second, dim=-1)
    return first.requires_grad_(), second.requires_grad_(), torch.tensor(scale, requires_grad=True)


def seconds(call: Call, leaves: tuple[Tensor, ...]) -> tuple[float, float]:
    """One forward and backward: time on the clock, and time on the cores."""
    for leaf in leaves:
        leaf.grad = None
    start, start_on_cores = time.perf_counter(), time.process_time()
    call(*leaves).backward()
    return time.perf_counter() - start, time.process_time() - start_on_cores


def extra_memory(call: Call, leaves: tuple[Tensor, ...]) -> float:
    """Peak above what was held before, in MB; in a process that has done nothing else."""
    before = psutil.Process().memory_info().rss / 2**20
    seconds(call, leaves)
    return peak_memory() - before


def peak_memory() -> float:
    """Most that this process ever held, in MB."""
    status = Path("/proc/self/status")
    if status.exists():  # on Linux, ru_maxrss starts from that of the parent process
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def memory_in_fresh_process(arguments: argparse.Namespace, which: int) -> float:
    """`extra_memory` of ours (0) or the peer's (1)."""
    command = [sys.executable, str(Path(__file__).resolve()), "--memory-of", str(which)]
    for name in ("loss", "rows", "width", "scale", "threads"):
        command += [f"--{name}", str(getattr(arguments, name))]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(json.loads(answer.splitlines()[-1]))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loss", choices=PAIRS, default="clip")
    parser.add_argument("--rows", type=int, default=16384)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--scale", type=float, default=1 / 0.07, help="logit scale of clip and siglip")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--alone", action="store_true", help="leave out the peer")
    parser.add_argument("--memory-of", type=int, default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    peer, *calls = PAIRS[arguments.loss]
    leaves = inputs(arguments.loss, arguments.rows, arguments.width, arguments.scale)
    if arguments.memory_of is not None:
        print(json.dumps(extra_memory(calls[arguments.memory_of], leaves)))
        return
    names = ["counterpoint", peer][: 1 if arguments.alone else 2]
    runs: list[list[tuple[float, float]]] = [[] for _ in names]
    for _ in range(arguments.repeats):
        for place in reversed(range(len(names))):
            runs[place].append(seconds(calls[place], leaves))
    best = [[min(run[kind] for run in of_one) for kind in (0, 1)] for of_one in runs]
    memory = [memory_in_fresh_process(arguments, place) for place in range(len(names))]
    print(f"{arguments.loss}, {arguments.rows} rows, width {arguments.width}, {arguments.threads} threads")
    print(f"{'':20s} {'clock':>8s} {'cores':>10s} {'memory':>11s}")
    for name, (clock, cores), held, of_one in zip(names, best, memory, runs, strict=True):
        every = " ".join(f"{run[0]:.2f}" for run in of_one)
        print(f"{name:20s} {clock:6.2f} s {cores:8.2f} s {held:8.0f} MB   (clock of every run: {every})")
    if not arguments.alone:
        clock, cores = (best[0][kind] / best[1][kind] for kind in (0, 1))
        print(f"{'ratio':20s} {clock:6.2f}   {cores:8.2f}   {memory[0] / memory[1]:8.2f}")


if __name__ == "__main__":
    main()
