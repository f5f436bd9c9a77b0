"""Q-SFT on one page: from packed rows to a policy. The package does the same, faster and checked.

    settings = Settings()
    pi, _ = train_behavior(model, batches, settings)  # a list of what data.collate gives
    q, _ = train_values(pi, batches, settings)
    action = act(pi, q, ids, settings, stop)

pi is the behavior policy. q begins as pi: what training adds to the logit of an action is the logit
of its value Q, in (0, 1) as rewards are. A batch has B rows of L tokens, N of them actions; the
vocabulary has V tokens.
"""

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn.functional import cross_entropy, logsigmoid

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Settings:
    """Every setting is a line with its reason."""

    prior: float = 0.5  # the value before training, in (0, 1); best near the mean return
    backup: str = "behavior"  # the value of pi, easy to learn; "support", a maximum, aims at Q*
    support: float = 1e-3  # least pi that a backup trusts: rarer tokens were hardly ever valued
    returns_first: float = 0.5  # share of steps on returns, before values are built on values
    target_rate: float = 0.005  # of the moving average: a target that moves slowly can be reached
    learning_rate: float = 1e-3  # for a small new model; a pretrained one bears about 1e-5
    max_grad_norm: float = 1.0  # one strange batch moves the weights no further than others do
    beta: float = 16.0  # how much a value weighs in play: 0 is pi, a large number is greedy
    play_support: float = 0.2  # least pi in play, as a share of the likeliest token's


def logits_of(model: Module, batch: Batch) -> Tensor:
    """Logits (B, L, V) of the next token, each episode by itself. For layers of full attention."""
    segment, length = batch["segment_ids"], batch["segment_ids"].shape[1]
    same_episode = segment[:, None, :, None] == segment[:, None, None, :]
    not_later = torch.ones(length, length, dtype=torch.bool, device=segment.device).tril()
    # Attention adds the mask to its scores: 0 where it may look. (B, 1, L, L)
    mask = torch.where(same_episode & not_later, 0.0, -math.inf).to(next(model.parameters()).dtype)
    options = {"attention_mask": mask, "position_ids": batch["position_ids"], "use_cache": False}
    return model(input_ids=batch["input_ids"], **options).logits


def logits_at_actions(model: Module, batch: Batch) -> Tensor:
    """The logits (N, V) that each action token is chosen by: token i at position i - 1."""
    row, place = batch["action_mask"].nonzero(as_tuple=True)
    return logits_of(model, batch)[row, place - 1]


def value_logits(q_logits: Tensor, pi_logits: Tensor, settings: Settings) -> Tensor:
    """The logit of Q: what training has added to an action's logit, and the prior's own logit."""
    return q_logits - pi_logits + math.log(settings.prior / (1 - settings.prior))


def behavior_loss(pi: Module, batch: Batch) -> Tensor:
    """Stage one: plain cross-entropy, on what the agent chose and not on what it was told."""
    return cross_entropy(logits_at_actions(pi, batch), batch["input_ids"][batch["action_mask"]])


@torch.no_grad()  # the target is a number to come close to: nothing is learned through it
def bellman_target(target: Module, pi: Module, batch: Batch, settings: Settings) -> Tensor:
    """y (N,) = r + discount * value(s'), in [0, 1], where s' is where the next action is chosen."""
    row, place = batch["action_mask"].nonzero(as_tuple=True)
    following = batch["next_action"][row, place]  # -1: the episode ended, there is no next state
    q_logits, pi_logits = (logits_of(model, batch)[row, following - 1] for model in (target, pi))
    q = value_logits(q_logits, pi_logits, settings).sigmoid()
    log_pi = pi_logits.log_softmax(-1)
    # An action at the very edge is in, however it was rounded; and the likeliest always is.
    outside = log_pi.exp() < log_pi.exp().amax(-1, True).clamp(max=settings.support * (1 - 1e-5))
    best = q.masked_fill(outside, 0.0).amax(-1)
    expected = (log_pi.masked_fill(outside, -math.inf).softmax(-1) * q).sum(-1)
    value = {"behavior": expected, "support": best}[settings.backup]
    to_come = torch.where(following < 0, 0.0, batch["discount"][row, place] * value)
    return (batch["reward"][row, place] + to_come).clamp(0, 1)


