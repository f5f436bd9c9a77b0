"""A second network like a given one: a copy, or for LoRA a further adapter on the same base.

Stage two holds p, its average and pi. Of a plain model each is a copy. Of a model of peft only the
adapters are: all three stand on one base, of which there is one in memory, and checkpoints hold the
adapters alone.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

__all__ = ["Adapter", "active", "move_average", "saved_names", "separate", "share_base", "twin"]

BASE = "__base__"  # what peft calls a model without any of its adapters


class Adapter(nn.Module):
    """A model of peft as it is with another one of its adapters; the weights stay the model's.

    Its parameters are the adapter's. Called, it runs the model with this adapter and in its own
    mode (training or not). All else is asked of the model.
    """

    def __init__(self, model: nn.Module, name: str):
        super().__init__()
        self.__dict__.update(shared=model, name=name)  # no submodule: the weights are not here
        self.train(model.training)

    def __getattr__(self, attribute: str) -> Any:
        if "shared" not in self.__dict__:
            raise AttributeError(attribute)
        return getattr(self.shared, attribute)

    def named_parameters(self, *args: Any, **options: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """The adapter's, by the names that they have in the model."""
        every = self.shared.named_parameters(*args, **options)
        return (pair for pair in every if self.name in pair[0].split("."))

    @contextmanager
    def active(self) -> Iterator[nn.Module]:
        """The model with this adapter, in the mode of this module, as long as the context lasts."""
        # Not by set_adapter, which also says anew which weights are trained.
        layers = [module for module in self.shared.modules() if hasattr(module, "_active_adapter")]
        before, training = [layer._active_adapter for layer in layers], self.shared.training
        for layer in layers:
            layer._active_adapter = self.name
        self.shared.train(self.training)
        try:
            yield self.shared
        finally:
            for layer, name in zip(layers, before, strict=True):
                layer._active_adapter = name
            self.shared.train(training)

    def forward(self, *args: Any, **options: Any) -> Any:
        """The model's, with this adapter."""
        with self.active() as model:
            return model(*args, **options)

    def activation_checkpointing_enable(self, **options: Any) -> None:
        """Refused: what is computed again, in the backward pass, would have another adapter."""
        raise ValueError(
            "with adapters on one base, train_behavior and activation_checkpointing exclude each "
            "other: give a behavior_model of its own, or leave out one of them"
        )

    gradient_checkpointing_enable = activation_checkpointing_enable


def active(network: nn.Module) -> AbstractContextManager[nn.Module]:
    """A context with the model to run: of an Adapter the shared one, else the network itself."""
    return network.active() if isinstance(network, Adapter) else nullcontext(network)


@torch.no_grad()
def twin(model: nn.Module, name: str) -> nn.Module:
    """A network with the weights of the model that can go its own way.

    A model of transformers is copied; of one of peft the active adapter is, by this name, unless
    weights of its base are trained as well.
    """
    if not _is_peft(model) or any(w.requires_grad for w in map(model.get_parameter, _base(model))):
        return copy.deepcopy(model)
    trained = {key: weight.requires_grad for key, weight in model.named_parameters()}
    config = copy.deepcopy(model.peft_config[model.active_adapter])
    config.init_lora_weights = False  # some ways to begin change the base
    with torch.random.fork_rng(devices=[]):
        model.add_adapter(name, config)
    new = Adapter(model, name)
    _copy_weights(Adapter(model, model.active_adapter), new)
    for key, weight in model.named_parameters():  # peft may have set the others anew
        weight.requires_grad_(trained.get(key, weight.requires_grad))
    return new


@torch.no_grad()
def separate(network: nn.Module) -> nn.Module:
    """A network without its twins: an Adapter becomes the one adapter of a copy of its model."""
    if not _is_peft(network):
        return network
    whole = network
    if isinstance(network, Adapter) and network.name == BASE:
        return copy.deepcopy(network.shared).unload()
    if isinstance(network, Adapter):
        whole = copy.deepcopy(network.shared).train(network.training)
        _copy_weights(network, Adapter(whole, whole.active_adapter))
    for name in set(whole.peft_config) - {whole.active_adapter}:
        whole.delete_adapter(name)
    return whole


