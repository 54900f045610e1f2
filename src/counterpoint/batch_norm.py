"""Batch normalisation whose statistics are those of the rows of all processes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from counterpoint.distributed import process_count, sum_over_processes

__all__ = ["GlobalBatchNorm", "convert_batch_norm"]


class GlobalBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation over the rows of all processes, differentiable, on any device and backend.

    Same parameters, buffers and values as `torch.nn.BatchNorm1d/2d/3d` on the concatenated batch.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"input must have at least 2 dimensions (N, C, ...), got {tuple(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, ...) -> the same shape."""
        if process_count() == 1 or not (self.training or not self.track_running_stats):
            return super().forward(input)
        self._check_input_dim(input)
        axes = [0, *range(2, input.dim())]
        shape = [1, -1] + [1] * (input.dim() - 2)
        values = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
        count = values.new_tensor([values.numel() / max(values.shape[1], 1)])
        total = sum_over_processes(torch.cat([values.sum(axes), count]))  # (C + 1,)
        size = total[-1].detach()
        mean = total[:-1] / size  # (C,)
        centred = values - mean.view(shape)
        variance = sum_over_processes(centred.square().sum(axes)) / size  # (C,)
        self._update_running(mean.detach(), variance.detach(), size)
        normed = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            normed = normed * self.weight.view(shape) + self.bias.view(shape)
        return normed.to(input.dtype)

    def _update_running(self, mean: Tensor, variance: Tensor, size: Tensor) -> None:
        if not (self.training and self.track_running_stats):
            return
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        momentum = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        unbiased = variance * size / (size - 1).clamp(min=1)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum)


def convert_batch_norm(module: nn.Module) -> nn.Module:
    """Put a `GlobalBatchNorm` in the place of every BatchNorm below `module`; parameters and buffers are kept.

    A layer whose attribute `sees_all_rows` is true stays as it is: it runs inside a loss, on rows already gathered.
    """
    for name, child in list(module.named_children()):
        if getattr(child, "sees_all_rows", False):
            continue
        if isinstance(child, nn.modules.batchnorm._BatchNorm) and not isinstance(child, GlobalBatchNorm):
            new = GlobalBatchNorm(
                child.num_features, child.eps, child.momentum, child.affine, child.track_running_stats
            )
            new.weight, new.bias = child.weight, child.bias
            new.running_mean, new.running_var = child.running_mean, child.running_var
            new.num_batches_tracked = child.num_batches_tracked
            new.train(child.training)
            setattr(module, name, new)
        else:
            convert_batch_norm(child)
    return module
