"""Q-Transformer: Q-learning token by token, with the maximum over the tokens of one dimension.

Chebotar et al., 2023, arXiv 2309.10150. An action of several dimensions is several tokens, and each
token is an action of its own: the target of one is the largest value of the next, and only the last
one of an action is paid and discounted. ``data.encode(discount="turn")`` writes the columns so. The
paper's steps over several actions at once (n-step returns) are left out.

Which tokens an action can have at a place decides the maximum, and what is pulled down. A robot's
dimension has bins of its own, and the bins of another one are no choices there. So a choice is by
default what the data have at this place of an action ("seen"), which needs nobody to list the bins.
In a text, where most words have stood at most places sooner or later, that is nearly the whole
vocabulary, of which a state has seen a handful; there "behavior" trusts what the cloned policy
gives a chance, as the backups of Q-SFT do.
"""

from __future__ import annotations

import math

import datasets
import torch
from torch import nn
from transformers import PreTrainedModel

from qsft_lite.baselines.heads import two_layers
from qsft_lite.loss.q_sft import unsupported
from qsft_lite.models import HeadedModel, check_packing, output_head
from qsft_lite.models.networks import move_average, twin
from qsft_lite.trainer.stages import Stage
from qsft_lite.trainer.step import (
    Batch,
    action_positions,
    head_precision,
    next_states,
    token_states,
)

__all__ = ["CHOICES", "QTransformerStage", "TokenValues", "choices_table", "q_transformer_losses"]

CHOICES = ("seen", "behavior", "all")
FIRST_VALUE = 0.1  # of everything until it is trained (ours): low, but no flat end of the sigmoid


