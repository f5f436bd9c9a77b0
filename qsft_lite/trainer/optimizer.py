"""Muon for the matrices of a transformer's layers, AdamW for the rest, as one optimizer.

Adam takes a step in which every number of a matrix moves by about the learning rate. Muon (Jordan
et al., 2024) takes one of the same size in which every direction of the matrix moves alike: it puts
an orthogonal matrix in place of the momentum. Small transformers from scratch learn the rules of
Wordle in about a third of the time that AdamW takes them. torch.optim.Muon (from torch 2.9 on) does
the matrices only; transformers' checkpoints and schedulers expect one optimizer for all parameters.
"""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from qsft_lite.trainer.compiling import transformer_layers
from qsft_lite.trainer.sharding import divided_like

__all__ = ["MuonAdamW", "layer_matrices", "orthogonalize"]

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Jordan's: quick, singular values end in about [.7, 1.2]
STEPS = 5
MOMENTUM = 0.95
EPSILON = 1e-8
SMALL = 2**16  # numbers of a matrix, below which products of several at once are quicker


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
            moved = [parameter for parameter in group["params"] if parameter.grad is not None]
            if group["muon"]:
                updates = self._muon(moved)
            else:
                updates = [self._adam(parameter, *group["betas"]) for parameter in moved]
            for parameter, update in zip(moved, updates, strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.sub_(update, alpha=group["lr"])

    def _muon(self, matrices: list[torch.Tensor]) -> list[torch.Tensor]:
        """Steps (m, n) of nearly orthonormal rows or columns, of root mean square about 1."""
        aheads = [self._ahead(matrix) for matrix in matrices]
        # Of a divided matrix (``sharding``) each process works out the whole step, keeps a part.
        wholes = [ahead.full_tensor() if isinstance(ahead, DTensor) else ahead for ahead in aheads]
        steps = [step * max(step.shape) ** 0.5 for step in orthogonalize_all(wholes)]
        return [
            divided_like(step, ahead) if isinstance(ahead, DTensor) else step
            for step, ahead in zip(steps, aheads, strict=True)
        ]

    def _ahead(self, matrix: torch.Tensor) -> torch.Tensor:
        """The momentum as it will be if the gradient stays as it is, which is Nesterov's."""
        state, gradient = self.state[matrix], matrix.grad
        if not state:
            state["momentum"] = torch.zeros_like(gradient)
        return gradient.lerp(state["momentum"].lerp_(gradient, 1 - MOMENTUM), MOMENTUM)

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
    """The trained weight matrices in the layers of every transformers model inside the module."""
    found = {id(p): p for layer in transformer_layers(model) for p in layer.parameters()}
    return [p for p in found.values() if p.ndim == 2 and p.requires_grad]


def orthogonalize_all(matrices: list[torch.Tensor]) -> list[torch.Tensor]:
    """``orthogonalize`` of each, small ones of one shape together: half the time at width 64."""
    found: list[torch.Tensor] = [None] * len(matrices)
    together = defaultdict(list)
    for place, matrix in enumerate(matrices):
        alike = (*sorted(matrix.shape), matrix.dtype, matrix.device)
        together[alike if matrix.numel() < SMALL else place].append(place)
    for places in together.values():
        wide = [_wide(matrices[place]) for place in places]
        for place, step in zip(places, orthogonalize(torch.stack(wide)), strict=True):
            found[place] = step if _is_wide(matrices[place]) else step.mT
    return found


def orthogonalize(matrix: torch.Tensor) -> torch.Tensor:
    """Nearly U V' of matrices U S V', (..., m, n): five steps of a quintic Newton-Schulz iteration.

    Each step maps every singular value s to a s + b s^3 + c s^5, which pulls it towards 1.
    """
    a, b, c = NEWTON_SCHULZ
    wide = _wide(matrix).flatten(0, -3) if matrix.ndim > 2 else _wide(matrix)[None]
    wide = wide / (wide.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(STEPS):
        gram = wide @ wide.mT
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)  # b G + c G^2
        wide = torch.baddbmm(wide, factor, wide, beta=a)  # a X + (b G + c G^2) X
    return (wide if _is_wide(matrix) else wide.mT).reshape(matrix.shape)


def _is_wide(matrix: torch.Tensor) -> bool:
    return matrix.shape[-2] <= matrix.shape[-1]


def _wide(matrix: torch.Tensor) -> torch.Tensor:
    return matrix if _is_wide(matrix) else matrix.mT
