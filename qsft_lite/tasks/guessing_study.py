"""What the studies of guessing games share: their games, starts, levels and measures."""

from __future__ import annotations

from typing import Any, ClassVar

import datasets
import numpy as np
from scipy import stats
from scipy.special import entr

from qsft_lite.baselines import TrainedMethod
from qsft_lite.data import RewardScale, encode, start_id
from qsft_lite.evaluate import evaluate
from qsft_lite.study.task import TEST_SEED, Task, evenly
from qsft_lite.tasks.guessing import NO_ACTION, Games, Player, Seed, play_games, to_episodes

__all__ = ["MEASURED_SEED", "GuessingTask", "rank_correlation"]

MEASURED_SEED = 3_000  # of the player whose games networks are measured on


class GuessingTask(Task):
    """A game of one secret, with a player whose probabilities are known.

    A subclass sets env, whose rules are those of tasks.guessing.Rules, and says: parts, the seed of
    each part of its games; secret, the name of reset's option; names, the secrets; optimal, the
    class of the best player.
    """

    best = "Information gain"
    parts: ClassVar[dict[str, int]]
    secret: ClassVar[str]
    optimal: ClassVar[type]

    @property
    def names(self) -> list[str]:
        """The secrets."""
        raise NotImplementedError

    def player(self, seed: Seed) -> Player:
        """The player that made the data; it has ``probabilities``."""
        raise NotImplementedError

    def references(self) -> dict[str, Player]:
        """Players whose levels the table shows."""
        raise NotImplementedError

    def played(self, games: int, part: str) -> Games:
        """Games of a part, as arrays."""
        fresh = self.settings.value_games > 0 or part == "held out"
        entropy = [self.seed, self.parts[part]] if fresh else self.seed
        secret_seed, player_seed = np.random.SeedSequence(entropy).spawn(2)
        secrets = np.random.default_rng(secret_seed).integers(len(self.names), size=games)
        return play_games(self.env.rules, self.player(player_seed), secrets)

    def recorded(self, games: int, part: str) -> datasets.Dataset:
        """See Task.recorded."""
        return datasets.Dataset.from_dict(to_episodes(self.env.rules, self.played(games, part)))

    def encoded(self, games: datasets.Dataset) -> datasets.Dataset:
        """See Task.encoded."""
        scale = RewardScale(self.lowest, 0, self.settings.rewards)
        return encode(games, self.tokenizer, scale=scale)

    def starts(self, test: bool) -> list[dict[str, Any]]:
        """Each secret equally often."""
        games = self.settings.test_games if test else self.settings.validation_games
        return evenly([{self.secret: name} for name in self.names], games)

    def levels(self) -> dict[str, float]:
        """Those of the reference players are played; the optimum is exact."""
        games = self.settings.test_games
        played = {
            name: evaluate(player, self.env, games, TEST_SEED).mean
            for name, player in self.references().items()
        }
        return {**played, "Optimum": self.optimal(self.env.rules).expected_score()}

    def measure(self, trained: TrainedMethod) -> dict[str, float]:
        """On games of the data's player that no network has seen, means over their actions.

        KL(pi_beta || pi_phi) in nats: the player's probabilities are exact. Of methods with values:
        how the value of the action taken ranks with what it is a value of: the game's return, or,
        where rewards are paid by step, those still to come. An action is one token.
        """
        rules, player = self.env.rules, self.player(MEASURED_SEED)
        played = play_games(
            rules, player, np.arange(self.settings.measured_games) % len(self.names)
        )
        games, turns = np.nonzero(played.actions != NO_ACTION)
        consistent = consistent_at(rules.table, played)[games, turns]
        ids = self.tokenizer.convert_tokens_to_ids(list(rules.action_texts))
        prefixes = _prefixes(trained, to_episodes(rules, played)["text"])
        log_pi, learned = trained.values_of(prefixes, [ids] * len(prefixes))
        exact = player.probabilities(consistent)
        divergence = -(entr(exact) + exact * np.stack(log_pi)).sum(1).mean()
        found = {"KL(pi_beta || pi_phi)": float(divergence)}
        if learned is not None:
            taken = np.stack(learned)[np.arange(len(games)), played.actions[games, turns]]
            returns = played.returns[games] + (turns if self.settings.rewards == "step" else 0)
            found["rank correlation with the return"] = rank_correlation(taken, returns)
            found |= self.measure_values(np.stack(learned), consistent)
        return found

    def measure_values(self, learned: np.ndarray, consistent: np.ndarray) -> dict[str, float]:
        """What else is known of the values (N, A) of all actions where these secrets fit (N, W)."""
        return {}


def consistent_at(table: np.ndarray, games: Games) -> np.ndarray:
    """(N, T, W) bool: the secrets that fit all earlier answers of a game, at each of its turns."""
    fits = table[games.actions] == games.answers[:, :, None]
    before = np.ones_like(fits)
    before[:, 1:] = np.logical_and.accumulate(fits, axis=1)[:, :-1]
    return before


def _prefixes(trained: TrainedMethod, games: list[list[str]]) -> list[list[int]]:
    """Token ids of what stood before each action of the games, in their order."""
    found = []
    for texts in games:
        row = [start_id(trained.tokenizer)]
        segments = trained.tokenizer([trained.prompt + texts[0], *texts[1:]])["input_ids"]
        for number, ids in enumerate(segments):
            if number % 2:  # every second segment is an action
                found.append(row)
            row = row + ids
    return found


def rank_correlation(learned: np.ndarray, truth: np.ndarray) -> float:
    """Spearman's; 0 where either has no order."""
    if not np.ptp(learned) or not np.ptp(truth):
        return 0.0
    return float(stats.spearmanr(learned, truth).statistic)
