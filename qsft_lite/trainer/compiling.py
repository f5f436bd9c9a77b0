"""torch.compile for the layers of the networks, as long as they are trained.

What a layer does between its matrix products (norms, rotary positions, gates) becomes a few loops
in place of dozens of passes over memory. A layer is compiled once for all that are alike, in a time
that a long training has and a short one has not: see docs/results/speed.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from transformers import PreTrainedModel

__all__ = ["compiled_layers", "transformer_layers"]


def transformer_layers(module: nn.Module) -> list[nn.Module]:
    """The layers of every transformers model inside the module: what it keeps in lists."""
    wholes = [part for part in module.modules() if isinstance(part, PreTrainedModel)]
    lists = [
        part for whole in wholes for part in whole.modules() if isinstance(part, nn.ModuleList)
    ]
    return list({id(layer): layer for part in lists for layer in part}.values())


@contextmanager
def compiled_layers(module: nn.Module) -> Iterator[None]:
    """A context in which the layers run compiled; each is compiled when it is first called."""
    layers = transformer_layers(module)
    for layer in layers:
        layer.compile()
    try:
        yield
    finally:
        for layer in layers:
            layer._compiled_call_impl = None  # there is no public way back from Module.compile
