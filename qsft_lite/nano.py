"""Q-SFT on one page: from packed rows to a policy. The package does the same, faster and checked.

    settings = Settings(dummy=2)
    pi, _ = train_behavior(model, batches, settings)  # a list of what data.collate gives
    p, _ = train_values(pi, batches, settings)
    action = act(pi, p, ids, settings, stop)

pi is the behavior policy, p the network whose p / pi is the value Q, in [0, 1] as rewards are.
A batch has B rows of L tokens, N of them actions; the vocabulary has V tokens.
"""

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import Module

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Settings:
    """Every setting is a line with its reason."""

    dummy: int | None  # id of a token that is never an action; None for the paper's loss, Eq. 3
    backup: str = "support"  # "max" is the paper's; "behavior" is the value of pi, without a max
    support: float = 1e-3  # least pi that "support" trusts: of rarer tokens, p / pi is noise
    returns_first: float = 0.0  # share of steps on returns: p / pi starts at 1, which is too good
    target_rate: float = 0.005  # of the moving average: a target that moves slowly can be reached
    learning_rate: float = 1e-3  # for a small new model; a pretrained one bears about 1e-5
    max_grad_norm: float = 1.0  # one strange batch moves the weights no further than others do
    beta: float = 16.0  # how much a value weighs in play: 0 is pi, a large number is greedy
    score: str = "ratio"  # play goes by the value p / pi; "p", the paper's, still weighs the habit
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


def log_probabilities(model: Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """At each action token: log-probabilities of all tokens (N, V), and of the one taken (N,)."""
    row, place = batch["action_mask"].nonzero(as_tuple=True)
    every = logits_of(model, batch)[row, place - 1].log_softmax(-1)  # token i is chosen at i - 1
    return every, every.gather(1, batch["input_ids"][row, place][:, None])[:, 0]


def behavior_loss(pi: Module, batch: Batch) -> Tensor:
    """Stage one: plain cross-entropy, on what the agent chose and not on what it was told."""
    return -log_probabilities(pi, batch)[1].mean()


@torch.no_grad()  # the target is a number to come close to: nothing is learned through it
def bellman_target(target: Module, pi: Module, batch: Batch, settings: Settings) -> Tensor:
    """y (N,) = r + discount * value(s'), in [0, 1], where s' is where the next action is chosen."""
    row, place = batch["action_mask"].nonzero(as_tuple=True)
    following = batch["next_action"][row, place]  # -1: the episode ended, there is no next state
    log_p = logits_of(target, batch)[row, following - 1].log_softmax(-1)
    if settings.backup == "behavior":  # sum of pi * p / pi over all actions: all of p but the dummy
        value = 1 - log_p.select(1, settings.dummy).exp()
    else:
        log_pi = logits_of(pi, batch)[row, following - 1].log_softmax(-1)
        if settings.dummy is not None:
            log_pi[:, settings.dummy] = -math.inf  # no action
        # An action at the very edge is in, however it was rounded; and the likeliest always is.
        edge = {"support": math.log(settings.support) - 1e-5, "max": -math.inf}[settings.backup]
        least = log_pi.amax(-1, keepdim=True).clamp(max=edge)
        outside = (log_pi < least) | (log_pi == -math.inf)
        # Exponentiated last: both probabilities underflow long before their quotient does.
        value = (log_p - log_pi).masked_fill(outside, -math.inf).amax(-1).exp()
    to_come = torch.where(following < 0, 0.0, batch["discount"][row, place] * value)
    return (batch["reward"][row, place] + to_come).clamp(0, 1)


def q_sft_loss(p: Module, batch: Batch, y: Tensor, settings: Settings) -> Tensor:
    """Stage two: y goes to the action, 1 - y elsewhere. With a dummy, p comes to pi * E[y]."""
    log_p, taken = log_probabilities(p, batch)
    if settings.dummy is None:  # in equal parts to all other tokens (Eq. 3)
        other = (log_p.sum(-1) - taken) / (log_p.shape[1] - 1)
    else:
        other = log_p[:, settings.dummy]
    return -(y * taken + (1 - y) * other).mean()


def train_behavior(model: Module, batches: list[Batch], settings: Settings) -> tuple[Module, list]:
    """Stage one: pi, from a copy of the model, and the loss of each step."""
    pi, losses = copy.deepcopy(model).train(), []
    optimizer = torch.optim.AdamW(pi.parameters(), settings.learning_rate, weight_decay=0.0)
    for step, batch in enumerate(batches):
        optimizer.param_groups[0]["lr"] = settings.learning_rate * (1 - step / len(batches))
        loss = behavior_loss(pi, batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(pi.parameters(), settings.max_grad_norm)
        optimizer.step()
        losses.append(loss.item())
    return pi.eval(), losses


def train_values(pi: Module, batches: list[Batch], settings: Settings) -> tuple[Module, list]:
    """Stage two: p, which begins as pi, and the loss of each step. pi stays as it is."""
    p, target, losses = copy.deepcopy(pi).train(), copy.deepcopy(pi), []
    optimizer = torch.optim.AdamW(p.parameters(), settings.learning_rate, weight_decay=0.0)
    for step, batch in enumerate(batches):
        optimizer.param_groups[0]["lr"] = settings.learning_rate * (1 - step / len(batches))
        if step < settings.returns_first * len(batches):  # what followed in the data
            y = batch["return_to_go"][batch["action_mask"]].clamp(0, 1)
        else:
            y = bellman_target(target, pi, batch, settings)
        loss = q_sft_loss(p, batch, y, settings)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(p.parameters(), settings.max_grad_norm)
        optimizer.step()
        with torch.no_grad():
            for slow, fast in zip(target.parameters(), p.parameters(), strict=True):
                slow.lerp_(fast, settings.target_rate)  # slow + rate * (fast - slow)
        losses.append(loss.item())
    return p.eval(), losses


def extract_policy(pi_logits: Tensor, p_logits: Tensor, settings: Settings) -> Tensor:
    """log pi_hat (..., V): pi_hat is proportional to pi * exp(beta * score), on a support."""
    log_pi, log_p = pi_logits.log_softmax(-1), p_logits.log_softmax(-1)
    if settings.dummy is not None:
        log_pi[..., settings.dummy] = -math.inf  # never played
    log_score = {"ratio": log_p - log_pi, "p": log_p}[settings.score]
    share = (log_pi - log_pi.amax(-1, keepdim=True)).exp()  # of the likeliest action's pi
    log_weights = log_pi + settings.beta * log_score.exp().clamp(max=1)  # no value is above 1
    return log_weights.masked_fill(share < settings.play_support, -math.inf).log_softmax(-1)


@torch.no_grad()
def act(pi: Module, p: Module, ids: list[int], settings: Settings, stop: int, most: int = 32):
    """The tokens of an action after those of a history, sampled one by one up to the stop token."""
    action = []
    while action[-1:] != [stop] and len(action) < most:
        history = torch.tensor([ids + action], device=next(pi.parameters()).device)
        logits = [model(input_ids=history).logits[0, -1] for model in (pi, p)]
        action += torch.multinomial(extract_policy(*logits, settings).exp(), 1).tolist()
    return action
