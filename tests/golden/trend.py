"""TREND: both forms of rendering, what they ask of distances, ego motion and the encoding of actions."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from counterpoint.encoders.neural_field import sinusoidal
from counterpoint.losses import (
    eikonal_error,
    free_space_error,
    near_surface_error,
    opacity_from_samples,
    opacity_from_slopes,
    ray_weights,
    rendered_error,
)
from counterpoint.losses.rendering import annealed_slopes, rendered, sampling_slopes
from counterpoint.views.ego_motion import ego_transforms, moved

Arrays = Mapping[str, np.ndarray]
_SLACK = 1e-7


def _tensor(array: np.ndarray, *, grad: bool = False) -> Tensor:
    return torch.from_numpy(np.array(array)).requires_grad_(grad)


def _mean(total_and_count: tuple[Tensor, Tensor]) -> Tensor:
    total, count = total_and_count
    return total / count


def range_render(given: Arrays) -> Arrays:
    sdf, ranges = _tensor(given["sdf"], grad=True), _tensor(given["ranges"])
    alpha = opacity_from_samples(sdf, sharpness=float(given["inv_s"]))
    weights = ray_weights(alpha)
    target = _tensor(given["gt_range"])[:, None]
    loss = _mean(rendered_error(weights, ranges[:, :-1], target, torch.ones_like(target)))
    loss.backward()
    return {
        "alpha": alpha.detach().numpy(),
        "weights": weights.detach().numpy(),
        "rendered_range": rendered(weights, ranges[:, :-1], normalised=False)[:, 0].detach().numpy(),
        "loss": loss.detach().numpy(),
        "grad_sdf": sdf.grad.numpy(),
    }


def neus_render(given: Arrays) -> Arrays:
    sdf, gradients = _tensor(given["sdf"], grad=True), _tensor(given["sdf_grad"], grad=True)
    variance = _tensor(np.atleast_1d(given["variance"]), grad=True)
    starts, deltas = _tensor(given["starts"]), _tensor(given["deltas"])
    sharpness = (10 * variance).exp().clamp(1e-6, 1e6)
    slopes = annealed_slopes(_tensor(given["directions"]), gradients, annealing=float(given["cos_anneal"]))
    alpha = opacity_from_slopes(sdf, slopes, deltas, sharpness=sharpness)
    weights = ray_weights(alpha, slack=_SLACK)
    target = _tensor(given["gt_depth"])[:, None]
    loss = _mean(rendered_error(weights, starts, target, torch.ones_like(target), normalised=True))
    loss.backward()
    return {
        "alpha": alpha.detach().numpy(),
        "weights": weights.detach().numpy(),
        "depth": rendered(weights, starts, normalised=True)[:, 0].detach().numpy(),
        "loss": loss.detach().numpy(),
        "grad_sdf": sdf.grad.numpy(),
        "grad_sdf_grad": gradients.grad.numpy(),
        "grad_variance": variance.grad.numpy(),
    }


def neus_fixed_inv_s(given: Arrays) -> Arrays:
    deltas = _tensor(given["deltas"])[:, :-1]
    middle, slopes = sampling_slopes(_tensor(given["sdf"]), deltas)
    alpha = opacity_from_slopes(middle, slopes, deltas, sharpness=float(given["inv_s"]))
    return {"alpha": alpha.numpy(), "weights": ray_weights(alpha, slack=_SLACK).numpy()}


def surface_losses(given: Arrays) -> Arrays:
    leaves = {name: _tensor(given[name], grad=True) for name in ("pred_depth", "sdf", "sdf_grad", "surface_sdf")}
    ranges, measured = _tensor(given["z_vals"]), _tensor(given["gt_depth"])
    band = {"truncation": float(given["truncation"])}
    whole, points = torch.ones_like(leaves["pred_depth"]), leaves["surface_sdf"][:, None]
    parts = {
        # A ray that renders its only sample wholly renders that sample's range; a point's distance should be 0.
        "depth_loss": _mean(rendered_error(whole, leaves["pred_depth"], measured, measured)),
        "free_space_loss": _mean(free_space_error(leaves["sdf"], ranges, measured, **band)),
        "sdf_loss": _mean(near_surface_error(leaves["sdf"], ranges, measured, **band)),
        "eikonal_loss": _mean(eikonal_error(leaves["sdf_grad"].flatten(0, 1))),
        "surface_sdf_loss": _mean(
            rendered_error(torch.ones_like(points), points, torch.zeros_like(points), torch.ones_like(points))
        ),
    }
    loss = torch.stack(list(parts.values())).sum()
    loss.backward()
    return {
        **{name: value.detach().numpy() for name, value in parts.items()},
        "loss": loss.detach().numpy(),
        **{f"grad_{name}": leaf.grad.numpy() for name, leaf in leaves.items()},
    }


def ego_motion(given: Arrays) -> Arrays:
    transforms = ego_transforms(_tensor(given["actions"]))
    return {"transforms": transforms.numpy(), "points_in_frame0": moved(transforms, _tensor(given["points"])).numpy()}


def action_encoding(given: Arrays) -> Arrays:
    return {"out": sinusoidal(_tensor(given["x"]), int(given["num_freqs"])).numpy()}


ADAPTERS: dict[str, Callable[[Arrays], Arrays]] = {
    "trend/range_render": range_render,
    "trend/neus_render": neus_render,
    "trend/neus_fixed_inv_s": neus_fixed_inv_s,
    "trend/surface_losses": surface_losses,
    "trend/ego_motion": ego_motion,
    "trend/action_encoding": action_encoding,
}