def q_sft_loss(q: Module, pi: Module, batch: Batch, y: Tensor, settings: Settings) -> Tensor:
    """Stage two: -[y log Q + (1 - y) log(1 - Q)] at the actions taken. Q comes to E[y | s, a]."""
    taken = batch["input_ids"][batch["action_mask"]][:, None]
    with torch.no_grad():
        pi_logits = logits_at_actions(pi, batch)  # pi stands still
    added = value_logits(logits_at_actions(q, batch), pi_logits, settings).gather(1, taken)[:, 0]
    return -(y * logsigmoid(added) + (1 - y) * logsigmoid(-added)).mean()


def train_behavior(model: Module, batches: list[Batch], settings: Settings) -> tuple[Module, list]:
    """Stage one: pi, from a copy of the model, and the loss of each step."""
    pi, losses = copy.deepcopy(model).train(), []
    optimizer = torch.optim.AdamW(pi.parameters(), settings.learning_rate, weight_decay=0.0)
    for step, batch in enumerate(batches):
        optimizer.param_groups[0]["lr"] = settings.learning_rate * (1 - step / len(batches))
        losses.append(descend(behavior_loss(pi, batch), optimizer, settings))
    return pi.eval(), losses


def train_values(pi: Module, batches: list[Batch], settings: Settings) -> tuple[Module, list]:
    """Stage two: q, which begins as pi, and the loss of each step. pi stays as it is."""
    q, target, losses = copy.deepcopy(pi).train(), copy.deepcopy(pi), []
    optimizer = torch.optim.AdamW(q.parameters(), settings.learning_rate, weight_decay=0.0)
    for step, batch in enumerate(batches):
        optimizer.param_groups[0]["lr"] = settings.learning_rate * (1 - step / len(batches))
        if step < settings.returns_first * len(batches):  # what followed in the data
            y = batch["return_to_go"][batch["action_mask"]].clamp(0, 1)
        else:
            y = bellman_target(target, pi, batch, settings)
        losses.append(descend(q_sft_loss(q, pi, batch, y, settings), optimizer, settings))
        with torch.no_grad():
            for slow, fast in zip(target.parameters(), q.parameters(), strict=True):
                slow.lerp_(fast, settings.target_rate)  # slow + rate * (fast - slow)
    return q.eval(), losses


def descend(loss: Tensor, optimizer: torch.optim.Optimizer, settings: Settings) -> float:
    """One step down the gradient of the loss, whose number it gives."""
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], settings.max_grad_norm)
    optimizer.step()
    return loss.item()


def extract_policy(pi_logits: Tensor, q_logits: Tensor, settings: Settings) -> Tensor:
    """log pi_hat (..., V): pi_hat is proportional to pi * exp(beta * Q), on a support."""
    log_pi = pi_logits.log_softmax(-1)
    q = value_logits(q_logits, pi_logits, settings).sigmoid()
    outside = log_pi.exp() < settings.play_support * log_pi.amax(-1, keepdim=True).exp()
    return (log_pi + settings.beta * q).masked_fill(outside, -math.inf).log_softmax(-1)


@torch.no_grad()
def act(pi: Module, q: Module, ids: list[int], settings: Settings, stop: int, most: int = 32):
    """The tokens of an action after those of a history, sampled one by one up to the stop token."""
    action = []
    while action[-1:] != [stop] and len(action) < most:
        history = torch.tensor([ids + action], device=next(pi.parameters()).device)
        logits = [model(input_ids=history).logits[0, -1] for model in (pi, q)]
        action += torch.multinomial(extract_policy(*logits, settings).exp(), 1).tolist()
    return action
