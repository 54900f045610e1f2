"""Weights of which each process keeps only its share (FSDP2); beside `distributed.py` the one user of its library.

A shared parameter is a `DTensor` cut along its first dimension. Its module gathers the whole parameter for the time of
its own forward and backward; gradients are scattered back as their mean over the processes, the convention of
`distributed.average_gradients`. Everything but `whole`, `whole_state` and `Shares.restore` works on the share alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import _composable_state
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, share_comm_ctx
from torch.distributed.tensor import DTensor, distribute_tensor

from counterpoint.distributed import process_count

__all__ = ["Shares", "is_shared", "local", "part_like", "share_out", "shareable", "whole_state"]

_SMALLEST = 2**12
"""Fewer numbers than this are not worth a message of their own: the module stays whole on every process."""
_LISTS = (nn.ModuleList, nn.ModuleDict)
_CONTAINERS = (*_LISTS, nn.Sequential)


def is_shared(tensor: Tensor) -> bool:
    """Whether this process holds only its share of a tensor."""
    return isinstance(tensor, DTensor)


def local(tensor: Tensor) -> Tensor:
    """This process's share, in the same memory: (rows of it, ...); a tensor that is not shared as it is."""
    return tensor.to_local().detach() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, detached. Collective for a shared one."""
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach()


def whole_state(state: Mapping[str, Any], *, keep: bool) -> dict[str, Any]:
    """Whole values by name, the shared ones gathered one after the other and put on the CPU. Collective.

    Args:
        state: name -> value; the same names on every process.
        keep: False on processes that only contribute: they drop each tensor at once, and get nothing back.
    """
    found = {}
    for name, value in state.items():
        if isinstance(value, DTensor):
            gathered = whole(value)
            value = gathered.cpu() if keep else None
        if keep:
            found[name] = value
    return found


def part_like(value: Tensor, like: Tensor) -> Tensor:
    """The share of a whole tensor that belongs to the share `like`; no message, since every process holds the whole.

    Args:
        value: the whole tensor, of the shape of `like`; one of another shape (a counter) comes back as it is.
        like: a parameter, shared or not.
    """
    if not isinstance(like, DTensor) or isinstance(value, DTensor) or value.shape != like.shape:
        return value
    value = value.to(like.device)
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)


def shareable(root: nn.Module, never: tuple[type[nn.Module], ...] = ()) -> list[nn.Module]:
    """Modules below `root` whose weights can be shared out, inner ones first.

    They are the blocks, that is the children of lists and sequences of modules, and what stands beside the blocks
    (embeddings, projections, stems): everything that is called as a module. Parameters that `root` and the like hold
    themselves are read by their methods and stay whole, and so does what is too small to be worth a message.

    Args:
        root: an encoder.
        never: kinds of modules that are not only called, but asked by other methods.
    """
    is_block = isinstance(root, _CONTAINERS)
    return [found for child in root.children() for found in _units(child, never, is_block=is_block)]


def _units(module: nn.Module, never: tuple[type[nn.Module], ...], *, is_block: bool) -> list[nn.Module]:
    is_called = not isinstance(module, (*_LISTS, *never))
    if is_called and not any(_holds_blocks(part) for part in module.modules()):
        return [module] if _size(module) >= _SMALLEST else []
    inner = shareable(module, never)
    if is_called and is_block:
        taken = {part for unit in inner for part in unit.modules()}
        if _size(module) - sum(map(_own_size, taken)) >= _SMALLEST:
            return [*inner, module]
    return inner


def _holds_blocks(module: nn.Module) -> bool:
    """Whether its children are networks in their own right, rather than single layers."""
    return isinstance(module, _CONTAINERS) and any(next(child.children(), None) for child in module.children())


def _own_size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters(recurse=False))


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


class _Plain:
    """What a module was before its weights were shared out."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self.kind = module, type(module)
        self.hooks = {name: frozenset(value) for name, value in vars(module).items() if name.endswith(_HOOKS)}
        self.before = frozenset(vars(module))
        self.added: frozenset[str] = frozenset()

    def look(self) -> None:
        """Notice what sharing has put on; what the module keeps for itself later on is its own."""
        self.added = frozenset(vars(self.module)) - self.before

    def restore(self) -> None:
        """Take it off."""
        self.module.__class__ = self.kind
        # Torch has no way back and keeps the state beside the module; without this it could not be shared out again.
        _composable_state._module_state_mapping.pop(self.module, None)
        for name in self.added & vars(self.module).keys():
            delattr(self.module, name)
        for name, before in self.hooks.items():
            hooks = vars(self.module)[name]
            for key in hooks.keys() - before:
                del hooks[key]


