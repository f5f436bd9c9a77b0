"""What filtered and return-conditioned cloning do to the data. Episodes are those of data.encode.

An episode's return is the sum of its normalised rewards, in [0, 1]. Pieces of data.cut_turns have
the return of the episode that they are cut from.
"""

from __future__ import annotations

import copy

import datasets
import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from qsft_lite.data.packing import RETURN
from qsft_lite.models import output_head

__all__ = ["add_return_tokens", "best_episodes", "condition_on_return", "episode_returns"]


def episode_returns(episodes: datasets.Dataset) -> np.ndarray:
    """(episodes,) float64."""
    if RETURN in episodes.column_names:
        return np.array(episodes[RETURN])
    return np.array([sum(reward) for reward in episodes["reward"]])


def best_episodes(episodes: datasets.Dataset, fraction: float, *, seed: int) -> datasets.Dataset:
    """The best `fraction` in (0, 1] of the episodes by return, in order; ties are broken by lot."""
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must be in (0, 1], got {fraction}")
    returns = episode_returns(episodes)
    lots = np.random.default_rng(seed).random(len(returns))
    kept = np.lexsort((lots, -returns))[: max(1, round(fraction * len(returns)))]
    return episodes.select(np.sort(kept))


def return_token(level: int) -> str:
    """The token that announces a return of this level."""
    return f"<return_{level}>"


def return_levels(episodes: datasets.Dataset, levels: int) -> np.ndarray:
    """(episodes,) int64 in 0 .. levels - 1: equal parts of [0, 1], the last one with its end."""
    # A sum of float32 rewards may fall a hair short of the edge that it stands on.
    parts = np.floor(episode_returns(episodes) * levels + 1e-4)
    return np.clip(parts, 0, levels - 1).astype(np.int64)


def add_return_tokens(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, levels: int, *, seed: int
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Copies of both that know <return_0> .. <return_{levels-1}>; new rows are drawn by the seed.

    The tokens are special ones, so that a policy never writes them.
    """
    if levels < 2:
        raise ValueError(f"levels must be at least 2, got {levels}")
    model, tokenizer = copy.deepcopy(model), copy.deepcopy(tokenizer)
    tokens = [return_token(level) for level in range(levels)]
    added = {"extra_special_tokens": tokens}
    tokenizer.add_special_tokens(added, replace_extra_special_tokens=False)
    if len(tokenizer) > output_head(model).out_features:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    return model, tokenizer


def condition_on_return(
    episodes: datasets.Dataset, tokenizer: PreTrainedTokenizerBase, levels: int
) -> datasets.Dataset:
    """The episodes with the token of their own return put second, after the one that starts them.

    They grow by one token. Where turns are apart, each of them gets the token, and grows by it.
    tokenizer: one that knows the return tokens.
    """
    tokens = tokenizer.convert_tokens_to_ids([return_token(level) for level in range(levels)])

    def insert(row: dict) -> dict:
        begin = np.array([0])
        if "position_ids" in row:
            begin = np.flatnonzero(np.array(row["position_ids"]) == 0)
        # The new token is no action, like the one before it, and gets a copy of its values.
        longer = {
            name: np.insert(values, begin + 1, np.array(values)[begin])
            for name, values in row.items()
            if isinstance(values, list) and name != "images"  # one for each picture, as before
        }
        new = begin + 1 + np.arange(len(begin))
        longer["input_ids"][new] = row["return_token"]
        if "image_start" in longer:
            longer["image_start"][new] = False
        following = longer["next_action"]
        shift = np.searchsorted(begin, following)
        longer["next_action"] = np.where(following < 0, following, following + shift)
        if "position_ids" in row:
            longer["position_ids"] += longer["position_ids"] > 0
            longer["position_ids"][new] = 1
        return longer

    own_token = np.array(tokens)[return_levels(episodes, levels)]
    with_token = episodes.add_column("return_token", own_token)
    return with_token.map(insert, remove_columns=["return_token"], features=episodes.features)
