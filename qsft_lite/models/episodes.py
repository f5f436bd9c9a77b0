"""Attention within the episodes of packed rows, without the pairs of tokens of different episodes.

A row of L tokens with a mask costs L * L products for each head, though tokens of different
episodes never attend to each other. Here the tokens are regrouped before each layer's attention:
episodes of about one length come together as one batch of short rows, where attention is causal
and needs no mask. It is the same sum over fewer zeros, so results differ by rounding alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

__all__ = ["EpisodeGroups", "attends_by_episode", "by_episode", "group_episodes"]

NAME = "by_episode"  # of the attention, in transformers' table of them
FAMILIES = ("llama", "mistral", "qwen2", "qwen3")  # that hand further arguments to their attention
SHORT_ROW = 128  # up to so many tokens a mask costs less than to move the tokens about
LONGER = 1.25  # the longest episode of a group, beside the shortest


class EpisodeGroups(NamedTuple):
    """The episodes of B packed rows of L tokens, by groups of about one length.

    shapes: of each group how many episodes it has, and their slots. places (slots,) int64: the
    token of each slot, counted through all rows; a slot after an episode's end has its first token.
    slots (B * L,) int64: the slot of each token. padding (padded,) int64: slots after an end.
    """

    shapes: list[tuple[int, int]]
    places: torch.Tensor
    slots: torch.Tensor
    padding: torch.Tensor

    @property
    def pairs(self) -> int:
        """Of tokens, that attention works on."""
        return sum(count * length**2 for count, length in self.shapes)


def group_episodes(segment_ids: torch.Tensor) -> EpisodeGroups:
    """The groups of rows with these segment_ids (B, L), int64; padding counts as an episode."""
    rows, length = segment_ids.shape
    device = segment_ids.device
    begins = torch.ones(rows, length, dtype=torch.bool, device=device)
    begins[:, 1:] = segment_ids[:, 1:] != segment_ids[:, :-1]
    starts = begins.flatten().nonzero()[:, 0]
    sizes = torch.diff(starts, append=starts.new_tensor([rows * length]))
    sizes, order = sizes.sort()
    starts = starts[order]
    sorted_sizes = sizes.tolist()

    shapes, longest = [], []
    first = 0
    while first < len(sorted_sizes):
        most = LONGER * sorted_sizes[first]
        end = first
        while end < len(sorted_sizes) and sorted_sizes[end] <= most:
            end += 1
        shapes.append((end - first, sorted_sizes[end - 1]))
        longest += [sorted_sizes[end - 1]] * (end - first)
        first = end

    given = torch.tensor(longest, device=device)  # slots of each episode
    before = given.cumsum(0) - given
    slot = torch.arange(int(given.sum()), device=device)
    episode = torch.repeat_interleave(given)
    offset = slot - before[episode]
    is_token = offset < sizes[episode]
    places = starts[episode] + torch.where(is_token, offset, 0)
    slots = torch.empty(rows * length, dtype=torch.int64, device=device)
    slots[places[is_token]] = slot[is_token]
    return EpisodeGroups(shapes, places, slots, slot[~is_token])


def attends_by_episode(decoder: PreTrainedModel, row_tokens: int) -> bool:
    """Whether a decoder's attention can be regrouped, and may gain by it in rows so long."""
    if row_tokens <= SHORT_ROW or not isinstance(decoder, PreTrainedModel):
        return False
    config = decoder.config
    if config.model_type not in FAMILIES:
        return False
    if getattr(config, "sliding_window", None):
        return False
    # Activations that are computed again, in the backward pass, would have the usual attention.
    again = any(getattr(part, "gradient_checkpointing", False) for part in decoder.modules())
    return config._attn_implementation == "sdpa" and not (again and decoder.training)


@contextmanager
def by_episode(decoder: PreTrainedModel, groups: EpisodeGroups) -> Iterator[dict[str, Any]]:
    """The arguments by which a decoder's forward attends within episodes, inside the context."""
    config = decoder.config
    config._attn_implementation = NAME
    try:
        yield {"attention_mask": None, "episode_groups": groups}
    finally:
        config._attn_implementation = "sdpa"


class _Move(torch.autograd.Function):
    """x[places] of (N, W) rows, each of which counts once; so the gradient is a reading, too."""

    @staticmethod
    def forward(ctx, x, places, back, padding):
        ctx.save_for_backward(back, padding)
        return x.index_select(0, places)

    @staticmethod
    def backward(ctx, gradient):
        back, padding = ctx.saved_tensors
        gradient = gradient.index_select(0, back)
        if len(padding):
            gradient.index_fill_(0, padding, 0)
        return gradient, None, None, None


@torch.compiler.disable  # the shapes of the groups are others in each batch
def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    episode_groups: EpisodeGroups,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """A layer's attention: (B, heads, L, width of a head) each -> (B, L, heads, width)."""
    rows, heads, length, size = query.shape
    shapes, places, slots, padding = episode_groups
    counts = [count * of_each for count, of_each in shapes]
    none = padding[:0]
    grouped = []
    for states in (query, key, value):
        tokens = states.transpose(1, 2).reshape(rows * length, -1)
        grouped.append(_Move.apply(tokens, places, slots, none).split(counts))
    found = []
    for (count, of_each), *parts in zip(shapes, *grouped, strict=True):
        heads_first = [x.view(count, of_each, -1, size).transpose(1, 2) for x in parts]
        output, _ = sdpa_attention_forward(module, *heads_first, None, is_causal=True, **options)
        found.append(output.reshape(count * of_each, -1))
    joined = _Move.apply(torch.cat(found), slots, places, padding)
    return joined.view(rows, length, heads, size), None


AttentionInterface.register(NAME, _attention)