_HOOKS = ("_hooks", "_hooks_with_kwargs", "_hooks_always_called")


class Shares:
    """Modules of a network whose weights are shared out.

    Args:
        network: that holds them.
        plain: what they were before.
        strides: parameter name -> how it lay in memory, where it was not row after row.
    """

    def __init__(self, network: nn.Module, plain: Sequence[_Plain], strides: Mapping[str, tuple[int, ...]]) -> None:
        self._network, self._plain, self._strides = network, plain, strides

    @torch.no_grad()
    def restore(self) -> None:
        """Make the network plain again, with all weights on every process. Collective."""
        for plain in self._plain:
            plain.restore()
        found: dict[nn.Parameter, nn.Parameter] = {}
        for name, parameter in self._network.named_parameters():
            if is_shared(parameter):
                value = whole(parameter)
                if name in self._strides:
                    value = _lying_as(value, self._strides[name])
                found[parameter] = nn.Parameter(value, requires_grad=parameter.requires_grad)
        for module in self._network.modules():
            for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
                if parameter in found:
                    module.register_parameter(name, found[parameter])


def _lying_as(value: Tensor, stride: tuple[int, ...]) -> Tensor:
    """The same numbers in another order in memory."""
    return torch.empty_strided(value.shape, stride, dtype=value.dtype, device=value.device).copy_(value)


def share_out(network: nn.Module, units: Iterable[nn.Module], device: torch.device) -> Shares:
    """Leave each process its share of the weights of `units`; the names of all parameters stay. Collective.

    Args:
        network: with the same weights on every process.
        units: modules inside it, inner ones first; each gathers its weights when it is called.
        device: where the weights are.

    Returns:
        What makes the network plain again.
    """
    units = list(units)
    mesh = init_device_mesh(device.type, (process_count(),))
    strides = {n: p.stride() for n, p in network.named_parameters() if not p.is_contiguous()}
    plain = [_Plain(part) for unit in units for part in unit.modules()]
    modules: list[FSDPModule] = []
    for unit in units:
        for parameter in unit.parameters():
            if not parameter.is_contiguous():
                parameter.data = parameter.data.contiguous()
        unit.register_forward_hook(_without_views)
        kept = _kept_whole(network, unit)
        shared = fully_shard(unit, mesh=mesh, reshard_after_forward=True, ignored_params=kept)
        # Gather nothing ahead of its time in backward: the module called before this one may be another encoder, whose
        # backward never comes, and which would still hold these weights after the optimiser has changed them.
        shared.set_modules_to_backward_prefetch([shared])
        modules.append(shared)
    share_comm_ctx(modules)  # otherwise each of them keeps the buffer in which it gathered its weights last
    for part in plain:
        part.look()
    return Shares(network, plain, strides)


def _without_views(module: nn.Module, arguments: Any, output: Any) -> Any:
    """Outputs that an operation in place cannot cut off: backward finds a module through hooks on what it returned."""
    if isinstance(output, Tensor):
        return output.clone() if output.requires_grad and output._is_view() else output
    if type(output) in (list, tuple):
        return type(output)(_without_views(module, arguments, item) for item in output)
    return output


def _kept_whole(network: nn.Module, unit: nn.Module) -> set[nn.Parameter]:
    """Parameters of a unit that cannot be cut, or that a module outside of it uses as well (tied weights)."""
    inside = set(unit.modules())
    outside = {
        id(parameter)
        for module in network.modules()
        if module not in inside
        for parameter in module.parameters(recurse=False)
    }
    return {parameter for parameter in unit.parameters() if parameter.dim() == 0 or id(parameter) in outside}
