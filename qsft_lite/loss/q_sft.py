"""The loss of Q-SFT in its two forms and its Bellman target, on logits.

Q-SFT (Hong, Dragan, Levine, ICLR 2025) learns values as probabilities: a cross-entropy in which the
action taken weighs y, the Bellman target in [0, 1], and a leftover of 1 - y goes elsewhere. The two
forms of the loss differ only in where the leftover goes:

    leftover="uniform"   to the other V - 1 tokens in equal parts: Eq. 3, what the paper trains
    leftover=d           to one token d that is never an action, the dummy: section 4.1

Every function here takes any number of leading dimensions, written (...), and logits (..., V) over
a vocabulary of V tokens. A mask, bool or 0/1, says which positions are action tokens. Positions
outside it are never read: their action may be -100, their target and logits NaN.

Checks of shapes and dtypes always run. Checks that must look at the data run when ``validate`` is
true; by default that is on the CPU, since they would make a GPU wait. Without them bad data gives
NaN, and an all-false mask gives 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch

from qsft_lite.loss import checks

__all__ = ["BACKUPS", "FROM_DATA", "SCORES", "Backup", "bellman_target", "q_sft_loss"]

BACKUPS = ("max", "support", "behavior", "policy")
FROM_DATA = ("returns", "recorded", "random")
SCORES = ("p", "ratio", "paired")


@dataclass(frozen=True)
class Backup:
    """How the value of the next state is worked out: the options of bellman_target as one.

    kind: one of BACKUPS; or, of training only, "returns" (the return that followed in the data is
    the whole target), "recorded" (the value of the next action as it was recorded, for the paired
    form: SARSA) or "random" (a uniform random number is the target). ValueError for an option that
    cannot be.
    """

    kind: str = "max"
    support: float = 1e-3
    beta: float = 1.0
    score: str = "ratio"

    def __post_init__(self):
        checks.check_choice("backup", self.kind, (*BACKUPS, *FROM_DATA))
        checks.check_choice("score", self.score, SCORES)
        if not 0 <= self.support <= 1:
            raise ValueError(f"support must lie in [0, 1], not {self.support}.")
        if not math.isfinite(self.beta):
            raise ValueError(f"beta must be finite, not {self.beta}.")

    @property
    def asks_behavior(self) -> bool:
        """Whether it asks anything of the behavior policy."""
        return self.kind in ("max", "support", "policy")


def q_sft_loss(
    logits: torch.Tensor,
    actions: torch.Tensor,
    target: torch.Tensor,
    mask: torch.Tensor | None = None,
    *,
    leftover: Literal["uniform"] | int = "uniform",
    reduction: Literal["mean", "sum", "none"] = "mean",
    validate: bool | None = None,
) -> torch.Tensor:
    """Weighted cross-entropy of Q-SFT, for actions a with Bellman target y.

        uniform   -[ y log p(a|s) + (1 - y) / (V - 1) * sum_{b != a} log p(b|s) ]      (Eq. 3)
        dummy d   -[ y log p(a|s) + (1 - y) log p(d|s) ]                         (section 4.1)

    with p = softmax(logits). Gradients flow to the logits only: the target counts as a constant.

    Args:
        logits: (..., V), any floating dtype; computed in float32, or float64 if given that.
        actions: (...), integer, ids of the tokens taken.
        target: (...), y in [0, 1].
        mask: (...), true or 1 at action tokens; None for all of them.
        leftover: "uniform", or the dummy's token id.
        reduction: "mean" over the mask, "sum", or "none" for a (...) tensor, 0 outside the mask.
        validate: whether to check the data; None for on the CPU only.

    Returns:
        The loss, a scalar or (...), in the dtype it was computed in.

    Raises:
        TypeError: a dtype of the wrong kind.
        ValueError: shapes or devices that differ; an unknown option; and with validate: a target
            outside [0, 1], an id outside the vocabulary, an action that is the dummy, logits
            without a finite loss (for "uniform" -inf has none), or a mask that is all false.
    """
    checks.check_choice("reduction", reduction, ("mean", "sum", "none"))
    checks.check_tensors("logits", logits, actions=actions, target=target, mask=mask)
    if validate is None:
        validate = logits.device.type == "cpu"
    used = used_positions(logits, actions, target, mask, logits.shape[-1], leftover, validate)
    log_p = used.scores.log_softmax(-1, dtype=used.weights.dtype)
    # 0 log 0 counts as 0: a token ruled out by a logit of -inf costs nothing at weight 0.
    chosen = log_p.gather(1, used.columns).masked_fill(used.weights == 0, 0)
    losses = -(used.weights * chosen).sum(-1)
    if used.spread is not None:
        losses = losses - used.spread * log_p.sum(-1)
    if validate:
        remedy = "Logits must be finite; -inf is allowed with a dummy, at tokens without weight."
        checks.check_losses("logits", losses, used.rows, actions.shape, remedy)

    if reduction == "none":
        return checks.put_back(losses, used.rows, actions.shape)
    total = losses.sum()
    return total / max(len(losses), 1) if reduction == "mean" else total


@torch.no_grad()
def bellman_target(
    reward: torch.Tensor,
    done: torch.Tensor,
    next_q_logits: torch.Tensor,
    next_behavior_logits: torch.Tensor,
    *,
    gamma: float = 1.0,
    backup: Literal["max", "support", "behavior", "policy"] = "max",
    support: float = 1e-3,
    beta: float = 1.0,
    score: Literal["p", "ratio"] = "ratio",
    leftover: Literal["uniform"] | int = "uniform",
    clamp: bool = True,
    validate: bool | None = None,
) -> torch.Tensor:
    """Bellman target y = r + gamma * value(s'), or r alone where the episode ends.

    With p = softmax(next_q_logits), the target network, and pi = softmax(next_behavior_logits), the
    value of the next state is

        "max"        max_a p(a|s') / pi(a|s')                           (the paper's)
        "support"    the same over the actions with pi(a|s') >= support only (ours); where no
                     action has that much, the most likely one
        "behavior"   sum_a p(a|s') = sum_a pi(a|s') p(a|s') / pi(a|s')  (ours)
        "policy"     sum_a pi_hat(a|s') q(a|s') over the actions of "support", with
                     q = min(p / pi, 1) and pi_hat proportional to pi exp(beta * score): the value
                     of the policy that is extracted in the end  (ours)

    An action with behavior logit -inf takes no part in any of them, nor does the dummy, which is no
    action; pi is taken as it is, not normalised again. With a dummy, "behavior" is 1 - p(dummy|s'),
    the value of the behavior policy. With leftover="uniform" it means nothing: it is 1 in every
    state where no action is ruled out.

    Ratios are differences of log-probabilities, exponentiated last, since both probabilities
    underflow long before their ratio does. No gradient flows through the target.

    Args:
        reward: (...), of this step.
        done: (...), bool or 0/1, whether the episode ends here. The next logits may be anything
            there, NaN included.
        next_q_logits: (..., V) at the next action token, from the target network.
        next_behavior_logits: (..., V) at the same token, from the behavior policy.
        gamma: discount in [0, 1].
        backup: one of the above.
        support: least behavior probability in [0, 1] that "support" and "policy" trust.
        beta: sharpness of pi_hat for backup="policy"; 0 is the behavior policy.
        score: what pi_hat prefers, for backup="policy": "p" (the paper's) or the "ratio" q.
        leftover: "uniform", or the dummy's token id: the form of the loss p was trained with.
        clamp: whether to clamp the target to [0, 1].
        validate: whether to check the data; None for on the CPU only.

    Returns:
        The target (...), float32, or float64 if any logits are.

    Raises:
        TypeError: a dtype of the wrong kind.
        ValueError: shapes or devices that differ; an option that cannot be; and with validate: a
            reward that is not finite, a done that is not 0 or 1, and, where the episode goes on,
            logits with NaN, +inf or no action of a finite one.
    """
    checks.check_choice("backup", backup, BACKUPS)
    checks.check_choice("score", score, ("p", "ratio"))
    options = Backup(backup, support, beta, score)
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma must lie in [0, 1], not {gamma}.")
    checks.check_tensors("next_q_logits", next_q_logits, reward=reward, done=done)
    checks.check_tensors("next_behavior_logits", next_behavior_logits, reward=reward)
    vocabulary = next_q_logits.shape[-1]
    if next_behavior_logits.shape[-1] != vocabulary:
        raise ValueError(
            f"next_behavior_logits has a vocabulary of {next_behavior_logits.shape[-1]}, but "
            f"next_q_logits one of {vocabulary}: both must score the same tokens."
        )
    dummy = checks.dummy_of(leftover, vocabulary)
    if validate is None:
        validate = next_q_logits.device.type == "cpu"
    if validate:
        checks.refuse(
            "reward", reward, ~reward.isfinite(), "not finite", "Mask them out beforehand."
        )
        checks.check_binary("done", done)
        actions = next_behavior_logits
        if dummy is not None:  # it is no action: another one must be possible
            actions = actions.clone()
            actions[..., dummy].masked_fill_(actions[..., dummy].isfinite(), -math.inf)
        complaint = "with NaN, +inf or nothing but -inf among the logits"
        remedy = "Some action needs a finite logit. Shown is the largest one."
        for name, logits in (("next_q_logits", next_q_logits), ("next_behavior_logits", actions)):
            largest = logits.amax(-1)
            checks.refuse(name, largest, ~largest.isfinite() & ~done.bool(), complaint, remedy)

    dtype = torch.promote_types(
        checks.compute_dtype(next_q_logits), checks.compute_dtype(next_behavior_logits)
    )
    ruled_out = no_action(next_behavior_logits, dummy)
    log_p = next_q_logits.log_softmax(-1, dtype=dtype)
    log_pi = next_behavior_logits.log_softmax(-1, dtype=dtype) if options.asks_behavior else None
    value = state_value(log_p, log_pi, ruled_out, options)
    value = value.clamp(max=torch.finfo(dtype).max)  # gamma = 0 meets no infinity

    reward = reward.to(dtype)
    target = torch.where(done.bool(), reward, reward + gamma * value)
    return target.clamp(0, 1) if clamp else target


def state_value(
    log_p: torch.Tensor, log_pi: torch.Tensor | None, ruled_out: torch.Tensor, backup: Backup
) -> torch.Tensor:
    """Value (...) of states whose actions have these log-probabilities (..., A).

    ruled_out marks what is no action. May overwrite log_p. "behavior" needs no log_pi.
    """
    if backup.kind == "behavior":
        return log_p.masked_fill_(ruled_out, -math.inf).exp_().sum(-1)
    if backup.kind != "max":
        ruled_out = unsupported(log_pi, ruled_out, backup.support)
    if backup.kind == "policy" and backup.score == "p":
        preference = log_p.exp()
    log_ratio = log_p.sub_(log_pi).masked_fill_(ruled_out, -math.inf)
    if backup.kind != "policy":
        return log_ratio.amax(-1).exp()
    q = log_ratio.exp_().clamp_(max=1)
    if backup.score == "ratio":
        preference = q
    policy = (log_pi + backup.beta * preference).masked_fill_(ruled_out, -math.inf).softmax(-1)
    return (policy * q).sum(-1)


def no_action(behavior_logits: torch.Tensor, dummy: int | None) -> torch.Tensor:
    """(..., V) bool: the tokens ruled out by a logit of -inf, and the dummy."""
    ruled_out = behavior_logits == -math.inf
    if dummy is not None:
        ruled_out[..., dummy] = True
    return ruled_out


def unsupported(log_pi: torch.Tensor, ruled_out: torch.Tensor, support: float) -> torch.Tensor:
    """(..., A) bool: ruled out or less likely than support; but never the likeliest action."""
    # An action at the very edge is in, whichever way its probability was rounded.
    edge = math.log(support) - 1e-5 if support > 0 else -math.inf
    likeliest = log_pi.masked_fill(ruled_out, -math.inf).amax(-1, keepdim=True)
    return ruled_out | ((log_pi < edge) & (log_pi < likeliest))


class Used(NamedTuple):
    """The N positions of a loss that count, and the target distribution there.

    The distribution has ``weights`` (N, K) at ``columns`` (N, K), and ``spread`` (N,) more at every
    token: the uniform form gives w1 = y - w2 to the action after w2 = (1 - y) / (V - 1) to each.
    """

    scores: torch.Tensor  # (N, V or H)
    columns: torch.Tensor
    weights: torch.Tensor
    spread: torch.Tensor | None
    rows: torch.Tensor | None  # where they are in the flattened tensors; None for all of them


def used_positions(
    scores: torch.Tensor,
    actions: torch.Tensor,
    target: torch.Tensor,
    mask: torch.Tensor | None,
    vocabulary: int,
    leftover: str | int,
    validate: bool,
) -> Used:
    """What a loss on logits or hidden states reads of its arguments, checked with validate."""
    dummy = checks.dummy_of(leftover, vocabulary)
    if validate:
        checks.check_data(actions, target, mask, vocabulary, dummy)
    scores = scores.reshape(-1, scores.shape[-1])
    actions, y = actions.reshape(-1), target.reshape(-1)
    rows = None if mask is None else mask.reshape(-1).nonzero()[:, 0]
    if rows is not None and len(rows) < len(actions):
        scores, actions, y = (each.index_select(0, rows) for each in (scores, actions, y))
    actions, y = actions.long(), y.detach().to(checks.compute_dtype(scores))
    if dummy is None:
        spread = (1 - y) / (vocabulary - 1)
        return Used(scores, actions[:, None], (y - spread)[:, None], spread, rows)
    columns = torch.stack([actions, torch.full_like(actions, dummy)], dim=1)
    return Used(scores, columns, torch.stack([y, 1 - y], dim=1), None, rows)
