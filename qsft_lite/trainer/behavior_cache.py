"""What the frozen behavior policy says about a data set, worked out once.

Stage two asks pi_phi the same questions in every epoch: which actions of the next state have
pi >= support, and how likely each is. Both backups over the support, "support" and "policy", need
nothing else of it, so its forward pass can be left out of every step: of 10 parts of work, 2.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

import safetensors
import safetensors.torch
import torch
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedModel

from qsft_lite.data import collate
from qsft_lite.files import replace_file
from qsft_lite.loss import linear_support
from qsft_lite.models import output_head
from qsft_lite.trainer.targets import action_log_probs, action_positions, next_states, token_states

__all__ = ["CachedBehavior", "cache_behavior", "collate_cached", "weights_hash"]


class CachedBehavior(Dataset):
    """Packed rows, each with what the behavior policy says about its action tokens.

    With A action tokens in a row and K actions kept for each, a row has, beside its own columns:
        support_ids          (A, K) int32, the actions with pi >= support in the next state,
        support_log_probs    (A, K) float32, their log pi; -inf where there are fewer than K,
        action_log_probs     (A,) float32, log pi of the action taken.
    """

    def __init__(self, rows: Any, cached: dict[str, torch.Tensor]):
        self.rows = rows
        self.cached = cached
        ends = cached["actions_per_row"].cumsum(0).tolist()
        self.bounds = list(zip([0, *ends], ends, strict=False))

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        start, end = self.bounds[index]
        return {
            **self.rows[index],
            **{name: self.cached[name][start:end] for name in _PER_ACTION},
        }


_PER_ACTION = ("support_ids", "support_log_probs", "action_log_probs")


def collate_cached(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """``data.collate``; what CachedBehavior adds comes in one piece, in the order of the tokens."""
    cached = {name: torch.cat([row[name] for row in rows]) for name in _PER_ACTION}
    return {**collate(rows), **cached}


def cache_behavior(
    behavior: PreTrainedModel,
    rows: Any,
    *,
    support: float,
    leftover: Literal["uniform"] | int,
    batch_size: int,
    folder: Path,
) -> CachedBehavior:
    """The packed rows together with the behavior policy's answers, read or else written.

    The file ``folder/behavior-<key>.safetensors`` is found again by a hash of the rows, the
    weights and the options, so that another policy never answers for this one. A damaged one is
    written anew.

    Args:
        behavior: pi_phi; evaluated where it is, in its own dtype.
        rows: packed rows, as data.pack gives them.
        support: least probability of an action that is kept, in (0, 1].
        leftover: "uniform", or the dummy's token id; a dummy is no action.
        batch_size: rows in a forward pass.
        folder: where the file lies.

    Raises:
        ValueError: a support outside (0, 1].
    """
    loader = DataLoader(rows, batch_size=batch_size, collate_fn=collate)
    path = Path(folder) / f"behavior-{_key(behavior, loader, support, leftover)}.safetensors"
    try:
        cached = safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError):  # none yet, or a damaged one
        training = behavior.training
        behavior.eval()
        parts = [_answers(behavior, batch, support, leftover) for batch in loader]
        behavior.train(training)
        cached = _join(parts)
        replace_file(path, safetensors.torch.save(cached))
    return CachedBehavior(rows, cached)


@torch.no_grad()
def _answers(
    behavior: PreTrainedModel, batch: dict[str, torch.Tensor], support: float, leftover: str | int
) -> dict[str, torch.Tensor]:
    batch = {name: value.to(behavior.device) for name, value in batch.items()}
    hidden, weight = token_states(behavior, batch), output_head(behavior).weight
    actions = action_positions(batch)
    has_next, states = next_states(batch, actions)
    ids, log_probs = linear_support(hidden[states], weight, support=support, leftover=leftover)
    kept_ids = ids.new_zeros((len(actions), ids.shape[1]))
    kept_log_probs = log_probs.new_full(kept_ids.shape, -torch.inf)
    kept_ids[has_next], kept_log_probs[has_next] = ids, log_probs
    tokens = batch["input_ids"].reshape(-1)[actions]
    answers = {
        "support_ids": kept_ids.int(),
        "support_log_probs": kept_log_probs.float(),
        "action_log_probs": action_log_probs(hidden[actions - 1], weight, tokens),
        "actions_per_row": batch["action_mask"].sum(1),
    }
    return {name: value.cpu() for name, value in answers.items()}


def _join(parts: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The batches as one, all with the largest K."""
    widest = max(part["support_ids"].shape[1] for part in parts)
    for part in parts:
        missing = (0, widest - part["support_ids"].shape[1])
        for name, filling in (("support_ids", 0), ("support_log_probs", -torch.inf)):
            part[name] = torch.nn.functional.pad(part[name], missing, value=filling)
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _key(behavior: PreTrainedModel, loader: DataLoader, support: float, leftover: str | int) -> str:
    digest = hashlib.sha256(f"{support!r} {leftover!r} {weights_hash(behavior)}".encode())
    for batch in loader:
        for name in ("input_ids", "position_ids", "segment_ids", "action_mask", "next_action"):
            digest.update(f"{name} {tuple(batch[name].shape)}".encode())
            digest.update(batch[name].numpy().tobytes())
    return digest.hexdigest()[:16]


def weights_hash(module: torch.nn.Module) -> str:
    """SHA-256 of all weights and their names."""
    digest = hashlib.sha256()
    for name, weight in sorted(module.state_dict().items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
        digest.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()
