"""What the paired form asks of the frozen behavior policy, read once for all rows.

The policy stands still, so what it says of a row is the same whenever the row is met. At each
action token of a row the cache holds the logit of the action taken; and, for backups that ask for
them, the likely actions of its next state. A row then comes with further columns:

    behavior_logit (L,) float32          0 outside the action mask
    support_sizes  (L,) int64            actions in the support of the next state, 0 for none
    support_ids, support_logits, support_log_pi  (sum of the sizes,)      state after state
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object

from qsft_lite.data import collate
from qsft_lite.loss import Support

__all__ = ["CachedRows", "cache_rows", "padded_support", "rows_at"]

MOST_BYTES = 2**31  # of the likely actions of all rows, in each process

Batch = dict[str, torch.Tensor]


class CachedRows:
    """Packed rows, each with what the behavior policy says of it."""

    def __init__(self, rows: Any, columns: list[dict[str, np.ndarray]]):
        self.rows, self.columns = rows, columns

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return {**self.rows[index], **self.columns[index]}

    def __getitems__(self, indices: list[int]) -> list[dict[str, np.ndarray]]:
        """The rows of a batch, which DataLoader asks for."""
        rows = rows_at(self.rows, indices)
        return [{**row, **self.columns[index]} for index, row in zip(indices, rows, strict=True)]


def rows_at(rows: Any, indices: Sequence[int]) -> list[dict[str, np.ndarray]]:
    """Several rows at once: datasets reads them so in a seventh of the time of one by one."""
    if hasattr(rows, "__getitems__"):
        return rows.__getitems__([*indices])
    return [rows[index] for index in indices]


def cache_rows(
    rows: Any,
    read: Callable[[Batch], dict[str, torch.Tensor]],
    *,
    batch: int,
    collate: Callable[[list[Any]], Batch] = collate,
    process: int = 0,
    processes: int = 1,
) -> Any:
    """The rows with what ``read`` says of each; or as they are, with a warning, if it is too much.

    rows: packed, with a length. read: of a batch of ``batch`` rows, as ``collate`` makes it, the
    columns above, where the last three are of all its rows together. Each process reads its share.
    """
    own: list[list[dict[str, np.ndarray]]] | None = []
    size = 0
    for start in range(process * batch, len(rows), batch * processes):
        part = rows_at(rows, range(start, min(start + batch, len(rows))))
        found = {name: value.cpu().numpy() for name, value in read(collate(part)).items()}
        own.append(_cut(found, len(part)))
        size += sum(column.nbytes for column in found.values())
        if size > MOST_BYTES:
            own = None
            break
    shares = gather_object([own]) if processes > 1 else [own]
    if None in shares:
        warnings.warn(
            f"what the behavior policy says of all rows is more than {MOST_BYTES / 2**30:g} GiB, "
            "so it is worked out at each step: a larger support asks for less",
            stacklevel=2,
        )
        return rows
    turns = (share[turn] for turn in range(len(shares[0])) for share in shares if turn < len(share))
    return CachedRows(rows, [row for turn in turns for row in turn])


def _cut(found: dict[str, np.ndarray], rows: int) -> list[dict[str, np.ndarray]]:
    """Columns of a batch as those of each of its rows."""
    if "support_sizes" not in found:
        return [{name: column[row] for name, column in found.items()} for row in range(rows)]
    ends = found["support_sizes"].sum(1).cumsum()[:-1]
    flat = {n: np.split(column, ends) for n, column in found.items() if column.ndim == 1}
    columns = {**{n: column for n, column in found.items() if column.ndim > 1}, **flat}
    return [{name: column[row] for name, column in columns.items()} for row in range(rows)]


def flat_support(support: Support) -> dict[str, torch.Tensor]:
    """The three flat columns of a support (N, K), state after state."""
    inside = support.log_pi > -torch.inf
    return {
        "support_ids": support.ids[inside].int(),
        "support_logits": support.behavior_logits[inside],
        "support_log_pi": support.log_pi[inside],
    }


def padded_support(batch: Batch) -> Support:
    """The support of a batch's next states (N, K), of those that have one, in order."""
    sizes = batch["support_sizes"].reshape(-1)
    sizes = sizes[sizes > 0]
    most = int(sizes.max()) if len(sizes) else 1
    inside = torch.arange(most, device=sizes.device) < sizes[:, None]

    def padded(name: str, padding: float, dtype: torch.dtype) -> torch.Tensor:
        flat = batch[name].to(dtype)
        return flat.new_full(inside.shape, padding).masked_scatter_(inside, flat)

    return Support(
        padded("support_ids", 0, torch.int64),
        padded("support_logits", 0.0, torch.float32),
        padded("support_log_pi", -torch.inf, torch.float32),
    )
