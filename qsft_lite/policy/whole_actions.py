"""What any policy thinks of whole actions, and of each token of them, in one pass of its models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd
import torch

from qsft_lite.models import attention_mask, image_inputs
from qsft_lite.policy.cached import CachedPolicy, History, Images
from qsft_lite.policy.q_sft import QSFTPolicy

__all__ = ["NextTokens", "ask_actions", "ask_tokens"]


class NextTokens(NamedTuple):
    """What a policy thinks of every token as the next one, after each of T beginnings of an action.

    Attributes:
        pi, pi_hat: (B, T, V) float32, probabilities, before special tokens or a constraint rule any
            out.
        q: (B, T, V) float32, values as ``Q`` of `ask_actions`; None of a policy without values.
    """

    pi: torch.Tensor
    pi_hat: torch.Tensor
    q: torch.Tensor | None


@torch.inference_mode()
def ask_actions(
    policy: CachedPolicy, history: History, actions: Sequence[str], images: Images | None = None
) -> pd.DataFrame:
    """What a policy thinks of whole actions after a history, with values or without.

    The same as `QSFTPolicy.candidates`, where the policy has it, but the history is read once and
    not once for each action: they all stand behind it in one row, and none sees another.

    Args:
        policy: any; its first model is pi.
        history: the transcript so far: segments or a text, as of `CachedPolicy.act`.
        actions: texts, each with the stop text at its end, and nowhere else.
        images: the history's pictures, if it has some.

    Returns:
        One row an action, in the order given: ``action``; ``pi`` and ``pi_hat``, its probabilities
        in [0, 1], before special tokens or a constraint rule any out; and of a policy with values
        ``Q``, that of its last token: of Q-SFT in [0, 1], of ILQL and CQL what the heads say.

    Raises:
        ValueError: no actions, one that is not whole, or an unknown text.
    """
    actions = list(actions)
    if not actions:
        raise ValueError("ask_actions needs at least one action.")
    prefix = policy._read(history).ids
    action_ids = policy._reader.read([(text, True) for text in actions])
    for text, ids in zip(actions, action_ids, strict=True):
        if not policy._is_whole(text, ids):
            raise ValueError(f"{text!r} is no whole action: the stop text is its end alone.")
    # One row: the history, which belongs to all (0), then each action but for its last token.
    inputs, positions, whose = list(prefix), list(range(len(prefix))), [0] * len(prefix)
    columns = []  # of each action, where its tokens are foreseen
    for number, ids in enumerate(action_ids, start=1):
        begun = ids[:-1]
        columns.append([len(prefix) - 1, *range(len(inputs), len(inputs) + len(begun))])
        inputs += begun
        positions += range(len(prefix), len(prefix) + len(begun))
        whose += [number] * len(begun)
    policy._check_context([len(prefix) + max(map(len, action_ids))], [])
    pixels = policy._pixels(policy._pictures([history], None if images is None else [images]))
    logits = _logits(policy, inputs, positions, whose, len(prefix) - 1, pixels)
    log_pi = logits[0].log_softmax(-1)
    log_pi_hat = policy.log_weights(logits).log_softmax(-1)
    values = _values(policy, logits)
    rows = []
    for text, ids, places in zip(actions, action_ids, columns, strict=True):
        taken = torch.tensor(places) - len(prefix) + 1, torch.tensor(ids)
        row = {
            "action": text,
            "pi": math.exp(log_pi[taken].sum().item()),
            "pi_hat": math.exp(log_pi_hat[taken].sum().item()),
        }
        if values is not None:
            row["Q"] = values[taken][-1].item()
        rows.append(row)
    return pd.DataFrame(rows)


@torch.inference_mode()
def ask_tokens(
    policy: CachedPolicy,
    histories: Sequence[History],
    begun: Sequence[Sequence[int]],
    images: Sequence[Images] | None = None,
) -> NextTokens:
    """What a policy thinks of all next tokens after histories, and after each token of actions.

    Args:
        policy: any; its first model is pi.
        histories: B transcripts so far: segments or texts, as of `CachedPolicy.act`.
        begun: of each, the token ids that its action begins with: T - 1 of them, in all the same.
        images: of each, its pictures, if it has some.

    Raises:
        ValueError: no history, beginnings that are not one for each or differ in length, an unknown
            text, or pictures that do not fit.
    """
    counts = {len(ids) for ids in begun}
    if len(begun) != len(histories) or len(counts) != 1:
        raise ValueError(
            f"{len(histories)} histories need as many beginnings of one length, not {len(begun)} "
            f"of {sorted(counts)} tokens."
        )
    asked = [[*policy._read(one).ids, *ids] for one, ids in zip(histories, begun, strict=True)]
    pixels = policy._pixels(policy._pictures(histories, images))
    longest = max(map(len, asked))
    policy._check_context([longest], [])
    device = policy.device
    # Padding comes last, where no token sees it.
    input_ids = torch.tensor([ids + [0] * (longest - len(ids)) for ids in asked], device=device)
    position_ids = torch.arange(longest, device=device).expand_as(input_ids)
    ends = torch.tensor([len(ids) for ids in asked], device=device)[:, None]
    columns = ends + torch.arange(-counts.pop() - 1, 0, device=device)
    first = int(columns.min())
    logits = []
    for model in _all_models(policy):
        found = model(
            input_ids=input_ids,
            position_ids=position_ids,
            use_cache=False,
            logits_to_keep=longest - first,
            **image_inputs(model, pixels),
        ).logits[:, first - longest :]
        rows = torch.arange(len(asked), device=device)[:, None]
        logits.append(found[rows, columns - first].float())
    pi_hat = policy.log_weights(logits).softmax(-1)
    return NextTokens(logits[0].softmax(-1), pi_hat, _values(policy, logits))


def _all_models(policy: CachedPolicy) -> list[Any]:
    """pi first, then the values if there are some: at beta 0 Q-SFT plays without them."""
    if isinstance(policy, QSFTPolicy) and policy.q_model is not None:
        return [policy.behavior, policy.q_model]
    return policy.models


def _logits(
    policy: CachedPolicy,
    inputs: list[int],
    positions: list[int],
    whose: list[int],
    first: int,
    pixels: torch.Tensor | None,
) -> list[torch.Tensor]:
    """(L - first, V) float32 of each model, of what follows the places from ``first`` on.

    A token sees what stands before it and belongs to all (0) or to whom it belongs itself.
    """
    device = policy.device
    owner = torch.tensor(whose, device=device)
    places = torch.arange(len(inputs), device=device)
    seen = ((owner == 0) | (owner == owner[:, None])) & (places <= places[:, None])
    position_ids = torch.tensor([positions], device=device)
    found = []
    for model in _all_models(policy):
        outputs = model(
            input_ids=torch.tensor([inputs], device=device),
            attention_mask=attention_mask(model, seen[None, None], position_ids, position_ids),
            position_ids=position_ids,
            use_cache=False,
            logits_to_keep=places[first:],
            **image_inputs(model, pixels),
        )
        found.append(outputs.logits[0, first - len(inputs) :].float())
    return found


def _values(policy: CachedPolicy, logits: list[torch.Tensor]) -> torch.Tensor | None:
    """(L, V) of all tokens; None of a policy without values."""
    if len(logits) == 1:
        return None
    return policy._action_values(logits) if isinstance(policy, QSFTPolicy) else logits[1]
