"""Several episodes to a row: a batch then holds hardly any padding.

Nothing crosses from one episode to the next: `position_ids` restart, and attention must stay
within equal `segment_ids` (`qsft_lite.models.final_hidden` sees to it).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset, Features, IterableDataset, Value

from qsft_lite.data.encoding import ENCODED, IMAGE_STARTS, POSITIONS
from qsft_lite.data.images import load_image
from qsft_lite.data.ragged import ragged_indices, starts
from qsft_lite.data.trajectories import IMAGES

__all__ = ["check_packed", "collate", "cut_turns", "pack"]

RETURN = "return"  # of the episode that a piece is cut from
PACKED = pa.schema([*ENCODED, POSITIONS, pa.field("segment_ids", pa.list_(pa.int32()))])

_DTYPES = {  # of a batch
    **dict.fromkeys(("input_ids", "position_ids", "segment_ids", "next_action"), torch.int64),
    "action_mask": torch.bool,
    **dict.fromkeys(("reward", "discount", "return_to_go"), torch.float32),
}

# Further columns of rows that come with what a behavior policy says of them, see
# ``trainer.behavior_cache``: two as long as the row, and three that are as long as they are.
BEHAVIOR = {"behavior_logit": torch.float32, "support_sizes": torch.int64}
SUPPORT = {
    "support_ids": torch.int32,
    "support_logits": torch.float32,
    "support_log_pi": torch.float32,
}

# Episodes packed at a time: plenty to choose from, and memory stays bounded for any data.
WINDOW = 5_000

Pixels = Callable[[list[np.ndarray]], torch.Tensor]  # pictures (H, W, 3) uint8 -> (N, 3, H, W)


def pack(
    encoded: Dataset | IterableDataset, length: int, *, seed: int = 0
) -> Dataset | IterableDataset:
    """Rows of `length` tokens, each filled with whole episodes of `qsft_lite.data.encode`.

    Best fit: every episode goes where it leaves the least room. Most room is used when `length` is
    a multiple of the longest episode's. The seed decides which episodes meet in a row; the same
    seed gives the same rows.

    Columns, all numpy arrays of `length`: those of `encode`, with `next_action` now an index in the
    row, `position_ids` (0, 1, ... in each episode), and `segment_ids` (1, 2, ... for the episodes,
    0 for padding). Of episodes whose turns are apart (`encode(memory="turn")`), each turn
    has positions and a segment of its own. Padding is 0, False, and -1 in `next_action`. Of
    episodes with pictures, a row also has `images`: their references, in the order of its tokens.

    Raises ValueError, naming the row, for an episode longer than `length`.
    """
    if length < 1:
        raise ValueError(f"length must be at least 1 token, got {length}")
    missing = set(ENCODED.names) - set(encoded.column_names or ())
    if missing:
        raise ValueError(f"columns {sorted(missing)} are missing: pack what data.encode returned")
    # A function that takes and returns Arrow tables replaces all columns. (To name the old ones in
    # remove_columns would make a streamed dataset drop new ones of the same name.)
    options = {} if isinstance(encoded, IterableDataset) else {"desc": "pack"}
    packed = encoded.with_format("arrow").map(
        partial(_pack_window, length=length, seed=seed),
        batched=True,
        batch_size=WINDOW,
        with_indices=True,
        features=Features.from_arrow_schema(
            PACKED.append(IMAGES) if IMAGES.name in encoded.column_names else PACKED
        ),
        **options,
    )
    return packed.with_format("numpy")


def check_packed(train: Any, validation: Any) -> None:
    """ValueError for rows that `pack` has not made, none at all, or a stream to evaluate on."""
    for name, rows in (("train", train), ("validation", validation)):
        if rows is None:
            continue
        if hasattr(rows, "__len__") and not len(rows):
            raise ValueError(f"{name} has no rows")
        columns = getattr(rows, "column_names", None)
        if columns is None and hasattr(rows, "__len__"):
            columns = rows if isinstance(rows, dict) else rows[0]
        missing = set(PACKED.names) - set(PACKED.names if columns is None else columns)
        if missing:
            raise ValueError(
                f"{name} must be rows of pack(encode(games, ...), length), and has no column "
                f"{', '.join(sorted(missing))}"
            )
    if validation is not None and not hasattr(validation, "__len__"):
        raise ValueError("validation is a stream: use datasets.Dataset.from_list(list(stream))")


def _pack_window(episodes: pa.Table, indices: list[int], *, length: int, seed: int) -> pa.Table:
    columns = {name: episodes[name].combine_chunks() for name in ENCODED.names}
    sizes = columns["input_ids"].value_lengths().to_numpy()
    if sizes.max() > length:
        longest = int(sizes.argmax())
        raise ValueError(
            f"row {indices[longest]}: the episode has {sizes[longest]} tokens, a packed row has "
            f"{length}: pack to a greater length, or leave the episode out"
        )
    rng = np.random.default_rng([seed, indices[0]])
    shuffled = rng.permutation(len(sizes))
    longest_first = shuffled[np.argsort(-sizes[shuffled], kind="stable")]  # mostly the better order
    rows = min((best_fit(sizes, order, length) for order in (longest_first, shuffled)), key=len)
    rng.shuffle(rows)

    # From here on episodes are in the order of the rows, and `place` is where each one begins.
    order = np.concatenate(rows)
    sizes = sizes[order]
    per_row = np.array([len(row) for row in rows])
    first = np.repeat(starts(per_row), per_row)  # of each episode: the first one in its row
    begin = starts(sizes)
    offset = begin - begin[first]  # of each episode: where in its row it begins
    place = np.repeat(np.arange(len(rows)) * length, per_row) + offset
    source = ragged_indices(starts(columns["input_ids"].value_lengths().to_numpy())[order], sizes)
    target = ragged_indices(place, sizes)

    def spread(values: np.ndarray, padding: int = 0) -> pa.ListArray:
        flat = np.full(len(rows) * length, padding, dtype=values.dtype)
        flat[target] = values
        return pa.ListArray.from_arrays(np.arange(len(rows) + 1, dtype=np.int32) * length, flat)

    packed = {
        name: columns[name].flatten().to_numpy(zero_copy_only=False)[source]
        for name in ENCODED.names
    }
    if POSITIONS.name in episodes.column_names:
        positions = episodes[POSITIONS.name].combine_chunks().flatten().to_numpy()[source]
    else:
        positions = ragged_indices(np.zeros_like(sizes), sizes).astype(np.int32)
    next_action = packed.pop("next_action")
    next_action = np.where(next_action < 0, -1, next_action + np.repeat(offset, sizes))
    packed = {name: spread(values) for name, values in packed.items()}
    packed["next_action"] = spread(next_action.astype(np.int32), padding=-1)
    packed["position_ids"] = spread(positions)
    number = np.cumsum(positions == 0)
    before = number[begin[first]] - 1  # of each episode: segments in earlier rows
    packed["segment_ids"] = spread((number - np.repeat(before, sizes)).astype(np.int32))
    if IMAGES.name not in episodes.column_names:
        return pa.table(packed, schema=PACKED)
    images = episodes[IMAGES.name].combine_chunks().take(pa.array(order))
    ends = np.append(0, np.cumsum(images.value_lengths().to_numpy()))
    row_ends = ends[np.append(0, np.cumsum(per_row))].astype(np.int32)
    packed[IMAGES.name] = pa.ListArray.from_arrays(row_ends, images.flatten())
    return pa.table(packed, schema=PACKED.append(IMAGES))


def cut_turns(encoded: Dataset, length: int) -> Dataset:
    """Episodes of `encode(memory="turn")` in pieces of at most `length` tokens.

    A piece ends with the state that follows its last action, so that its value can be read, and
    begins with the state of its first, which the piece before may end with. Every action is in one
    piece, with the return to go that it had. Pieces of long episodes fit rows of any length. A new
    column, "return", is the sum of the whole episode's rewards.

    Raises ValueError, naming the row, where a turn and the state after it have more tokens, and for
    episodes whose turns are not apart.
    """
    if POSITIONS.name not in encoded.column_names:
        raise ValueError('only episodes of encode(memory="turn") can be cut between turns')
    cut = encoded.with_format("arrow").map(
        partial(_cut_batch, length=length),
        batched=True,
        with_indices=True,
        features=Features({**encoded.features, RETURN: Value("float64")}),
        desc="cut",
    )
    return cut.with_format(None)


def _cut_batch(episodes: pa.Table, indices: list[int], *, length: int) -> pa.Table:
    flat = {
        name: episodes[name].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        for name in episodes.column_names
        if name != IMAGES.name
    }
    sizes = episodes["input_ids"].combine_chunks().value_lengths().to_numpy()
    taken, counts, origins, returns = [], [], [], []
    for index, begin, size in zip(indices, starts(sizes), sizes, strict=True):
        episode = slice(begin, begin + size)
        turns = np.flatnonzero(flat["position_ids"][episode] == 0)
        is_action = flat["action_mask"][episode]
        states = np.array([is_action[turn:].argmax() for turn in turns])  # tokens of each
        states[-1] = states[-1] if is_action[turns[-1] :].any() else size - turns[-1]
        # Where a piece may end: after the state of each turn but the first, or with the episode.
        ends = np.append((turns + states)[1:], size)
        last = len(turns) - 1
        first = 0
        while first <= last:
            fitting = np.flatnonzero(ends[first:] - turns[first] <= length)
            if not len(fitting):
                needed = ends[first] - turns[first]
                raise ValueError(f"row {index}: a turn and the state after it: {needed} tokens")
            end = first + int(fitting[-1])
            taken.append(np.arange(begin + turns[first], begin + ends[end]))
            counts.append(len(taken[-1]))
            origins.append(turns[first])
            returns.append(flat["reward"][episode].sum(dtype=np.float64))
            if ends[end] == size:
                break
            first = end + 1
    source = np.concatenate(taken)
    offsets = np.append(0, np.cumsum(counts)).astype(np.int32)
    columns = {name: values[source] for name, values in flat.items()}
    moved = columns["next_action"] - np.repeat(origins, counts)
    columns["next_action"] = np.where(columns["next_action"] < 0, -1, moved).astype(np.int32)
    lists = {
        name: pa.ListArray.from_arrays(offsets, pa.array(values))
        for name, values in columns.items()
    }
    if IMAGES.name in episodes.column_names:
        # A picture goes with its first token, into every piece that has it.
        shown = flat[IMAGE_STARTS.name]
        number = (np.cumsum(shown) - 1)[source[shown[source]]]  # of each one in the pieces
        ends = np.append(0, np.cumsum(shown[source]))[offsets].astype(np.int32)
        images = episodes[IMAGES.name].combine_chunks().flatten().take(pa.array(number))
        lists[IMAGES.name] = pa.ListArray.from_arrays(ends, images)
    return pa.table({**lists, RETURN: pa.array(returns)})


def best_fit(sizes: np.ndarray, order: np.ndarray, capacity: int) -> list[list[int]]:
    """Rows of episode numbers whose sizes add up to at most `capacity`.

    In the given order, each episode goes into the fullest row that still has room for it.
    """
    rows: list[list[int]] = []
    with_room = defaultdict(list)  # tokens left -> rows that have just these left
    rooms = 0  # bit n is set: some row has n tokens left
    for episode in order.tolist():
        size = int(sizes[episode])
        fitting = rooms >> size
        if fitting:
            room = size + (fitting & -fitting).bit_length() - 1  # the lowest bit set
            row = with_room[room].pop()
            if not with_room[room]:
                rooms ^= 1 << room
        else:
            room, row = capacity, len(rows)
            rows.append([])
        rows[row].append(episode)
        room -= size
        with_room[room].append(row)
        rooms |= 1 << room
    return rows


def collate(rows: list[dict[str, Any]], pixels: Pixels | None = None) -> dict[str, torch.Tensor]:
    """A batch of B packed rows of length L: every column as a (B, L) tensor.

    int64, but for action_mask (bool) and reward, discount and return_to_go (float32). What a
    behavior policy says of the rows, if it is there, comes along. pixels: the rule by which the
    model sees (``models.Pixels``); then the pictures of all rows, if there are some, come as
    pixel_values, float32 (n_images, 3, H, W), in order. Raises ValueError for rows of different
    lengths.
    """
    sizes = {len(row["input_ids"]) for row in rows}
    if len(sizes) != 1:
        raise ValueError(f"rows of one batch must be of one length, got {sorted(sizes)}: pack them")
    stacked = {**_DTYPES, **{name: kind for name, kind in BEHAVIOR.items() if name in rows[0]}}
    batch = {
        name: torch.from_numpy(np.stack([row[name] for row in rows])).to(dtype)
        for name, dtype in stacked.items()
    }
    images = [str(each) for row in rows for each in row.get(IMAGES.name, ())]
    if images and pixels is not None:
        batch["pixel_values"] = pixels([load_image(each) for each in images])
    flat = {name: dtype for name, dtype in SUPPORT.items() if name in rows[0]}
    return batch | {
        name: torch.from_numpy(np.concatenate([row[name] for row in rows])).to(dtype)
        for name, dtype in flat.items()
    }
