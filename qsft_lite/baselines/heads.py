"""Values of actions from new heads on a language model, as ILQL and CQL learn them.

ActionValues is the model that acts: a transformer without its output head, two Q heads and a V
head. HeadStage adds the target heads and the loss; it is what a StageTrainer trains.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from qsft_lite.baselines.losses import cql_losses, ilql_losses
from qsft_lite.models import HeadedModel, check_packing
from qsft_lite.models.networks import move_average
from qsft_lite.trainer.stages import Stage
from qsft_lite.trainer.step import action_positions, head_precision, next_states, token_states


class ActionValues(HeadedModel):
    """Two Q heads and a V head on a copy of a language model's transformer.

    Its logits (B, L, V) are min_j Q_j(s, .) of the state at each position.
    """

    def make_heads(self, width: int, vocabulary: int) -> None:
        """Heads of two layers, which answer 0 until they are trained."""
        self.q_heads = nn.ModuleList(two_layers(width, vocabulary) for _ in range(2))
        self.v_head = two_layers(width, 1)

    def q_values(self, hidden: torch.Tensor) -> torch.Tensor:
        """(..., H) -> (2, ..., V), in the dtype of the heads."""
        hidden = hidden.to(self.v_head[0].weight.dtype)
        return torch.stack([head(hidden) for head in self.q_heads])

    def scores(self, hidden: torch.Tensor) -> torch.Tensor:
        """(..., H) -> (..., V)."""
        return self.q_values(hidden).amin(0)

    @staticmethod
    def vocabulary_of(heads: dict[str, torch.Tensor]) -> int:
        """V."""
        return len(heads["q_heads.0.2.bias"])


class HeadStage(Stage):
    """ActionValues with target heads; forward is the training loss of ILQL or CQL.

    method: "ilql" or "cql". conservatism, expectile: of the losses; the expectile is ILQL's only.
    target_rate: share of the way that the target heads go towards the heads at each step; they
    read the current backbone. ruled_out: ids of the tokens that are no actions (padding, beginning,
    dummy), which CQL leaves out of its max.
    """

    def __init__(
        self,
        values: ActionValues,
        *,
        method: str,
        conservatism: float,
        target_rate: float,
        ruled_out: list[int],
        expectile: float = 0.7,
    ):
        super().__init__()
        check_packing(values.backbone)
        self.values = values
        self.target_heads = copy.deepcopy(values.q_heads).requires_grad_(False)
        self.method = method
        self.conservatism = conservatism
        self.expectile = expectile
        self.target_rate = target_rate
        self.register_buffer("ruled_out", torch.tensor(ruled_out, dtype=torch.long))
        # Of the two methods only ILQL trains the V head; DDP wants no idle parameters.
        values.v_head.requires_grad_(method == "ilql")

    def forward(self, statistics: bool = False, **batch: torch.Tensor) -> dict[str, torch.Tensor]:
        """The loss of ILQL or CQL.

        Statistics, of the actions taken and the value min_j Q_j: q_mean, its mean; q_minus_return,
        the mean of it less the return that followed.
        """
        hidden = token_states(self.values.backbone, batch)
        at = action_positions(batch)
        has_next, next_states_at = next_states(batch, at)
        names = ("input_ids", "reward", "discount", "return_to_go")
        actions, reward, discount, returns = (batch[name].reshape(-1)[at] for name in names)
        with head_precision(hidden):
            state = hidden[at - 1].float()
            next_state = torch.zeros_like(state)
            next_state[has_next] = hidden[next_states_at].float()
            q = self.values.q_values(state)
            discount = torch.where(has_next, discount, 0.0)
            losses = self._losses(q, state, next_state, actions, reward, discount)
        found = {"loss": losses.sum() / max(len(losses), 1)}
        if statistics and len(at):
            taken = q.detach().amin(0).gather(-1, actions[:, None])[:, 0]
            found |= {"q_mean": taken.mean(), "q_minus_return": (taken - returns).mean()}
        return found

    def after_step(self) -> None:
        """Move the target heads."""
        move_average(self.target_heads, self.values.q_heads, self.target_rate)

    def _losses(self, q, state, next_state, actions, reward, discount) -> torch.Tensor:
        taken, c = (actions, reward, discount), self.conservatism
        if self.method == "cql":
            next_target_q = self._rule_out(self._target_q(next_state))
            return cql_losses(self._rule_out(q), next_target_q, *taken, conservatism=c)
        target_q = self._target_q(state)
        target_q = target_q.gather(-1, actions.expand(2, -1)[..., None])[..., 0]
        value = self.values.v_head(state)[:, 0]
        with torch.no_grad():
            next_value = self.values.v_head(next_state)[:, 0]
        options = {"expectile": self.expectile, "conservatism": c}
        return ilql_losses(q, value, target_q, next_value, *taken, **options)

    @torch.no_grad()
    def _target_q(self, state: torch.Tensor) -> torch.Tensor:
        return torch.stack([head(state) for head in self.target_heads])

    def _rule_out(self, q: torch.Tensor) -> torch.Tensor:
        return q.index_fill(-1, self.ruled_out, -torch.inf)


def two_layers(width: int, outputs: int) -> nn.Sequential:
    """A two-layer perceptron that answers 0 to everything until it is trained."""
    head = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs))
    nn.init.zeros_(head[-1].weight)
    nn.init.zeros_(head[-1].bias)
    return head
