"""Episodes as tokens that know which of them are actions, what they earn, and what comes next."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from datasets import Dataset, Features, IterableDataset
from transformers import PreTrainedTokenizerBase

from qsft_lite.checks import check_choice
from qsft_lite.data.ragged import ragged_indices, starts
from qsft_lite.data.trajectories import IMAGES, check_source, find_episode
from qsft_lite.data.transcripts import Reader, special_texts, start_id

__all__ = ["RewardScale", "encode", "start_id"]

# What `encode` makes: of each episode, one list a column, all of one length.
ENCODED = pa.schema(
    {
        "input_ids": pa.list_(pa.int32()),
        "action_mask": pa.list_(pa.bool_()),
        "reward": pa.list_(pa.float32()),
        "next_action": pa.list_(pa.int32()),
        "discount": pa.list_(pa.float32()),
        "return_to_go": pa.list_(pa.float32()),
    }
)
# With the positions of tokens, where they start anew within an episode.
POSITIONS = pa.field("position_ids", pa.list_(pa.int32()))
# Where there are pictures: the first token of each. (The column IMAGES has their references.)
IMAGE_STARTS = pa.field("image_start", pa.list_(pa.bool_()))
BATCH = 1_000  # episodes encoded at a time: bounds the memory for long ones


@dataclass(frozen=True)
class RewardScale:
    """Rewards to [0, 1] and back: assumption 4.1 of the paper.

    low, high: smallest and largest sum of rewards of an episode, in the task's own units.
    place: where the scaled rewards go.
        "end": the whole (return - low) / (high - low) on the last action. The state holds the whole
            history, so with gamma 1 the values are the same as of rewards at each step. The episode
            must be done.
        "step": reward / (high - low) on each action, and -low / (high - low) on the last one if the
            episode is done. Values are then known before the end is, but a single reward may lie
            outside [0, 1]; those of any part of an episode add up to something in [-1, 1].
    """

    low: float
    high: float
    place: Literal["end", "step"] = "end"

    def __post_init__(self) -> None:
        check_choice(self.place, ("end", "step"), "place")
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
    chat_template: bool = False,
    image_tokens: int = 0,
) -> Dataset | IterableDataset:
    """Episodes as tokens, with all that Q-SFT's target needs to know of each action token.

    Segments are tokenized apart and joined, so that a token is all action or all state. Play has
    the same tokens.

    A special token that is spelt out in a text is read as its letters: text is text. But an action
    that ends with the text of the tokenizer's eos token ends with that token. With chat_template,
    special tokens in the texts are tokens, and an episode's are those of
    tokenizer.apply_chat_template after one start token, but that each segment is tokenized apart.

    Args:
        dataset: as of `load_trajectories`.
        tokenizer: its special tokens are not added, except `start_id` in front of each episode.
        scale: how rewards come to [0, 1].
        gamma: the discount, in [0, 1].
        discount: gamma for each action "token", or for each "turn", which is an action segment.
        memory: what the agent sees of the past: the "episode" so far, or this "turn" alone, for
            tasks whose last state says everything. Turns then begin with a start token each.
        chat_template: whether the tokenizer's own chat template wrote the texts, as
            `load_trajectories(tokenizer=)` and `formats.chat_segments` let it. Say the same to the
            policy.
        image_tokens: of episodes with pictures, how many tokens each of them has in the model
            (`models.image_tokens`); "<image>" in a text becomes so many of the image token.

    Returns:
        A dataset of these columns, lists of n, the number of tokens of the episode:
        input_ids int32. action_mask bool: the agent's tokens. reward float32: scaled, on the last
        token of an action segment. next_action int32: at an action token, the index of the next
        one; -1 where the episode ends, n where it was cut off; -1 outside the mask.
        discount float32: at an action token, the factor of the value of its next state; 0 outside.
        return_to_go float32: at an action token, the discounted sum of its own and all later
        rewards, for an episode that was cut off as far as it goes; 0 outside.
        With memory="turn" also position_ids int32, which begin at 0 in each turn. Of episodes with
        pictures image_start bool, the first token of each, and images, their references in order,
        as many as there are.
        The logits that choose token i, and so the state of that action, are at position i - 1.

    Raises:
        ValueError: naming file and line, or else the row: an episode that was cut off with
            place="end"; one with a return to go outside [0, 1], or of a part outside [-1, 1]; an
            action without any token, or with a special one before its end, which no policy writes;
            a text that the tokenizer has no token for.
    """
    check_choice(discount, ("token", "turn"), "discount")
    check_choice(memory, ("episode", "turn"), "memory")
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma must be in [0, 1], got {gamma}")
    start_id(tokenizer)
    check_source(dataset)
    schema = ENCODED.append(POSITIONS) if memory == "turn" else ENCODED
    pictures = IMAGES.name in (dataset.column_names or ())
    if pictures and (isinstance(image_tokens, bool) or image_tokens < 1):
        raise ValueError(
            "these episodes have pictures: say how many tokens each has in the model, "
            "image_tokens=models.image_tokens(model)"
        )
    if pictures:
        schema = pa.schema([*schema, IMAGE_STARTS, IMAGES])
    one_batch = partial(
        _encode_batch,
        files=list(dataset.info.download_checksums or {}),
        reader=Reader(tokenizer, chat_template, image_tokens if pictures else 0),
        options=_Options(scale, gamma, discount == "turn", memory == "turn"),
        schema=schema,
    )
    # A function that takes and returns Arrow tables replaces all columns.
    encoded = dataset.with_format("arrow").map(
        one_batch,
        batched=True,
        batch_size=BATCH,
        with_indices=True,
        features=Features.from_arrow_schema(schema),
        **({} if isinstance(dataset, IterableDataset) else {"desc": "encode"}),
    )
    return encoded.with_format(None)


class _Options(NamedTuple):
    """How to encode, see ``encode``."""

    scale: RewardScale
    gamma: float
    per_turn: bool
    turns_apart: bool


class _Batch(NamedTuple):
    """E episodes that are encoded at once, and where they come from."""

    episodes: pa.Table
    indices: list[int]
    files: list[str]
    reader: Reader

    def refuse(self, bad: np.ndarray, complaint: str, owner: np.ndarray | None = None) -> None:
        """ValueError for the first episode that is bad, (E,) bool.

        With ``owner`` (N,), an episode is bad if it owns any of N things that are.
        """
        if owner is not None:
            bad = np.bincount(owner[bad], minlength=len(self.episodes)) > 0
        if bad.any():
            row = int(bad.argmax())
            [episode] = self.episodes.slice(row, 1).to_pylist()
            tokenizer = self.reader.tokenizer if self.reader.chat_template else None
            # Its file and line, whatever was shuffled since, or its row.
            place = find_episode(episode, self.files, tokenizer) or f"row {self.indices[row]}"
            raise ValueError(f"{place}: {complaint}")


class _Segments(NamedTuple):
    """All segments of a batch, a start token in front of each episode, or each turn: (S,)."""

    owner: np.ndarray  # the episode of each
    is_action: np.ndarray
    reward: np.ndarray  # in the task's own units
    piece: np.ndarray  # the place of its tokens among the pieces
    size: np.ndarray  # the number of its tokens

    def lengths(self, episodes: int) -> np.ndarray:
        """(E,) int64 tokens of each episode."""
        return np.bincount(self.owner, weights=self.size, minlength=episodes).astype(np.int64)


class _Tokens(NamedTuple):
    """All tokens of a batch: (N,)."""

    input_ids: np.ndarray
    action_mask: np.ndarray
    position_ids: np.ndarray  # from 0 after each start token
    segment: np.ndarray  # the segment of each
    image_start: np.ndarray  # whether a picture begins with it


class _ActionTokens(NamedTuple):
    """The action tokens of a batch: (T,)."""

    at: np.ndarray  # where among all tokens each of them is
    owner: np.ndarray  # the episode of each
    reward: np.ndarray
    discount: np.ndarray
    next_action: np.ndarray
    return_to_go: np.ndarray


def _encode_batch(
    episodes: pa.Table,
    indices: list[int],
    *,
    files: list[str],
    reader: Reader,
    options: _Options,
    schema: pa.Schema,
) -> pa.Table:
    """Encode all episodes of a batch at once."""
    batch = _Batch(episodes, indices, files, reader)
    done = episodes["done"].to_numpy()
    segments, pieces = _segments(batch, done, options)
    tokens = _tokens(segments, pieces, reader)
    actions = _action_tokens(segments, tokens, done, options)
    _check_returns(batch, actions, done, options.scale)
    offsets = np.append(0, np.cumsum(segments.lengths(len(done)))).astype(np.int32)
    of_tokens = pa.schema([field for field in schema if field.name != IMAGES.name])
    lists = [
        pa.ListArray.from_arrays(offsets, pa.array(flat, field.type.value_type))
        for field, flat in zip(of_tokens, _columns(of_tokens.names, tokens, actions), strict=True)
    ]
    if IMAGES.name in schema.names:
        images = episodes[IMAGES.name].combine_chunks()
        shown = np.add.reduceat(tokens.image_start, offsets[:-1], dtype=np.int64)
        named = images.value_lengths().fill_null(0).to_numpy()
        batch.refuse(shown != named, 'not one of its images for each "<image>" in its texts')
        owner = segments.owner[tokens.segment]
        batch.refuse(tokens.image_start & tokens.action_mask, "a picture in an action", owner)
        lists.append(images)
    return pa.table(lists, schema=schema)


def _segments(
    batch: _Batch, done: np.ndarray, options: _Options
) -> tuple[_Segments, list[list[int]]]:
    """The segments of a batch, and all pieces that they are made of, as token ids."""
    texts = batch.episodes["text"].combine_chunks()
    per_episode = texts.value_lengths().to_numpy()
    owner = np.repeat(np.arange(len(per_episode)), per_episode)
    is_action = _flat(batch.episodes["is_action"]).astype(bool)
    no_action = np.bincount(owner[is_action], minlength=len(done)) == 0
    batch.refuse(no_action, "no action")
    if options.scale.place == "end":
        batch.refuse(~done, "cut off (done is false), so its return is unknown: use place='step'")
    piece, pieces = _pieces(batch, texts, is_action, owner)

    begin = starts(per_episode)
    if batch.reader.chat_template:
        bos = batch.reader.tokenizer.bos_token_id
        doubled = np.array([ids[:1] == [bos] for ids in pieces])[piece[begin]]
        batch.refuse(doubled, "a text that begins with the start token, which encode adds")
    if options.turns_apart:
        after_action = ~is_action & np.append(False, is_action[:-1])
        begin = np.union1d(begin, np.flatnonzero(after_action))
    pieces.append([start_id(batch.reader.tokenizer)])
    piece = np.insert(piece, begin, len(pieces) - 1)
    size = np.array([len(ids) for ids in pieces])[piece]
    owner = np.insert(owner, begin, owner[begin])
    is_action = np.insert(is_action, begin, False)
    reward = np.insert(_flat(batch.episodes["reward"]), begin, 0.0)
    batch.refuse(is_action & (size == 0), "an action without any token", owner)
    return _Segments(owner, is_action, reward, piece, size), pieces


def _pieces(
    batch: _Batch, texts: pa.ListArray, is_action: np.ndarray, owner: np.ndarray
) -> tuple[np.ndarray, list[list[int]]]:
    """The piece (S,) of each text, and the token ids of all pieces.

    Every text is tokenized once, however often it occurs; one that ends with the eos token twice,
    since it is read otherwise as an action.
    """
    reader = batch.reader
    coded = texts.flatten().dictionary_encode()
    words = coded.dictionary.to_pylist()
    _warn_marks(words, reader)
    ended = [place for place, word in enumerate(words) if reader.ends_with_eos(word)]
    read = reader.ids([*((w, False) for w in words), *((words[place], True) for place in ended)])
    as_action = np.arange(len(words))  # the piece of each word, as an action
    as_action[ended] = len(words) + np.arange(len(ended))
    piece = coded.indices.to_numpy()
    piece = np.where(is_action, as_action[piece], piece)
    strange = np.array([ids is None for ids in read])[piece]
    batch.refuse(strange, "a text that the tokenizer cannot read", owner)
    pieces = [ids or [] for ids in read]
    inside = np.array([bool(reader.writable.intersection(ids[:-1])) for ids in pieces])[piece]
    complaint = "an action with a special token before its end, which no policy writes"
    batch.refuse(inside & is_action, complaint, owner)
    return piece, pieces


def _tokens(segments: _Segments, pieces: list[list[int]], reader: Reader) -> _Tokens:
    sizes = np.array([len(ids) for ids in pieces])
    vocabulary = np.fromiter(chain.from_iterable(pieces), dtype=np.int32)
    segment = np.repeat(np.arange(len(segments.size)), segments.size)
    starts_here = np.flatnonzero(segments.piece == len(pieces) - 1)
    turn_sizes = np.add.reduceat(segments.size, starts_here)
    input_ids = vocabulary[ragged_indices(starts(sizes)[segments.piece], segments.size)]
    image_start = np.zeros(len(input_ids), dtype=bool)
    if reader.image is not None:  # all pictures have as many tokens
        image_start[np.flatnonzero(input_ids == reader.image)[:: reader.image_tokens]] = True
    return _Tokens(
        input_ids=input_ids,
        action_mask=segments.is_action[segment],
        position_ids=ragged_indices(np.zeros_like(turn_sizes), turn_sizes).astype(np.int32),
        segment=segment,
        image_start=image_start,
    )


def _action_tokens(
    segments: _Segments, tokens: _Tokens, done: np.ndarray, options: _Options
) -> _ActionTokens:
    at = np.flatnonzero(tokens.action_mask)
    segment = tokens.segment[at]
    ends_turn = np.append(segment[1:] != segment[:-1], True)
    owner = segments.owner[segment]
    reward = np.where(ends_turn, _scaled_rewards(segments, done, options.scale)[segment], 0.0)
    discount = np.where(ends_turn | (not options.per_turn), options.gamma, 1.0)
    ends_episode = np.append(owner[1:] != owner[:-1], True)
    lengths = segments.lengths(len(done))
    following = np.append(at[1:], 0) - starts(lengths)[owner]
    next_action = np.where(ends_episode, np.where(done, -1, lengths)[owner], following)
    return_to_go = _returns_to_go(reward, discount, ends_episode)
    return _ActionTokens(at, owner, reward, discount, next_action.astype(np.int32), return_to_go)


def _check_returns(
    batch: _Batch, actions: _ActionTokens, done: np.ndarray, scale: RewardScale
) -> None:
    """Refuse returns outside [0, 1], of parts outside [-1, 1]; clip what is rounding, in place."""
    returns, bounded = actions.return_to_go, done[actions.owner]
    part_outside = ~(np.abs(returns) <= 1 + 1e-6)  # so that NaN is, too
    widen = f"by {scale}: widen low and high to all returns"
    complaint = f"a part of an episode with rewards outside [-1, 1] {widen}"
    batch.refuse(part_outside & ~bounded, complaint, actions.owner)
    outside = part_outside | bounded & (returns < -1e-6)
    complaint = f"a return to go outside [0, 1] {widen}; rewards below 0 with gamma < 1 need "
    batch.refuse(outside, complaint + "place='end'", actions.owner)
    returns[bounded] = returns[bounded].clip(0, 1)


def _columns(names: list[str], tokens: _Tokens, actions: _ActionTokens) -> Iterator[np.ndarray]:
    """Flat arrays (N,) of these columns; what action tokens alone have is 0 or -1 elsewhere."""
    for name in names:
        if name in tokens._fields:
            yield getattr(tokens, name)
        else:
            flat = np.full(len(tokens.input_ids), -1.0 if name == "next_action" else 0.0)
            flat[actions.at] = getattr(actions, name)
            yield flat.astype(np.int32 if name == "next_action" else np.float32)


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


def _scaled_rewards(segments: _Segments, done: np.ndarray, scale: RewardScale) -> np.ndarray:
    """Scaled rewards (S,) of segments; see `RewardScale`."""
    owner, reward = segments.owner, segments.reward
    actions = np.flatnonzero(segments.is_action)
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