@torch.no_grad()
def share_base(first: nn.Module, *others: nn.Module, bare: bool = False) -> tuple[Adapter, ...]:
    """Models of peft with adapters of one kind on equal bases, as adapters of one base.

    The base is the first one's, whose adapter stays as it is; the others are left alone, so that
    their bases can be forgotten. At play all are then run in one pass. bare: whether the base
    itself, as it is without adapters, comes last.

    ValueError where one has no adapters, or adapters or bases differ.
    """
    for other in others:
        _check_same_base(first, other)
    shared = [Adapter(first, first.active_adapter)]
    for number, other in enumerate(others):
        new = twin(first, f"shared{number}")
        if not isinstance(new, Adapter):
            raise ValueError("the base of the first model is trained, too: it cannot be shared")
        _copy_weights(Adapter(other, other.active_adapter), new)
        shared.append(new)
        if hasattr(other.config, "q_sft_prior"):
            first.config.q_sft_prior = other.config.q_sft_prior
    if bare:
        shared.append(Adapter(first, BASE))
    return tuple(each.eval() for each in shared)


def _check_same_base(first: nn.Module, second: nn.Module) -> None:
    if not (_is_peft(first) and _is_peft(second)):
        raise ValueError("share_base takes models of peft, each with adapters")
    configs = [copy.copy(model.peft_config[model.active_adapter]) for model in (first, second)]
    for config in configs:
        config.init_lora_weights = True  # how an adapter began says nothing of what it is
    bases = [{name: each.get_parameter(name) for name in _base(each)} for each in (first, second)]
    if configs[0] != configs[1] or bases[0].keys() != bases[1].keys():
        raise ValueError("the models have adapters of different kinds, or different bases")
    for name, weight in bases[0].items():
        if not torch.equal(weight, bases[1][name]):
            raise ValueError(f"the bases differ in {name}: adapters of one base alone can share it")


def _copy_weights(source: nn.Module, target: nn.Module) -> None:
    for weight, own in zip(source.parameters(), target.parameters(), strict=True):
        own.data = weight.data.clone()
        own.requires_grad_(weight.requires_grad)


def _is_peft(module: nn.Module) -> bool:
    """Whether a module is a model of peft, or an Adapter of one."""
    return hasattr(module, "peft_config") and hasattr(module, "get_base_model")


@torch.no_grad()
def move_average(average: nn.Module, current: nn.Module, rate: float) -> None:
    """theta_bar <- (1 - rate) theta_bar + rate theta, for a network and its twin."""
    if isinstance(average, Adapter):  # the base is one and the same
        current = Adapter(current, current.active_adapter)
    torch._foreach_lerp_(_own_parts(average), _own_parts(current), rate)


def _own_parts(network: nn.Module) -> list[torch.Tensor]:
    """The weights; of divided ones (``sharding``) what this process has of them."""
    weights = network.parameters()
    return [weight.to_local() if isinstance(weight, DTensor) else weight for weight in weights]


def saved_names(module: nn.Module) -> list[str]:
    """The names in the state of a module that a checkpoint needs: all but a frozen base of peft."""
    base = {
        f"{prefix}.{name}".lstrip(".")
        for prefix, part in module.named_modules()
        if _is_peft(part) and not isinstance(part, Adapter)
        for name in _base(part)
        if not part.get_parameter(name).requires_grad
    }
    return [name for name in module.state_dict() if name not in base]


def _base(model: nn.Module) -> set[str]:
    """Names of the weights under the adapters of a model of peft."""
    weights = model.named_parameters(remove_duplicate=False)  # a tied one has two names
    return {name for name, _ in weights if not {*model.peft_config} & {*name.split(".")}}
