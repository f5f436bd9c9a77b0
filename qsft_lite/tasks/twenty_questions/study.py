"""Twenty Questions as a study: chapter 08's table, and its longer ones.

python -m qsft_lite.study twenty_questions --profile record
python -m qsft_lite.study twenty_questions --profile record --set objects=158 games=1000000
"""

from __future__ import annotations

import dataclasses
from typing import Any

import datasets
import numpy as np
from scipy import stats
from scipy.special import entr
from transformers import PreTrainedModel

from qsft_lite.baselines import TrainedMethod
from qsft_lite.data import RewardScale, encode, start_id
from qsft_lite.evaluate import evaluate
from qsft_lite.models import line_tokenizer, small_model
from qsft_lite.study import Settings, Task, evenly
from qsft_lite.study.task import TEST_SEED
from qsft_lite.tasks.guessing import Games, play_games, to_episodes
from qsft_lite.tasks.twenty_questions.env import TwentyQuestions
from qsft_lite.tasks.twenty_questions.players import (
    InformationGainPlayer,
    OptimalPlayer,
    ScriptedPlayer,
)
from qsft_lite.tasks.twenty_questions.rules import (
    TURNS,
    UNKNOWN,
    Thing,
    TwentyQuestionsRules,
    read_objects,
)

__all__ = ["PROFILES", "TASK", "TwentyQuestionsSettings", "TwentyQuestionsTask", "some_objects"]

MEASURED_SEED = 3_000
PARTS = {"behavior": 0, "values": 1, "held out": 2}  # of the games, each drawn by its own seed


@dataclasses.dataclass(frozen=True)
class TwentyQuestionsSettings(Settings):
    """Settings of Twenty Questions.

    objects: how many of the shipped ones. ideas, noise: of the player that made the data: how
    many questions come to its mind, and how often it asks anything at all. measured_games: those
    that networks are measured on.
    """

    objects: int = 20
    ideas: int = 1
    noise: float = 0.3
    measured_games: int = 400
    batch_rows: int = 16
    row_tokens: int = 84
    target_rate: float = 0.04


PROFILES = {
    "smoke": TwentyQuestionsSettings(
        objects=6,
        layers=1,
        width=16,
        batch_rows=8,
        games=300,
        value_games=300,
        seeds=1,
        validation_games=18,
        test_games=48,
        measured_games=6,
    ),
    "laptop": TwentyQuestionsSettings(
        games=70_000, value_games=45_000, seeds=1, validation_games=300
    ),
    "record": TwentyQuestionsSettings(games=40_000, even_starts=False),
    "gpu": TwentyQuestionsSettings(
        objects=158,
        layers=4,
        width=256,
        batch_rows=64,
        games=2_000_000,
        value_games=2_000_000,
        learning_rate=1e-3,
        value_learning_rate=3e-4,
        bf16=True,
        validation_games=1_896,
        test_games=3_950,
    ),
}