def q_transformer_losses(
    q: torch.Tensor,
    choices: torch.Tensor,
    next_q: torch.Tensor,
    next_choices: torch.Tensor,
    actions: torch.Tensor,
    reward: torch.Tensor,
    discount: torch.Tensor,
    return_to_go: torch.Tensor,
    *,
    conservatism: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of each action token, and its target (arXiv 2309.10150, section 4).

        1/2 (Q(s,a) - y)^2 + alpha 1/2 mean_b Q(s,b)^2      b: the choices that were not taken
        y = max(return to go, r + gamma max_b Q_target(s',b))      b: the choices at s'

    The return to go was reached, so the best value is no less; but where chance has a part, a lucky
    return lifts the value above its mean. What was not taken goes to 0, the smallest return. The
    mean is over the choices of the token's own place, so that alpha means the same for ten bins
    and for a thousand words; it is 0 where there is no other.

    Args:
        q: (N, V) values in [0, 1] at the states of N action tokens.
        choices: (N, V) bool, the tokens that an action can have there.
        next_q: (N, V), the target network's at the next state; anything where discount is 0.
        next_choices: (N, V) bool, likewise; at least one where discount is not 0.
        actions: (N,) int64, the tokens taken.
        reward, discount, return_to_go: (N,), as data.encode has them; discount 0 at an end.
        conservatism: alpha >= 0, the paper's is .5. ValueError for another one.

    Returns:
        Losses (N,) and targets (N,), these clamped to [0, 1], where all values are, and constant.
    """
    if not conservatism >= 0:
        raise ValueError(f"conservatism must not be negative, got {conservatism}")
    with torch.no_grad():
        best = next_q.masked_fill(~next_choices, -math.inf).amax(-1)
        backup = reward + torch.where(discount > 0, discount * best, 0.0)
        target = torch.maximum(return_to_go, backup).clamp(0, 1).to(q.dtype)
    taken = q.gather(-1, actions[:, None])[:, 0]
    others = choices.scatter(-1, actions[:, None], False)
    squares = torch.where(others, q.square(), 0.0).sum(-1) / others.sum(-1).clamp(min=1)
    return 0.5 * (taken - target).square() + conservatism * 0.5 * squares, target


class TokenValues(HeadedModel):
    """A Q head on a copy of a language model's transformer, whose values lie in (0, 1).

    Its logits (B, L, V) are Q(s, .) of the state at each position. choices (D, V) bool: the tokens
    that an action can have at its first place, its second, and so on; the last row goes for all
    later places.
    """

    choices: torch.Tensor

    def make_heads(self, width: int, vocabulary: int) -> None:
        """A head of two layers, which says FIRST_VALUE of everything until it is trained."""
        self.q_head = two_layers(width, vocabulary)
        nn.init.constant_(self.q_head[-1].bias, math.log(FIRST_VALUE / (1 - FIRST_VALUE)))
        self.register_buffer("choices", torch.ones(1, vocabulary, dtype=torch.bool))

    def scores(self, hidden: torch.Tensor) -> torch.Tensor:
        """(..., H) -> (..., V), in the dtype of the head."""
        return self.q_head(hidden.to(self.q_head[0].weight.dtype)).sigmoid()

    def choices_at(self, places: torch.Tensor) -> torch.Tensor:
        """The choices (N, V) at these places (N,) of an action, from 0."""
        return self.choices[places.clamp(max=len(self.choices) - 1)]

    @staticmethod
    def vocabulary_of(heads: dict[str, torch.Tensor]) -> int:
        """V."""
        return len(heads["q_head.2.bias"])

    def _load_from_state_dict(self, state_dict, prefix, *others):
        # How many places there are is known from what is loaded.
        if (saved := state_dict.get(f"{prefix}choices")) is not None:
            self.choices = self.choices.new_empty(saved.shape)
        super()._load_from_state_dict(state_dict, prefix, *others)


class QTransformerStage(Stage):
    """TokenValues and their moving average; forward is the training loss of Q-Transformer.

    conservatism: of the loss. target_rate: alpha of theta_bar <- (1 - alpha) theta_bar + alpha
    theta, after each step; the average is of the whole network. behavior: where it is given,
    frozen, a choice has at least the probability ``support`` by it, or is the likeliest one.
    """

    def __init__(
        self,
        values: TokenValues,
        *,
        conservatism: float,
        target_rate: float,
        behavior: PreTrainedModel | None = None,
        support: float = 1e-3,
    ):
        super().__init__()
        check_packing(values.backbone)
        self.values = values
        self.target = twin(values, "average").requires_grad_(False)
        self.behavior = None if behavior is None else behavior.requires_grad_(False)
        self.conservatism = conservatism
        self.target_rate = target_rate
        self.support = support

    def forward(self, statistics: bool = False, **batch: torch.Tensor) -> dict[str, torch.Tensor]:
        """The loss.

        Statistics, of the action tokens: q_mean, the mean value of those taken; q_minus_return, the
        mean of it less the return that followed; target_mean; at_bound, the share of targets that
        are the return that followed.
        """
        hidden = token_states(self.values.backbone, batch)
        at = action_positions(batch)
        has_next, next_at = next_states(batch, at)
        names = ("input_ids", "reward", "discount", "return_to_go")
        actions, reward, discount, returns = (batch[name].reshape(-1)[at] for name in names)
        with torch.no_grad():
            target_hidden = token_states(self.target.backbone, batch)
            choices, next_choices = self._choices(batch, at, has_next, next_at)
        with head_precision(hidden):
            q = self.values.scores(hidden[at - 1].float())
            next_q = torch.zeros_like(q)
            with torch.no_grad():
                next_q[has_next] = self.target.scores(target_hidden[next_at].float())
            losses, target = q_transformer_losses(
                *(q, choices, next_q, next_choices, actions, reward),
                *(torch.where(has_next, discount, 0.0), returns),
                conservatism=self.conservatism,
            )
        found = {"loss": losses.sum() / max(len(losses), 1)}
        if statistics and len(at):
            taken = q.detach().gather(-1, actions[:, None])[:, 0]
            found |= {"q_mean": taken.mean(), "q_minus_return": (taken - returns).mean()}
            found |= {"target_mean": target.mean()}
            found |= {"at_bound": (target == returns.clamp(0, 1)).float().mean()}
        return found

    def train(self, mode: bool = True) -> QTransformerStage:
        """As ever, but what is not trained never drops out."""
        super().train(mode)
        self.target.eval()
        if self.behavior is not None:
            self.behavior.eval()
        return self

    def after_step(self) -> None:
        """Move the target network."""
        move_average(self.target, self.values, self.target_rate)

    def _choices(
        self, batch: Batch, at: torch.Tensor, has_next: torch.Tensor, next_at: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The choices (N, V) at the states of the action tokens, and at their next states."""
        places = places_in_actions(at)
        # A next state that is no state of an action here is that of a new one.
        all_places = at.new_zeros(batch["input_ids"].numel() + 1)
        all_places[at] = places
        next_places = torch.zeros_like(places)
        next_places[has_next] = all_places[next_at + 1]
        found = [self.values.choices_at(places), self.values.choices_at(next_places)]
        if self.behavior is None or not len(at):
            return found[0], found[1]
        hidden = token_states(self.behavior, batch)
        head = output_head(self.behavior)
        next_states_at = (at - 1).masked_scatter(has_next, next_at)
        with head_precision(hidden):
            for number, states in enumerate((at - 1, next_states_at)):
                log_pi = head(hidden[states].to(head.weight.dtype)).float().log_softmax(-1)
                found[number] = ~unsupported(log_pi, ~found[number], self.support)
        return found[0], found[1]


def places_in_actions(at: torch.Tensor) -> torch.Tensor:
    """The place of each action token in its action, from 0: positions (N,), in order -> (N,).

    An action is a run of action tokens: a state, or at least a start token, comes before each.
    """
    if not len(at):
        return at
    count = torch.arange(len(at), device=at.device)
    begins = torch.ones_like(at, dtype=torch.bool)
    begins[1:] = at[1:] != at[:-1] + 1
    return count - torch.where(begins, count, 0).cummax(0).values


def choices_table(
    kind: str, episodes: datasets.Dataset, vocabulary: int, ruled_out: list[int]
) -> torch.Tensor:
    """Which tokens an action can have at each of its places: (D, V) bool.

    kind: "seen" for those that the episodes, of data.encode, have at this place; "all" and
    "behavior" for all that are not ruled_out, ids of tokens that are no actions, in one row: D is
    1. What the episodes have is never ruled out, such as an end token. ValueError for another kind.
    """
    if kind not in CHOICES:
        raise ValueError(f"choices must be one of {', '.join(CHOICES)}, got {kind!r}")
    columns = episodes.with_format("arrow")[:]
    ids, mask = (
        torch.from_numpy(
            columns[name].combine_chunks().flatten().to_numpy(zero_copy_only=False).copy()
        )
        for name in ("input_ids", "action_mask")
    )
    at = mask.nonzero()[:, 0]
    places, tokens = places_in_actions(at), ids[at].long()
    if kind == "seen":
        table = torch.zeros(int(places.max()) + 1, vocabulary, dtype=torch.bool)
        table[places, tokens] = True
        return table
    table = torch.ones(1, vocabulary, dtype=torch.bool)
    table[0, ruled_out] = False
    table[0, tokens] = True
    return table
