"""The probability of all that a player could do, from code that draws random numbers.

    chances(player, lambda: player.choose(memory))      # {"look": .1, "go to desk 1": .9}

The player's code runs once for each way in which its draws can fall, so that nobody has to write
down, beside how a player chooses, how likely it chooses what.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

import numpy as np

Choice = TypeVar("Choice", bound=Hashable)


def chances(player: Any, choose: Callable[[], Choice]) -> dict[Choice, float]:
    """All that choose() may return, with its probability; choose draws from player.rng alone.

    It may draw by random() < share (or >), int(random() * count), integers(n), and choice(n or
    items, p=...). Raises AttributeError or TypeError for other draws.
    """
    own, found, ways = player.rng, defaultdict(float), [()]
    try:
        while ways:
            player.rng = draws = _Draws(ways.pop())
            found[choose()] += math.exp(draws.log_chance)
            ways += draws.other_ways
    finally:
        player.rng = own
    return dict(found)


def log_likelihood(weights: Sequence[float], taken: Sequence[Sequence[float]]) -> float:
    """log of the probability of a game's T actions under a mixture of K players.

    weights: (K,), how likely a game is of each; taken: (T, K), how likely each takes the action
    that was taken. -inf where none takes them all.
    """
    with np.errstate(divide="ignore"):
        logs = np.log(np.asarray(weights, float)) + np.log(np.asarray(taken, float)).sum(0)
    return float(np.logaddexp.reduce(logs))


class _Draws:
    """Stands for a numpy Generator on one way: the number of the branch at each of its draws."""

    def __init__(self, way: tuple[int, ...]):
        self.way = way
        self.taken: tuple[int, ...] = ()
        self.log_chance = 0.0
        self.other_ways: list[tuple[int, ...]] = []

    def branch(self, probabilities: Sequence[float]) -> int:
        """The branch of this way; on new ground the first one that is possible."""
        place = len(self.taken)
        if place < len(self.way):
            branch = self.way[place]
        else:
            branch, *others = np.flatnonzero(np.asarray(probabilities) > 0).tolist()
            self.other_ways += [(*self.taken, other) for other in others]
        self.taken = (*self.taken, branch)
        self.log_chance += math.log(probabilities[branch])
        return branch

    def random(self) -> _Uniform:
        return _Uniform(self)

    def integers(self, n: int) -> int:
        return self.branch([1 / n] * n)

    def choice(self, items: Any, p: Sequence[float] | None = None) -> Any:
        count = items if isinstance(items, int) else len(items)
        branch = self.branch([1 / count] * count if p is None else p)
        return branch if isinstance(items, int) else items[branch]


class _Uniform:
    """A number in [0, 1) that is not drawn until it is compared, or multiplied by a count."""

    def __init__(self, draws: _Draws):
        self.draws = draws
        self.used = False

    def __lt__(self, share: float) -> bool:
        if self.used:
            raise TypeError("a number that random() drew can be compared once alone: draw another")
        self.used = True
        share = min(max(share, 0.0), 1.0)
        return bool(self.draws.branch([1 - share, share]))

    def __gt__(self, share: float) -> bool:
        return not self < share

    def __mul__(self, count: int) -> _Place:
        return _Place(self.draws, count)

    def __bool__(self) -> bool:
        raise TypeError("a number that random() drew has to be compared with another number")


class _Place:
    """A number in [0, count) of which int() makes the place of an item, and nothing else."""

    def __init__(self, draws: _Draws, count: int):
        self.draws, self.count = draws, count

    def __int__(self) -> int:
        return self.draws.integers(self.count)
