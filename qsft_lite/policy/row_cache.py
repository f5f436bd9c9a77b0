"""A key-value cache whose rows have lengths of their own, so that ragged texts leave no holes."""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

__all__ = ["RowCache"]

MIN_CAPACITY = 64  # columns of a new cache; it grows by half


class _RowLayer(CacheLayerMixin):
    """Keys and values of one layer: (rows, heads, capacity, size), filled from the left."""

    is_sliding = False
    is_croppable = False

    def __init__(self, cache: RowCache):
        super().__init__()
        self.cache = cache

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        rows, heads = self.cache.rows, key_states.shape[1]
        # Zeros, since what is masked still takes part in a product with 0.
        self.keys = key_states.new_zeros(rows, heads, 0, key_states.shape[-1])
        self.values = value_states.new_zeros(rows, heads, 0, value_states.shape[-1])
        self.is_initialized = True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new states where the cache aims, and return all that its rows may read."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys = self._written(self.keys, key_states)
        self.values = self._written(self.values, value_states)
        end, index = self.cache.end, self.cache.index
        if self.cache.whole:
            return self.keys[:, :, :end], self.values[:, :, :end]
        return self.keys[index, :, :end], self.values[index, :, :end]

    def _written(self, old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        cache = self.cache
        capacity = old.shape[2]
        if cache.end > capacity:
            grown = max(cache.end, capacity * 3 // 2, MIN_CAPACITY)
            old = torch.nn.functional.pad(old, (0, 0, 0, grown - capacity))
        if cache.start is not None:
            old[:, :, cache.start : cache.end] = new
        else:
            old[cache.index[:, None], :, cache.places] = new.transpose(1, 2)
        return old

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.cache.end, 0

    def get_seq_length(self) -> int:
        return self.keys.shape[2] if self.is_initialized else 0

    def get_max_length(self) -> int:
        return -1


class RowCache(Cache):
    """A key-value cache whose rows have lengths of their own; a call may concern some of them.

    copies: how often each row is there, where several adapters read it in one pass: first all rows
    for the one adapter, then all for the next. Calls then have as many rows.
    """

    def __init__(self, layers: int, device: torch.device, copies: int = 1):
        super().__init__(layers=[_RowLayer(self) for _ in range(layers)])
        self.device = device
        self.copies = copies
        self.rows = 0  # of all copies

    def select(self, index: torch.Tensor) -> None:
        """Keep the rows of the index (n,), in its order."""
        index = self._of_copies(index).to(self.device)
        self.rows = len(index)
        for layer in self.layers:
            if layer.is_initialized:
                layer.keys, layer.values = layer.keys[index], layer.values[index]

    def aim(self, index: torch.Tensor | None, places: torch.Tensor) -> None:
        """Say where the next call writes: rows (n,), None for all, and columns (n, T)."""
        places = places.repeat(self.copies, 1)
        first = places[:, 0]
        self.whole = index is None
        self.end = int(places.max()) + 1
        # A block of columns is much quicker to write than scattered ones.
        self.start = int(first[0]) if self.whole and bool((first == first[0]).all()) else None
        index = torch.arange(self.rows) if index is None else self._of_copies(index)
        self.index, self.places = index.to(self.device), places.to(self.device)

    def _of_copies(self, index: torch.Tensor) -> torch.Tensor:
        """The rows of an index in each copy."""
        each = self.rows // self.copies
        return torch.cat([index + copy * each for copy in range(self.copies)])