def some_objects(count: int) -> tuple[Thing, ...]:
    """Every k-th of the shipped objects from the first on, k as large as it can be.

    20 come from 15 of the 17 categories; more than half of all are simply the first ones.
    """
    things = read_objects()
    if not 1 <= count <= len(things):
        raise ValueError(f"objects must be between 1 and {len(things)}, got {count}")
    return things[:: len(things) // count][:count]


class TwentyQuestionsTask(Task):
    """One seed of Twenty Questions."""

    lowest, best = -TURNS, "Information gain"

    def __init__(self, settings: TwentyQuestionsSettings, seed: int):
        super().__init__(settings, seed)
        self.env = TwentyQuestions(objects=some_objects(settings.objects))
        self.tokenizer = line_tokenizer(self.env.texts)
        self.acts = {"max_new_tokens": 1}  # a question is one token

    def new_model(self) -> PreTrainedModel:
        """See Task.new_model."""
        settings = self.settings
        shape = {"layers": settings.layers, "width": settings.width, "heads": settings.heads}
        return small_model(self.tokenizer, **shape, context=2 * TURNS + 8, seed=self.seed)

    def recorded(self, games: int, part: str) -> datasets.Dataset:
        """See Task.recorded."""
        return datasets.Dataset.from_dict(to_episodes(self.env.rules, self.played(games, part)))

    def played(self, games: int, part: str) -> Games:
        """The same as arrays."""
        fresh = self.settings.value_games > 0 or part == "held out"
        entropy = [self.seed, PARTS[part]] if fresh else self.seed
        object_seed, player_seed = np.random.SeedSequence(entropy).spawn(2)
        names = self.env.rules.names
        objects = np.random.default_rng(object_seed).integers(len(names), size=games)
        return play_games(self.env.rules, self.player(player_seed), objects)

    def player(self, seed: int | np.random.SeedSequence) -> ScriptedPlayer:
        """The player that made the data."""
        settings = self.settings
        return ScriptedPlayer(self.env.rules, seed, settings.ideas, noise=settings.noise)

    def encoded(self, games: datasets.Dataset) -> datasets.Dataset:
        """See Task.encoded."""
        return encode(games, self.tokenizer, scale=RewardScale(self.lowest, 0, "end"))

    def starts(self, test: bool) -> list[dict[str, Any]]:
        """Each object equally often."""
        games = self.settings.test_games if test else self.settings.validation_games
        return evenly([{"object": name} for name in self.env.rules.names], games)

    def levels(self) -> dict[str, float]:
        """Those of the players are played; the optimum is exact."""
        rules, games = self.env.rules, self.settings.test_games
        careful = ScriptedPlayer(rules, 0, self.settings.ideas)
        players = {"The data's player, careful": careful}
        players["Information gain"] = InformationGainPlayer(rules)
        played = {
            name: evaluate(player, self.env, games, TEST_SEED).mean
            for name, player in players.items()
        }
        return {**played, "Optimum": OptimalPlayer(rules).expected_score()}

    def raw(self) -> dict[str, Any]:
        """The objects of the game."""
        return {"objects": self.env.rules.names}

    def explore(self, trained: TrainedMethod, options: dict[str, Any]) -> None:
        """Games of the policy, question by question."""
        from qsft_lite.tasks.twenty_questions.widgets import game_explorer

        policy, starts = self.policy(trained, **options), self.starts(test=True)[:20]
        played = evaluate(policy, self.env, len(starts), TEST_SEED, options=starts).transcripts
        game_explorer(policy, self.env.rules, played, asked=2)

    def measure(self, trained: TrainedMethod) -> dict[str, float]:
        """On games of the data's player that no network has seen, means over their questions.

        KL(pi_beta || pi_phi) in nats: the player's probabilities are exact. Of methods with values:
        how the value of the question asked ranks with the game's return, and, within a turn, how
        the values of the questions but guesses rank with what their answers tell (the entropy).
        """
        rules, player = self.env.rules, self.player(MEASURED_SEED)
        objects = np.arange(self.settings.measured_games) % len(rules.names)
        played = play_games(rules, player, objects)
        games, turns = np.nonzero(played.actions != UNKNOWN)
        consistent = consistent_at(rules, played)[games, turns]
        ids = self.tokenizer.convert_tokens_to_ids([texts[0] for texts in rules.phrasings])
        prefixes = self._prefixes(trained, to_episodes(rules, played)["text"])
        log_pi, learned = trained.values_of(prefixes, [ids] * len(prefixes))
        exact = player.probabilities(consistent)
        divergence = -(entr(exact) + exact * np.stack(log_pi)).sum(1).mean()
        found = {"KL(pi_beta || pi_phi)": float(divergence)}
        if learned is None:
            return found
        asked = np.stack(learned)[np.arange(len(games)), played.actions[games, turns]]
        found["rank correlation with the return"] = _rank(asked, played.returns[games])
        table = rules.table[: rules.guesses.start].astype(np.float64)
        yes = consistent @ table.T / consistent.sum(1, keepdims=True)
        told = entr(yes) + entr(1 - yes)
        ranks = [_rank(q[: len(table)], t) for q, t in zip(learned, told, strict=True) if t.any()]
        found["of questions, with what they tell"] = float(np.mean(ranks))
        return found

    def _prefixes(self, trained: TrainedMethod, games: list[list[str]]) -> list[list[int]]:
        """Token ids of what stood before each question of the games, in their order."""
        found = []
        for texts in games:
            ids = trained.tokenizer(trained.prompt + "".join(texts))["input_ids"]
            row = [start_id(trained.tokenizer), *ids]
            # A question is one token, and an answer is one: every second place is a question's.
            found += [row[:place] for place in range(len(row) - len(texts) + 1, len(row), 2)]
        return found


def consistent_at(rules: TwentyQuestionsRules, games: Games) -> np.ndarray:
    """(N, 20, W) bool: the objects that fit all earlier answers of a game, at each of its turns."""
    fits = rules.table[games.actions] == games.answers[:, :, None]
    before = np.ones_like(fits)
    before[:, 1:] = np.logical_and.accumulate(fits, axis=1)[:, :-1]
    return before


def _rank(learned: np.ndarray, truth: np.ndarray) -> float:
    """Spearman's rank correlation; 0 where either has no order."""
    if not np.ptp(learned) or not np.ptp(truth):
        return 0.0
    return float(stats.spearmanr(learned, truth).statistic)


TASK = TwentyQuestionsTask
