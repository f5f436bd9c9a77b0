"""Refusing whole actions of several tokens: how much of each beginning of an action is left."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence

import torch

Prefixes = Sequence[Sequence[int]]  # beginnings of actions, in tokens


class Refusal:
    """The actions that are refused in each row, as trees of their tokens.

    With w the policy's own probabilities, the mass left of the beginning a of an action is 0 where
    a is refused, 1 where no refused action begins with it, and else the sum over next tokens b of
    w(b | a) times the mass left of a, b. To add up what is left, and not to take what is refused
    from 1, is what keeps a small rest: a sharpened policy may have 1e-9 there.

    Args:
        refused: of each row, the token ids of whole actions; none begins with another.
        log_w: of rows and prefixes in them, log w (N, V) of their next tokens, float32.
        vocabulary: V.
        device: of what ``log_w`` returns.
    """

    def __init__(
        self,
        refused: Sequence[Sequence[Sequence[int]]],
        log_w: Callable[[Sequence[int], Prefixes], torch.Tensor],
        vocabulary: int,
        device: torch.device | str = "cpu",
    ):
        self.vocabulary = vocabulary
        self.device = device
        # Of each row and prefix, the next tokens of refused actions, with log of the mass left.
        self._next = [defaultdict(dict) for _ in refused]
        for tree, actions in zip(self._next, refused, strict=True):
            for action in map(tuple, actions):
                for size, token_id in enumerate(action):
                    tree[action[:size]][token_id] = -math.inf
        longest = max((len(prefix) for tree in self._next for prefix in tree), default=0)
        for size in range(longest, 0, -1):
            places = [
                (row, p) for row, tree in enumerate(self._next) for p in tree if len(p) == size
            ]
            rows, prefixes = zip(*places, strict=True)
            mass = (log_w(rows, prefixes) + self.log_mass_left(rows, prefixes)).logsumexp(-1)
            for (row, prefix), value in zip(places, mass.tolist(), strict=True):
                self._next[row][prefix[:-1]][prefix[-1]] = value

    def log_mass_left(self, rows: Sequence[int], prefixes: Prefixes) -> torch.Tensor:
        """Log of the mass left of each prefix with each next token: (N, V), float32."""
        found = [
            (place, token_id, value)
            for place, (row, prefix) in enumerate(zip(rows, prefixes, strict=True))
            for token_id, value in self._next[row].get(tuple(prefix), {}).items()
        ]
        left = torch.zeros(len(prefixes), self.vocabulary, device=self.device)
        if found:
            places, token_ids, values = map(list, zip(*found, strict=True))
            left[places, token_ids] = torch.tensor(values, device=self.device)
        return left
