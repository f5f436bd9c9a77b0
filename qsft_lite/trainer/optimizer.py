"""Muon for the matrices of a transformer's layers, AdamW for the rest, as one optimizer.

Adam takes a step in which every number of a matrix moves by about the learning rate. Muon (Jordan
et al., 2024) takes one of the same size in which every direction of the matrix moves alike: it puts
an orthogonal matrix in place of the momentum. Small transformers from scratch learn the rules of
Wordle in about a third of the time that AdamW takes them. torch.optim.Muon (from torch 2.9 on) does
the matrices only; transformers' checkpoints and schedulers expect one optimizer for all parameters.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from qsft_lite.trainer.sharding import divided_like

__all__ = ["MuonAdamW", "layer_matrices", "orthogonalize"]

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Jordan's: quick, singular values end in about [.7, 1.2]
STEPS = 5
MOMENTUM = 0.95
EPSILON = 1e-8


class MuonAdamW(torch.optim.Optimizer):
    """Muon on the weight matrices of transformer layers, AdamW on all else that is trained.

    Embeddings, output heads and new value heads are all else: their rows are looked up or read one
    by one, and a step that moves all directions alike suits only maps between hidden states.

    model: a module with one or more transformers models in it. lr: learning rate; the root mean
    square of a matrix's step. weight_decay: of the matrices, decoupled, times lr. betas: Adam's.
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
    ):
        chosen = {id(parameter) for parameter in layer_matrices(model)}
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        matrices = [parameter for parameter in trained if id(parameter) in chosen]
        others = [parameter for parameter in trained if id(parameter) not in chosen]
        groups = [
            {"params": matrices, "muon": True, "weight_decay": weight_decay},
            {"params": others, "muon": False, "weight_decay": 0.0},
        ]
        super().__init__([g for g in groups if g["params"]], {"lr": lr, "betas": betas})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """One step of both; see the class."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                if group["muon"]:
                    update = self._muon(parameter)
                else:
                    update = self._adam(parameter, *group["betas"])
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.sub_(update, alpha=group["lr"])

    def _muon(self, parameter: torch.Tensor) -> torch.Tensor:
        """A step (m, n) of nearly orthonormal rows or columns, its root mean square about 1."""
        state, gradient = self.state[parameter], parameter.grad
        if not state:
            state["momentum"] = torch.zeros_like(gradient)
        momentum = state["momentum"].lerp_(gradient, 1 - MOMENTUM)
        ahead = gradient.lerp(momentum, MOMENTUM)  # Nesterov's
        # Of a divided matrix (``sharding``) each process works out the whole step, keeps a part.
        whole = ahead.full_tensor() if isinstance(ahead, DTensor) else ahead
        step = orthogonalize(whole) * max(parameter.shape) ** 0.5
        return divided_like(step, ahead) if isinstance(ahead, DTensor) else step

    def _adam(self, parameter: torch.Tensor, beta1: float, beta2: float) -> torch.Tensor:
        """Adam's step (Kingma and Ba, 2015)."""
        state, gradient = self.state[parameter], parameter.grad
        if not state:
            state["step"] = torch.zeros(())
            state["mean"] = torch.zeros_like(gradient)
            state["square"] = torch.zeros_like(gradient)
        state["step"] += 1
        count = int(state["step"])
        mean = state["mean"].lerp_(gradient, 1 - beta1)
        square = state["square"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        root = (square / (1 - beta2**count)).sqrt_().add_(EPSILON)
        return mean / (1 - beta1**count) / root


def layer_matrices(model: nn.Module) -> list[nn.Parameter]:
    """The trained weight matrices in the layers of every transformers model inside the module.

    The layers of such a model are what it keeps in lists of modules.
    """
    wholes = [whole for whole in model.modules() if isinstance(whole, PreTrainedModel)]
    parts = [part for whole in wholes for part in whole.modules()]
    lists = [part for part in parts if isinstance(part, nn.ModuleList)]
    found = {id(p): p for part in lists for p in part.parameters() if p.ndim == 2}
    return [parameter for parameter in found.values() if parameter.requires_grad]


def orthogonalize(matrix: torch.Tensor) -> torch.Tensor:
    """Nearly U V' of the matrix U S V', (m, n): five steps of a quintic Newton-Schulz iteration.

    Each step maps every singular value s to a s + b s^3 + c s^5, which pulls it towards 1.
    """
    a, b, c = NEWTON_SCHULZ
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    wide = wide / (wide.norm() + 1e-7)
    for _ in range(STEPS):
        gram = wide @ wide.T
        wide = a * wide + (b * gram + c * gram @ gram) @ wide
    return wide if matrix.shape[0] <= matrix.shape[1] else wide.T
