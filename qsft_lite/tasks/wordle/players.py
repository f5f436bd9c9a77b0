"""Reference players of Wordle, from random to optimal. They know the word list and the rules."""

from __future__ import annotations

import numpy as np

from qsft_lite.tasks.guessing import Player, RandomPlayer, Seed, SetPlayer, random_member
from qsft_lite.tasks.wordle.rules import FEEDBACK, SOLVED, TRIES, WordleRules


class ConsistentPlayer(Player):
    """Any consistent word."""

    def choose(self, consistent: np.ndarray, turns_left: int) -> np.ndarray:
        """See `Player.choose`."""
        return random_member(consistent, self.rng)


class MixturePlayer(Player):
    """LMRL-Gym's behavior policy: with probability p any consistent word, else any word."""

    def __init__(self, rules: WordleRules, seed: Seed = 0, p: float = 1 / 3) -> None:
        if not 0 <= p <= 1:
            raise ValueError(f"p must be a probability in [0, 1], got {p}")
        super().__init__(rules, seed)
        self.p = p

    def choose(self, consistent: np.ndarray, turns_left: int) -> np.ndarray:
        """See `Player.choose`."""
        guesses = self.rng.integers(consistent.shape[1], size=len(consistent))
        smart = self.rng.random(len(consistent)) < self.p
        guesses[smart] = random_member(consistent[smart], self.rng)
        return guesses

    def probabilities(self, consistent: np.ndarray) -> np.ndarray:
        """pi_beta (N, W) of each guess, where these words fit (N, W)."""
        fits = consistent / consistent.sum(axis=1, keepdims=True)
        return self.p * fits + (1 - self.p) / consistent.shape[1]


class InformationGainPlayer(SetPlayer):
    """The consistent word whose feedback tells most; the first in the list of equal ones.

    Information gain is the entropy of the feedback when the secret is any consistent word. This is
    LMRL-Gym's strongest scripted player: its score is the top of the normalised scale.
    """

    def best_action(self, words: np.ndarray, tries_left: int) -> int:
        """See `SetPlayer.best_action`."""
        sizes = _part_sizes(self.rules.table[np.ix_(words, words)])
        # entropy = log(number of words) - mean of log(size of the secret's part)
        spread = (sizes * np.log(np.maximum(sizes, 1))).sum(axis=1)
        return int(words[np.argmax(spread < spread.min() + 1e-9)])


class OptimalPlayer(SetPlayer):
    """The guess of largest expected score, by dynamic programming over sets of consistent words.

    A state is the set of consistent words and the tries left. For a set S its cost, the number of
    wrong guesses to come summed over all secrets in S, follows

        cost(S, t) = min over guesses g of  sum over feedbacks f:  |S_f| + cost(S_f, t - 1),

    where S_f are the words of S that answer f to g; the feedback "ggggg" costs nothing, and
    cost(S, 0) = 0. Costs are whole numbers, so this is exact. Any word may be guessed, consistent
    or not. LMRL-Gym's 431 words take about a second; a list of more than `limit` words is refused.
    """

    def __init__(self, rules: WordleRules, seed: Seed = 0, limit: int = 1000) -> None:
        if len(rules.words) > limit:
            raise ValueError(
                f"the exact optimum of {len(rules.words)} words may take very long: pass a larger "
                f"limit (now {limit}) to try it, or use fewer words"
            )
        super().__init__(rules, seed)
        self._solved: dict[tuple[bytes, int], tuple[int, int]] = {}

    def expected_score(self) -> float:
        """The mean score of this player over all secrets: the largest there is."""
        everything = np.arange(len(self.rules.words))
        return -self.cost(everything, TRIES) / len(everything)

    def best_action(self, words: np.ndarray, tries_left: int) -> int:
        """See `SetPlayer.best_action`."""
        self.cost(words, tries_left)
        return self._solved[words.tobytes(), tries_left][1]

    def cost(self, words: np.ndarray, tries_left: int) -> int:
        """Wrong guesses to come, summed over the secrets `words` (indices, ascending)."""
        if tries_left == 0:
            return 0
        key = words.tobytes(), tries_left
        if key not in self._solved:
            self._solved[key] = self._solve(words, tries_left)
        return self._solved[key][0]

    def _solve(self, words: np.ndarray, tries_left: int) -> tuple[int, int]:
        if len(words) <= 2 or tries_left == 1:  # nothing beats a consistent guess
            return len(words) - 1, int(words[0])
        feedback = self.rules.table[:, words]
        sizes = _part_sizes(feedback)
        bounds = _least_cost(sizes, tries_left)
        best_cost, best_guess = np.inf, -1
        # In the order of a lower bound of its cost: the rest cannot win once a bound is too high.
        for guess in np.argsort(bounds, kind="stable"):
            cost = bounds[guess]
            if cost >= best_cost:
                break
            if sizes[guess].max() == len(words):  # tells nothing
                continue
            parts = [f for f in np.flatnonzero(sizes[guess]) if f != SOLVED and sizes[guess, f] > 2]
            for part in sorted(parts, key=lambda f: -sizes[guess, f]):
                inside = words[feedback[guess] == part]
                cost += self.cost(inside, tries_left - 1)
                cost -= _least_cost_of_part(len(inside), tries_left - 1)
                if cost >= best_cost:
                    break
            if cost < best_cost:
                best_cost, best_guess = int(cost), int(guess)
        return best_cost, best_guess


PLAYERS: dict[str, type[Player]] = {
    "random": RandomPlayer,
    "consistent": ConsistentPlayer,
    "mixture": MixturePlayer,
    "information_gain": InformationGainPlayer,
    "optimal": OptimalPlayer,
}


def _part_sizes(feedback: np.ndarray) -> np.ndarray:
    """How many secrets give each feedback: feedback (guesses, secrets) -> (guesses, 243)."""
    rows, codes = len(feedback), len(FEEDBACK)
    flat = feedback + np.arange(rows)[:, None] * codes
    return np.bincount(flat.ravel(), minlength=rows * codes).reshape(rows, codes)


def _least_cost(sizes: np.ndarray, tries_left: int) -> np.ndarray:
    """A lower bound (guesses,) of what each guess costs, from its part sizes (guesses, 243)."""
    wrong = sizes.copy()
    wrong[:, SOLVED] = 0
    return (wrong + _least_cost_of_part(wrong, tries_left - 1)).sum(axis=1)


def _least_cost_of_part(size: np.ndarray | int, tries_left: int) -> np.ndarray | int:
    """At best the next guess is right for one secret and tells all others apart."""
    if tries_left == 0:
        return 0 * size
    return np.maximum(size - 1, 0)
