"""Reference players of Twenty Questions, from random to optimal. They know the table."""

from __future__ import annotations

from functools import cache

import numpy as np

from qsft_lite.tasks.guessing import (
    ExactPlayer,
    Player,
    RandomPlayer,
    Seed,
    SetPlayer,
    random_member,
)
from qsft_lite.tasks.twenty_questions.rules import TURNS, TwentyQuestionsRules

FEW = 3  # objects left, of which a scripted player guesses one


class ScriptedPlayer(Player):
    """Asks as people do: sensible questions, not the best ones, and a guess near the end.

    Some `ideas` come to its mind, drawn evenly among the questions whose answer it does not know
    yet; it asks the one that comes closest to halving the objects that are left. When at most FEW
    of them are left, or none of the questions tells more, it guesses one of them. With probability
    `noise` it asks any question at all.
    """

    def __init__(
        self, rules: TwentyQuestionsRules, seed: Seed = 0, ideas: int = 3, noise: float = 0.0
    ) -> None:
        if ideas < 1:
            raise ValueError(f"ideas must be at least 1, got {ideas}")
        if not 0 <= noise <= 1:
            raise ValueError(f"noise must be a probability in [0, 1], got {noise}")
        super().__init__(rules, seed)
        self.ideas = ideas
        self.noise = noise

    def choose(self, consistent: np.ndarray, turns_left: int) -> np.ndarray:
        """See `Player.choose`."""
        rules, rng = self.rules, self.rng
        useful, imbalance, guesses = self._looks_at(consistent)
        best = np.zeros(len(consistent), dtype=np.int64)
        best_imbalance = np.full(len(consistent), np.inf)
        rows = np.arange(len(consistent))
        for _ in range(self.ideas):
            idea = random_member(useful, rng)
            better = imbalance[rows, idea] < best_imbalance
            best = np.where(better, idea, best)
            best_imbalance = np.where(better, imbalance[rows, idea], best_imbalance)
        guess = rules.guesses.start + random_member(consistent, rng)
        best = np.where(guesses, guess, best)
        careless = rng.random(len(consistent)) < self.noise
        return np.where(careless, rng.integers(len(rules.table), size=len(consistent)), best)

    def probabilities(self, consistent: np.ndarray) -> np.ndarray:
        """The distribution that `choose` draws from: (N, W) bool -> (N, questions) float64."""
        useful, imbalance, guesses = self._looks_at(consistent)
        count = np.maximum(useful.sum(axis=1), 1)[:, None]
        other = imbalance[:, None, :]
        closer = ((other < imbalance[:, :, None]) & useful[:, None, :]).sum(axis=2) / count
        even = ((other == imbalance[:, :, None]) & useful[:, None, :]).sum(axis=2)
        # No idea is closer, and not all of them are farther; those that are even share it.
        farther = np.clip(1 - closer - even / count, 0, 1)
        chance = (1 - closer) ** self.ideas - farther**self.ideas
        share = np.where(useful, chance / np.maximum(even, 1), 0.0)
        careful = np.zeros((len(consistent), len(self.rules.table)))
        careful[:, : self.rules.guesses.start] = share
        guess = consistent / consistent.sum(axis=1, keepdims=True)
        careful[guesses] = 0.0
        careful[guesses, self.rules.guesses.start :] = guess[guesses]
        return (1 - self.noise) * careful + self.noise / careful.shape[1]

    def _looks_at(self, consistent: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Which questions tell more and how far each is from halving, (N, Q); who guesses, (N,)."""
        left = consistent.sum(axis=1)
        questions = self.rules.table[: self.rules.guesses.start].astype(np.float32)
        yes = consistent.astype(np.float32) @ questions.T  # (N, Q) objects that it is true of
        useful = (yes > 0) & (yes < left[:, None])
        guesses = (left <= FEW) | ~useful.any(axis=1)
        return useful, np.abs(2 * yes - left[:, None]), guesses


class NoisyPlayer(ScriptedPlayer):
    """The scripted player with its mind elsewhere half of the time."""

    def __init__(self, rules: TwentyQuestionsRules, seed: Seed = 0, noise: float = 0.5) -> None:
        super().__init__(rules, seed, noise=noise)


class InformationGainPlayer(SetPlayer):
    """The question whose answer tells most, by its entropy; a guess among equals, else the first.

    With one question left it guesses.
    """

    def best_action(self, objects: np.ndarray, turns_left: int) -> int:
        """See `SetPlayer.best_action`."""
        guess = self.rules.guesses.start + int(objects[0])
        yes = self.rules.table[: self.rules.guesses.start, objects].sum(axis=1)
        imbalance = np.abs(2 * yes - len(objects))  # the entropy falls with it
        if turns_left == 1 or not len(yes) or imbalance.min() >= abs(2 - len(objects)):
            return guess
        return int(imbalance.argmin())


class OptimalPlayer(ExactPlayer):
    """The question of largest expected score, by dynamic programming over sets of objects.

    For a set S its cost, the number of wrong questions to come summed over all objects in S, is

        cost(S, t) = min(|S| - 1 + cost(S without i, t - 1) over guesses i,
                         |S| + cost(S_yes, t - 1) + cost(S_no, t - 1) over other questions),

    with cost(S, 0) = 0. Costs are whole numbers, so this is exact. In general it is NP-hard, but
    where attributes halve most sets a lower bound of the cost leaves little to try: the shipped
    objects take a tenth of a second. RuntimeError when more than `limit` sets had to be solved; see
    `score_bound` for such lists.
    """

    def __init__(self, rules: TwentyQuestionsRules, seed: Seed = 0, limit: int = 100_000) -> None:
        super().__init__(rules, seed)
        self.limit = limit

    def solve(self, objects: np.ndarray, turns_left: int) -> tuple[int, int]:
        """See `ExactPlayer.solve`."""
        if len(self._solved) >= self.limit:
            raise RuntimeError(
                f"the exact optimum needs more than {self.limit} sets of objects: pass a larger "
                "limit, or use score_bound"
            )
        size, first_guess = len(objects), self.rules.guesses.start
        if size <= 2 or turns_left == 1:  # nothing beats a guess
            return size - 1, first_guess + int(objects[0])
        options = []  # (lower bound of the cost, question)
        answers = self.rules.table[:first_guess, objects]
        _, different = np.unique(answers, axis=0, return_index=True)
        yes = answers.sum(axis=1)
        for question in different:
            if 0 < yes[question] < size:
                parts = int(yes[question]), size - int(yes[question])
                bound = size + sum(least_cost(part, turns_left - 1) for part in parts)
                options.append((bound, int(question)))
        bound = size - 1 + least_cost(size - 1, turns_left - 1)
        _, unlike = np.unique(answers, axis=1, return_index=True)  # of like ones any guess will do
        options += [(bound, first_guess + int(index)) for index in objects[unlike]]
        best_cost, best_question = np.inf, -1
        for bound, question in sorted(options):  # the rest cannot win once a bound is too high
            if bound >= best_cost:
                break
            answer = self.rules.table[question, objects]
            if question >= first_guess:
                cost = size - 1 + self.cost(objects[~answer], turns_left - 1)
            else:
                cost = size + self.cost(objects[answer], turns_left - 1)
                if cost < best_cost:
                    cost += self.cost(objects[~answer], turns_left - 1)
            if cost < best_cost:
                best_cost, best_question = cost, question
        return int(best_cost), best_question


PLAYERS: dict[str, type[Player]] = {
    "random": RandomPlayer,
    "noisy": NoisyPlayer,
    "scripted": ScriptedPlayer,
    "information_gain": InformationGainPlayer,
    "optimal": OptimalPlayer,
}


@cache
def least_cost(size: int, turns_left: int) -> int:
    """The cost of `size` objects if any question at all could be asked.

    The optimum over all binary trees, as Huffman's for equal weights, but of a game that ends with
    a guess, which is asked for one object only:

        f(n, t) = min(n - 1 + f(n - 1, t - 1), n + min over k of f(k, t - 1) + f(n - k, t - 1)).
    """
    if size < 2 or turns_left == 0:
        return 0
    left = turns_left - 1
    halves = (
        least_cost(part, left) + least_cost(size - part, left) for part in range(1, size // 2 + 1)
    )
    return min(size - 1 + least_cost(size - 1, left), size + min(halves))


def score_bound(rules: TwentyQuestionsRules, lookahead: int = 3) -> float:
    """An upper bound on the mean score over all objects, of any player.

    The first `lookahead` questions are those of the table, each the best there is; from then on any
    question may be asked (`least_cost`). More lookahead never raises the bound. With 0 it depends
    on the number of objects alone; with 20 it would be the optimum, were it not that after a guess
    any question may be asked at once.
    """
    everything = np.arange(len(rules.names))
    return -_bounded_cost(rules, everything, TURNS, min(lookahead, TURNS), {}) / len(everything)


def _bounded_cost(
    rules: TwentyQuestionsRules,
    objects: np.ndarray,
    turns_left: int,
    lookahead: int,
    known: dict[bytes, int],
) -> int:
    size, left = len(objects), turns_left - 1
    if lookahead == 0 or size <= 2 or turns_left == 0:
        return least_cost(size, turns_left)
    key = objects.tobytes() + bytes([lookahead])
    if key not in known:
        best = size - 1 + least_cost(size - 1, left)
        answers = np.unique(rules.table[: rules.guesses.start, objects], axis=0)
        bounds = {}
        for row, yes in enumerate(answers.sum(axis=1).tolist()):
            if 0 < yes < size:
                bounds[row] = size + least_cost(yes, left) + least_cost(size - yes, left)
        for row in sorted(bounds, key=bounds.__getitem__):
            if bounds[row] >= best:
                break
            parts = objects[answers[row]], objects[~answers[row]]
            costs = (_bounded_cost(rules, part, left, lookahead - 1, known) for part in parts)
            best = min(best, size + sum(costs))
        known[key] = best
    return known[key]
