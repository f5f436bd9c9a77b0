"""How the rivals of Q-SFT act: cloned policies, return-conditioned ones, and those of new heads."""

from __future__ import annotations

import math

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from qsft_lite.baselines.heads import ActionValues
from qsft_lite.policy.cached import (
    CachedPolicy,
    check_support,
    check_temperature,
    outside_support,
)

__all__ = ["ClonedPolicy", "ValuePolicy"]


class ClonedPolicy(CachedPolicy):
    """A language model as it is, at a temperature: pi(a|s)^(1 / temperature), normalised.

    prompt: text put before every history, such as the token of the return to reach; a special
    token that is spelt out in it is that token. relative_support: as in QSFTPolicy. Further options
    are CachedPolicy's.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *more_models: nn.Module,
        temperature: float = 1.0,
        relative_support: float = 0.0,
        prompt: str = "",
        **options,
    ):
        super().__init__([model, *more_models], tokenizer, **options)
        self.temperature = check_temperature(temperature)
        self.relative_support = check_support(relative_support)
        self.prompt = prompt
        # Not a part of any text, and so the one place where special tokens are read as such.
        self._start += tokenizer(prompt, add_special_tokens=False).input_ids if prompt else []

    def log_weights(
        self, logits: list[torch.Tensor], ruled_out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """(B, V), float32."""
        log_pi = logits[0].float().log_softmax(-1)
        outside = outside_support(log_pi, self.relative_support, ruled_out)
        return (log_pi / self.temperature).masked_fill(outside, -math.inf)


class ValuePolicy(ClonedPolicy):
    """pi_beta(a|s)^(1 / temperature) * exp(beta min_j Q_j(s,a)), normalised: ILQL and CQL at play.

    ILQL's beta (Q - V) is the same policy, since V is the same for every action. The options are
    ClonedPolicy's.
    """

    def __init__(
        self,
        behavior: PreTrainedModel,
        values: ActionValues,
        tokenizer: PreTrainedTokenizerBase,
        beta: float,
        **options,
    ):
        super().__init__(behavior, tokenizer, values, **options)
        if not math.isfinite(beta):
            raise ValueError(f"beta must be finite, not {beta}.")
        self.beta = beta

    def log_weights(
        self, logits: list[torch.Tensor], ruled_out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """(B, V), float32."""
        return super().log_weights(logits, ruled_out) + self.beta * logits[1].float()
