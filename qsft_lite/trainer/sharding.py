"""A stage divided among processes by FSDP2, for models that do not fit on one GPU.

Each process holds a part of every weight, of its gradient and of what the optimizer keeps of it. A
layer is put together when it is run, and divided again after it. The stage itself is the root, so
that what it reads outside of its models' own forward, such as a head's weight, is whole meanwhile.

Why not by the options fsdp and fsdp_config of transformers: on CPUs accelerate (1.15) divides
nothing by them and does not say so; in mixed precision they round the head's weight, too, of which
the step reads differences of single logits; and their checkpoints cannot be gone on with by one
process alone. Ours are the same files as without FSDP2.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

__all__ = ["DividedStage", "divided_like", "divided_state", "whole_tensors"]


class DividedStage:
    """A stage and its division among all processes. All methods are called by all of them.

    whole: the stage as it was, without its weights as long as it is divided.
    divided: the stage to train.
    """

    def __init__(self, stage: nn.Module, device: torch.device):
        self.whole = stage
        # A copy that shares the weights, of which each process then keeps its part.
        memo: dict[int, Any] = {
            id(weight): nn.Parameter(weight.data, weight.requires_grad)
            for weight in stage.parameters()
        }
        settings = getattr(stage, "settings", None)
        self.divided = copy.deepcopy(stage, {**memo, id(settings): settings})
        mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
        for layer in _layers(self.divided):
            fully_shard(layer, mesh=mesh)
        # True: so that all is divided whenever no step runs, for the average and for checkpoints.
        fully_shard(self.divided, mesh=mesh, reshard_after_forward=True)
        del memo
        self.empty()

    def gather(self, *, keep: bool = True) -> None:
        """Give the whole stage its weights; with keep=False only take part in it."""
        parts = dict(self.divided.named_parameters())
        for name, weight in self.whole.named_parameters():
            full = parts[name].detach().full_tensor()
            if keep:
                weight.data = full.to(weight.device, copy=True)

    def scatter(self) -> None:
        """Take over the weights of the whole stage, which has the same in all processes."""
        parts = dict(self.divided.named_parameters())
        with torch.no_grad():
            for name, weight in self.whole.named_parameters():
                parts[name].copy_(divided_like(weight, parts[name]))

    def empty(self) -> None:
        """Free the weights of the whole stage."""
        for weight in self.whole.parameters():
            weight.data = weight.new_empty(0)


def _layers(stage: nn.Module) -> list[nn.Module]:
    """What is put together and divided again as one: the layers, as the models name them."""
    names = {
        name for part in stage.modules() for name in getattr(part, "_no_split_modules", None) or ()
    }
    return [part for part in stage.modules() if type(part).__name__ in names]


def divided_like(value: torch.Tensor, part: DTensor) -> DTensor:
    """A tensor that all processes have whole, divided as another one of its shape is."""
    value = value.detach().to(part.device)
    return distribute_tensor(value, part.device_mesh, part.placements, src_data_rank=None)


def whole_tensors(found: Any) -> Any:
    """A state dict with every divided tensor put together, on the CPU. For all processes."""
    if isinstance(found, DTensor):
        return found.detach().full_tensor().to("cpu", copy=True)
    if isinstance(found, dict):
        return {name: whole_tensors(value) for name, value in found.items()}
    if isinstance(found, list):
        return [whole_tensors(value) for value in found]
    return found


def divided_state(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """A state dict of an optimizer, with what is kept of each weight divided as the weight is."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    kept = {
        index: {
            name: divided_like(value, weights[index])
            if torch.is_tensor(value) and value.shape == weights[index].shape
            else value
            for name, value in of_weight.items()
        }
        for index, of_weight in state["state"].items()
    }
    return {**state, "state": kept}
