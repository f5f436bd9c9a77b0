"""Episodes as tokens that know which of them are actions, what they earn, and what comes next."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from datasets import Dataset, Features, IterableDataset
from transformers import PreTrainedTokenizerBase

from qsft_lite.data.packing import ENCODED, POSITIONS, ragged_indices, starts
from qsft_lite.data.trajectories import check_choice, check_source, find_episode
from qsft_lite.data.transcripts import Reader, special_texts, start_id

__all__ = ["RewardScale", "encode", "start_id"]

BATCH = 1_000  # episodes encoded at a time: bounds the memory for long ones


@dataclass(frozen=True)
class RewardScale:
    """Rewards to [0, 1] and back: assumption 4.1 of the paper.

    low, high: smallest and largest sum of rewards of an episode, in the task's own units.
    place: where the scaled rewards go.
        "end": the whole (return - low) / (high - low) on the last action. The state holds the whole
            history, so with gamma 1 the values are the same as of rewards at each step. The episode
            must be done.
        "step": reward / (high - low) on each action, and the constant -low / (high - low) on the
            last action if the episode is done. What is yet to come can then be valued before it is
            known how the episode ends, but each single reward may lie outside [0, 1]. Whatever part
            of an episode was seen, its rewards add up to something in [-1, 1].
    """

    low: float
    high: float
    place: Literal["end", "step"] = "end"

    def __post_init__(self) -> None:
        check_choice("place", self.place, ("end", "step"))
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"low < high must be finite, got {self.low} and {self.high}")

    def to_unit(self, value: Any) -> Any:
        """A return in task units (number or array) on the scale from 0 to 1."""
        return (value - self.low) / (self.high - self.low)

    def to_raw(self, value: Any) -> Any:
        """The inverse of `to_unit`."""
        return value * (self.high - self.low) + self.low


def encode(
    dataset: Dataset | IterableDataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    scale: RewardScale,
    gamma: float = 1.0,
    discount: Literal["token", "turn"] = "token",
    memory: Literal["episode", "turn"] = "episode",
    max_length: int | None = None,
    on_long: Literal["raise", "skip", "truncate"] = "raise",
    chat_template: bool = False,
) -> Dataset | IterableDataset:
    """Episodes as tokens, with all that Q-SFT's target needs to know of each action token.

    Segments are tokenized apart and joined, so that a token is all action or all state.

    A special token that is spelt out in a text is read as its letters: text is text. But an action
    that ends with the text of the tokenizer's eos token ends with that token. With chat_template,
    the texts are those of `load_trajectories(tokenizer=tokenizer)` and of `formats.chat_segments`:
    special tokens in them are tokens, and an episode's are those that tokenizer.apply_chat_template
    gives, after the start token (which is not doubled where the template writes it), but that no
    token holds the end of a state and the beginning of an action, and that a tokenizer that puts a
    space before every text puts one before every segment. Play has the same tokens.

    Args:
        dataset: as of `load_trajectories`.
        tokenizer: its special tokens are not added, except `start_id` in front of each episode.
        scale: how rewards come to [0, 1].
        gamma: the discount, in [0, 1].
        discount: gamma for each action "token", or for each "turn", which is an action segment.
        memory: what the agent sees of the past: the "episode" so far, or this "turn" alone, for
            tasks whose last state says everything. Turns then begin with a start token each.
        max_length: the most tokens that an episode may have, the start token included.
        on_long: "raise" for an episode with more, or "skip" them, or "truncate" them, with a
            warning that counts them (when streaming, one for each 1,000 episodes). Truncated, an
            episode ends before an action, so that the state after its last one is whole: it was
            cut off there, and its value goes on with that of the state. An episode that is done,
            and whose last state alone is too long, ends with its last action, and is done.
            Those whose first two states are too long are skipped. Needs place="step".
        chat_template: whether the tokenizer's own chat template wrote the texts. Say the same to
            the policy.

    Returns:
        A dataset of these columns, lists of n, the number of tokens of the episode:
        input_ids int32. action_mask bool: the agent's tokens. reward float32: scaled, on the last
        token of an action segment. next_action int32: at an action token, the index of the next
        one; -1 where the episode ends, n where it was cut off; -1 outside the mask.
        discount float32: at an action token, the factor of the value of its next state; 0 outside.
        return_to_go float32: at an action token, the discounted sum of its own and all later
        rewards, for an episode that was cut off as far as it goes; 0 outside.
        With memory="turn" also position_ids int32, which begin at 0 in each turn.
        The logits that choose token i, and so the state of that action, are at position i - 1.

    Raises:
        ValueError: naming file and line, or else the row: an episode that is too long; one that was
            cut off with place="end"; one with a return to go outside [0, 1], or of a part outside
            [-1, 1]; an action without any token, or with a special one before its end, which no
            policy writes; a text that the tokenizer has no token for.
            No episode has at most max_length tokens.
    """
    check_choice("discount", discount, ("token", "turn"))
    check_choice("memory", memory, ("episode", "turn"))
    check_choice("on_long", on_long, ("raise", "skip", "truncate"))
    if on_long == "truncate" and scale.place == "end":
        raise ValueError(
            "on_long='truncate' needs RewardScale(..., place='step'): with place='end' the return "
            "comes at the end, which is cut off"
        )
    if max_length is not None and max_length < 1:
        raise ValueError(f"max_length must be at least 1 token, got {max_length}")
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma must be in [0, 1], got {gamma}")
    start_id(tokenizer)
    reader = Reader(tokenizer, chat_template)
    check_source(dataset)
    streaming = isinstance(dataset, IterableDataset)
    long = None if streaming else Counter()
    one_batch = partial(
        _encode_batch,
        reader=reader,
        scale=scale,
        gamma=gamma,
        per_turn=discount == "turn",
        turns_apart=memory == "turn",
        max_length=max_length,
        on_long=on_long,
        long=long,
        files=list(dataset.info.download_checksums or {}),
    )
    # A function that takes and returns Arrow tables replaces all columns.
    encoded = dataset.with_format("arrow").map(
        one_batch,
        batched=True,
        batch_size=BATCH,
        with_indices=True,
        features=Features.from_arrow_schema(_schema(memory == "turn")),
        **({} if streaming else {"desc": "encode"}),
    )
    if not streaming:
        if len(dataset) and not len(encoded):
            least = "two states within" if on_long == "truncate" else "at most"
            raise ValueError(f"no episode has {least} {max_length} tokens: raise max_length")
        _warn_long(long["truncated"], len(dataset) - len(encoded), len(dataset), max_length)
    return encoded.with_format(None)


def _encode_batch(
    episodes: pa.Table,
    indices: list[int],
    *,
    reader: Reader,
    scale: RewardScale,
    gamma: float,
    per_turn: bool,
    turns_apart: bool,
    max_length: int | None,
    on_long: str,
    long: Counter | None,
    files: list[str],
) -> pa.Table:
    """Encode all episodes of a batch at once. A "flat" array has the tokens of all of them.

    Episodes cut short are counted in ``long``; where it is None, a warning counts all long ones.
    """

    def refuse(bad: np.ndarray, complaint: str, remedy: str) -> None:
        """Raise for the first episode of which bad, (episodes,) bool, is true."""
        if bad.any():
            row = int(bad.argmax())
            [episode] = episodes.slice(row, 1).to_pylist()
            tokenizer = reader.tokenizer if reader.chat_template else None
            # Its file and line, whatever was shuffled since, or its row.
            place = find_episode(episode, files, tokenizer) or f"row {indices[row]}"
            raise ValueError(f"{place}: {complaint}: {remedy}")

    # Segments. (S,) arrays, and `owner` is the episode of each.
    texts = episodes["text"].combine_chunks()
    per_episode = texts.value_lengths().to_numpy()
    owner = np.repeat(np.arange(len(per_episode)), per_episode)
    is_action = _flat(episodes["is_action"]).astype(bool)
    done = episodes["done"].to_numpy()
    refuse(np.bincount(owner[is_action], minlength=len(done)) == 0, "no action", "check the data")
    if scale.place == "end":
        refuse(~done, "cut off (done is false)", "its return is unknown; use place='step'")
    rewards = _flat(episodes["reward"])

    # Every text is tokenized once, however often it occurs. The start token is a segment too.
    coded = texts.flatten().dictionary_encode()
    words = coded.dictionary.to_pylist()
    _warn_marks(words, reader)
    ended = [word for word in words if reader.ends_with_eos(word)]
    pieces = reader.ids([*((word, False) for word in words), *((word, True) for word in ended)])
    as_action = np.arange(len(words))  # the place among the pieces of each word, as an action
    as_action[[reader.ends_with_eos(word) for word in words]] = len(words) + np.arange(len(ended))
    piece = coded.indices.to_numpy()
    piece = np.where(is_action, as_action[piece], piece)
    strange = np.array([one is None for one in pieces])[piece]
    remedy = "use a tokenizer made for this data"
    refuse(_any(strange, owner, len(done)), "a text that the tokenizer cannot read", remedy)
    inside = np.array([bool(reader.writable.intersection((ids or ())[:-1])) for ids in pieces])
    remedy = "no policy writes that: make it part of the state"
    bad = _any(inside[piece] & is_action, owner, len(done))
    refuse(bad, "an action with a special token before its end", remedy)
    start = len(pieces)
    pieces.append([start_id(reader.tokenizer)])
    begin = starts(per_episode)
    if reader.chat_template:
        doubled = np.array([ids[:1] == [reader.tokenizer.bos_token_id] for ids in pieces[:start]])
        remedy = "leave it out, encode adds it"
        refuse(doubled[piece[begin]], "a text that begins with the start token", remedy)
    if turns_apart:
        after_action = ~is_action & np.append(False, is_action[:-1])
        begin = np.union1d(begin, np.flatnonzero(after_action))
    piece = np.insert(piece, begin, start)
    is_action = np.insert(is_action, begin, False)
    rewards = np.insert(rewards, begin, 0.0)
    owner = np.insert(owner, begin, owner[begin])

    # Tokens.
    piece_sizes = np.array([len(ids or ()) for ids in pieces])
    vocabulary = np.fromiter(chain.from_iterable(ids or () for ids in pieces), dtype=np.int32)
    sizes = piece_sizes[piece]
    empty = is_action & (sizes == 0)
    refuse(_any(empty, owner, len(done)), "an action without any token", "leave it out")
    lengths = np.bincount(owner, weights=sizes).astype(np.int64)
    too_long = lengths > (max_length or math.inf)
    if on_long == "raise" and too_long.any():
        longest = int(lengths[too_long.argmax()])
        remedy = f"raise max_length, now {max_length}, or pass on_long='skip' or 'truncate'"
        refuse(too_long, f"the episode has {longest} tokens", remedy)
    truncated = 0
    if on_long == "truncate" and too_long.any():
        kept, done = _shortened(sizes, is_action, owner, done, max_length)
        piece, sizes, is_action = piece[kept], sizes[kept], is_action[kept]
        rewards, owner = rewards[kept], owner[kept]
        long_ones = int(too_long.sum())
        lengths = np.bincount(owner, weights=sizes).astype(np.int64)
        too_long = lengths > max_length
        truncated = long_ones - int(too_long.sum())
    if long is None:
        _warn_long(truncated, int(too_long.sum()), len(done), max_length)
    else:
        long["truncated"] += truncated
    rewards = _scaled_rewards(rewards, is_action, owner, done, scale)
    input_ids = vocabulary[ragged_indices(starts(piece_sizes)[piece], sizes)]

    # Action tokens. (T,) arrays, and `at` is where in the flat array each of them is.
    action_mask = np.repeat(is_action, sizes)
    at = np.flatnonzero(action_mask)
    owner = np.repeat(np.arange(len(done)), lengths)[at]
    ends_turn = np.isin(at, np.cumsum(sizes)[is_action] - 1, assume_unique=True)
    reward = np.zeros(len(at))
    reward[ends_turn] = rewards[is_action]
    factor = np.where(ends_turn | (not per_turn), gamma, 1.0)
    ends_episode = np.append(owner[1:] != owner[:-1], True)
    following = np.append(at[1:], 0) - starts(lengths)[owner]
    after_the_end = np.where(done, -1, lengths)[owner]
    next_action = np.where(ends_episode, after_the_end, following)
    return_to_go = _returns_to_go(reward, factor, ends_episode)

    bounded = done[owner]
    part_outside = ~(np.abs(return_to_go) <= 1 + 1e-6)  # so that NaN is, too
    outside = part_outside | bounded & (return_to_go < -1e-6)
    refuse(
        _any(part_outside & ~bounded, owner, len(done)),
        f"a part of an episode with rewards outside [-1, 1] by {scale}",
        "widen low and high to all returns",
    )
    refuse(
        _any(outside, owner, len(done)),
        f"a return to go outside [0, 1] by {scale}",
        "widen low and high to all returns; rewards below 0 with gamma < 1 need place='end'",
    )
    return_to_go[bounded] = return_to_go[bounded].clip(0, 1)  # rounding

    columns = {
        "input_ids": input_ids,
        "action_mask": action_mask,
        "reward": _spread(reward, at, len(input_ids)),
        "next_action": _spread(next_action.astype(np.int32), at, len(input_ids), elsewhere=-1),
        "discount": _spread(factor, at, len(input_ids)),
        "return_to_go": _spread(return_to_go, at, len(input_ids)),
    }
    if turns_apart:
        turn_sizes = np.add.reduceat(sizes, np.flatnonzero(piece == start))
        positions = ragged_indices(np.zeros_like(turn_sizes), turn_sizes)
        columns["position_ids"] = positions.astype(np.int32)
    schema = _schema(turns_apart)
    offsets = np.append(0, np.cumsum(lengths)).astype(np.int32)
    lists = [
        pa.ListArray.from_arrays(offsets, pa.array(flat, field.type.value_type))
        for field, flat in zip(schema, columns.values(), strict=True)
    ]
    return pa.table(lists, schema=schema).filter(pa.array(~too_long))


def _schema(turns_apart: bool) -> pa.Schema:
    return ENCODED.append(POSITIONS) if turns_apart else ENCODED


def _spread(values: np.ndarray, at: np.ndarray, size: int, elsewhere: int = 0) -> np.ndarray:
    """A flat array with the values (T,) at the action tokens; float32 for floats."""
    dtype = np.float32 if values.dtype == np.float64 else values.dtype
    flat = np.full(size, elsewhere, dtype=dtype)
    flat[at] = values
    return flat


def _shortened(
    sizes: np.ndarray,
    is_action: np.ndarray,
    owner: np.ndarray,
    done: np.ndarray,
    max_length: int,
) -> tuple[np.ndarray, np.ndarray]:
    """What `on_long="truncate"` leaves: (S,) bool, segments kept; (episodes,) bool, done.

    sizes, is_action, owner: (S,), tokens, kind and episode of each segment, start tokens included.
    An episode that cannot be shortened is kept as it is.
    """
    kept, done = np.ones(len(sizes), dtype=bool), done.copy()
    first = starts(np.bincount(owner, minlength=len(done)))
    for episode, segments in enumerate(np.split(np.arange(len(sizes)), first[1:])):
        before = np.cumsum(sizes[segments]) - sizes[segments]  # tokens before each segment
        if before[-1] + sizes[segments[-1]] <= max_length:
            continue
        actions = np.flatnonzero(is_action[segments])
        after = actions[-1] + 1
        if done[episode] and after < len(segments) and before[after] <= max_length:
            kept[segments[after:]] = False
            continue
        ends = actions[1:][before[actions[1:]] <= max_length]
        if len(ends):
            kept[segments[ends[-1] :]] = False
            done[episode] = False
    return kept, done


def _warn_long(truncated: int, skipped: int, total: int, max_length: int | None) -> None:
    counts = {"truncated": truncated, "skipped": skipped}
    said = [f"{name} {count}" for name, count in counts.items() if count]
    if said:
        message = f"{' and '.join(said)} of {total} episodes longer than {max_length} tokens"
        warnings.warn(message, stacklevel=3)


def _warn_marks(texts: list[str], reader: Reader) -> None:
    """Warn where texts that are read as letters look like those of a chat template."""
    template = str(reader.tokenizer.chat_template or "")
    if reader.chat_template or not template:
        return
    marks = [mark for mark in special_texts(reader.tokenizer) if mark in template]
    states = [text for text in texts if not reader.ends_with_eos(text)]
    found = next((mark for mark in marks if any(mark in text for text in states)), None)
    if found is not None:
        warnings.warn(
            f"texts spell {found!r}, which is read as letters: where the tokenizer's chat template "
            "wrote them, pass chat_template=True, to encode and to the policy",
            stacklevel=3,
        )


def _flat(column: pa.ChunkedArray) -> np.ndarray:
    return column.combine_chunks().flatten().to_numpy(zero_copy_only=False)


def _any(bad: np.ndarray, owner: np.ndarray, episodes: int) -> np.ndarray:
    """Of each episode, (episodes,) bool: whether `bad` is true for any of its elements."""
    return np.bincount(owner[bad], minlength=episodes) > 0


def _scaled_rewards(
    reward: np.ndarray,
    is_action: np.ndarray,
    owner: np.ndarray,
    done: np.ndarray,
    scale: RewardScale,
) -> np.ndarray:
    """Scaled rewards of segments; see `RewardScale`. All (S,) but done (episodes,)."""
    actions = np.flatnonzero(is_action)
    last = actions[np.append(owner[actions][1:] != owner[actions][:-1], True)]
    if scale.place == "end":
        scaled = np.zeros(len(reward))
        scaled[last] = scale.to_unit(np.bincount(owner, weights=reward))
        return scaled
    scaled = reward / (scale.high - scale.low)
    scaled[last[done]] += scale.to_unit(0.0)
    return scaled


def _returns_to_go(reward: np.ndarray, factor: np.ndarray, ends_episode: np.ndarray) -> np.ndarray:
    """G_i = r_i + factor_i * G_(i + 1), anew in each episode; all (T,) over action tokens."""
    returns = reward.copy()
    last = np.flatnonzero(ends_episode)
    counts = np.diff(last, prepend=-1)
    for back in range(1, counts.max()):
        i = last[counts > back] - back
        returns[i] += factor[i] * returns[i + 1]
    return returns
