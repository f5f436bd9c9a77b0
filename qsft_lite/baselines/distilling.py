"""Distilling: one network that learns to play as a method with values plays.

The policy pi_hat(a|s) = pi(a|s) exp(beta q(s, a)) / Z(s) asks two networks for every token. Here a
copy of the cloned network learns it from the states of the recorded actions, by cross-entropy:

    loss = - mean_s sum_a pi_hat(a|s) log pi_student(a|s)

It is least, with KL(pi_hat || pi_student) = 0, where the student plays as the policy does. What the
student has learned can be sharpened further, as any clone.
"""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedModel

from qsft_lite.baselines.heads import ActionValues
from qsft_lite.models import check_packing, output_head
from qsft_lite.policy.cached import CachedPolicy
from qsft_lite.trainer.stages import Stage
from qsft_lite.trainer.step import action_positions, head_precision, token_states

__all__ = ["DistillingStage"]

STATES_AT_ONCE = 1_024  # of which all logits are held


class DistillingStage(Stage):
    """A student and its teacher, a policy, whose networks stand still.

    ruled_out: ids of the tokens that are no actions, which the student does not learn to write.
    """

    def __init__(self, student: PreTrainedModel, teacher: CachedPolicy, ruled_out: list[int]):
        super().__init__()
        check_packing(student)
        self.student = student
        self.networks = nn.ModuleList(teacher.models).requires_grad_(False)
        self.log_weights = teacher.log_weights
        size = output_head(student).out_features
        self.register_buffer("ruled_out", torch.zeros(size, dtype=torch.bool))
        self.ruled_out[ruled_out] = True

    def train(self, mode: bool = True) -> DistillingStage:
        """As ever, but the teacher never drops out."""
        super().train(mode)
        self.networks.eval()
        return self

    def forward(self, statistics: bool = False, **batch: torch.Tensor) -> dict[str, torch.Tensor]:
        """The cross-entropy. Statistics: "kl", from the teacher's policy to the student's."""
        at = action_positions(batch)
        own = token_states(self.student, batch)[at - 1]
        with torch.no_grad():
            read = [token_states(network, batch)[at - 1] for network in self.networks]
        losses, kl = [own.new_zeros(0)], [own.new_zeros(0)]
        with head_precision(own):
            for rows in torch.arange(len(at), device=own.device).split(STATES_AT_ONCE):
                loss, entropy = self._losses(own[rows], [hidden[rows] for hidden in read])
                losses.append(loss)
                kl.append(loss.detach() - entropy)
        found = {"loss": torch.cat(losses).sum() / max(len(at), 1)}
        return found | ({"kl": torch.cat(kl).mean()} if statistics and len(at) else {})

    def _losses(
        self, own: torch.Tensor, read: list[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Cross-entropy and the teacher's entropy (N,), of hidden states (N, H) of all networks."""
        with torch.no_grad():
            logits = [
                _scores(network, hidden).float()
                for network, hidden in zip(self.networks, read, strict=True)
            ]
            ruled_out = self.ruled_out.expand_as(logits[0])
            log_weights = self.log_weights(logits, ruled_out).masked_fill(ruled_out, -torch.inf)
            pi_hat = log_weights.softmax(-1)
            entropy = torch.special.entr(pi_hat).sum(-1)
        log_pi = _scores(self.student, own).float().log_softmax(-1)
        return -(pi_hat * log_pi).sum(-1), entropy


def _scores(model: PreTrainedModel | ActionValues, hidden: torch.Tensor) -> torch.Tensor:
    """(N, H) -> (N, V): logits, or what ILQL's or CQL's heads say."""
    head = model.scores if isinstance(model, ActionValues) else output_head(model)
    return head(hidden)
