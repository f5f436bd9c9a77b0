"""What any policy thinks of whole actions, from one pass of its models over the transcript."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd
import torch

from qsft_lite.models import attention_mask, image_inputs
from qsft_lite.policy.cached import CachedPolicy, History, Images
from qsft_lite.policy.q_sft import QSFTPolicy

__all__ = ["ask_actions"]


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
    models = policy.models
    if isinstance(policy, QSFTPolicy) and policy.q_model is not None:
        models = [policy.behavior, policy.q_model]  # at beta 0 it plays without the values
    device = policy.device
    owner = torch.tensor(whose, device=device)
    places = torch.arange(len(inputs), device=device)
    seen = ((owner == 0) | (owner == owner[:, None])) & (places <= places[:, None])
    position_ids = torch.tensor([positions], device=device)
    found = []
    for model in models:
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
