"""Twenty Questions as a study: chapter 09's table, and its longer ones.

python -m qsft_lite.study twenty_questions --profile record
python -m qsft_lite.study twenty_questions --profile record --set objects=158 ask_once=true
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import numpy as np
from scipy.special import entr
from transformers import PreTrainedModel

from qsft_lite.baselines import TrainedMethod
from qsft_lite.evaluate import Evaluation, Policy, evaluate
from qsft_lite.models import line_tokenizer, small_model
from qsft_lite.policy import Once
from qsft_lite.study import Settings
from qsft_lite.study.task import TEST_SEED
from qsft_lite.tasks.guessing import Player, Seed
from qsft_lite.tasks.guessing_study import GuessingTask, rank_correlation
from qsft_lite.tasks.twenty_questions.env import TwentyQuestions
from qsft_lite.tasks.twenty_questions.players import (
    InformationGainPlayer,
    OptimalPlayer,
    ScriptedPlayer,
)
from qsft_lite.tasks.twenty_questions.rules import (
    TURNS,
    Thing,
    read_objects,
)

__all__ = ["PROFILES", "TASK", "TwentyQuestionsSettings", "TwentyQuestionsTask", "some_objects"]


@dataclasses.dataclass(frozen=True)
class TwentyQuestionsSettings(Settings):
    """Settings of Twenty Questions.

    objects: how many of the shipped ones. ideas, noise: of the player that made the data: how
    many questions come to its mind, and how often it asks anything at all. ask_once: whether every
    method is kept from asking a question again, see policy.Once. measured_games: those that
    networks are measured on.
    """

    objects: int = 20
    ideas: int = 1
    noise: float = 0.3
    ask_once: bool = False
    measured_games: int = 400
    rewards: str = "end"
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
        threads=1,
        seeds=1,
        validation_games=18,
        test_games=48,
        measured_games=6,
    ),
    # Every method acts by the clone, so most games go into it.
    "laptop": TwentyQuestionsSettings(
        games=115_000, value_games=45_000, threads=1, seeds=1, validation_games=300
    ),
    "record": TwentyQuestionsSettings(games=40_000, behavior_epochs=2.0, even_starts=False),
    "gpu": TwentyQuestionsSettings(
        objects=158,
        layers=4,
        width=256,
        batch_rows=64,
        games=2_000_000,
        value_games=2_000_000,
        behavior_epochs=2.0,
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


class TwentyQuestionsTask(GuessingTask):
    """One seed of Twenty Questions."""

    lowest, secret, optimal = -TURNS, "object", OptimalPlayer
    parts: ClassVar = {"behavior": 0, "values": 1, "held out": 2}

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

    @property
    def names(self) -> list[str]:
        """The objects."""
        return self.env.rules.names

    def player(self, seed: Seed) -> ScriptedPlayer:
        """See GuessingTask.player."""
        settings = self.settings
        return ScriptedPlayer(self.env.rules, seed, settings.ideas, noise=settings.noise)

    def policy(self, trained: TrainedMethod, **options: Any) -> Policy:
        """See Task.policy."""
        policy = super().policy(trained, **options)
        return Once(policy) if self.settings.ask_once else policy

    def references(self) -> dict[str, Player]:
        """See GuessingTask.references."""
        careful = ScriptedPlayer(self.env.rules, 0, self.settings.ideas)
        gain = InformationGainPlayer(self.env.rules)
        return {"The data's player, careful": careful, "Information gain": gain}

    def raw(self) -> dict[str, Any]:
        """The objects of the game."""
        return {"objects": self.env.rules.names}

    def describe(self, result: Evaluation) -> dict[str, float]:
        """The share of the questions that were asked before in the same game: each is wasted."""
        asked = repeated = 0
        for game in result.transcripts:
            turns = self.env.rules.read_history("".join(game["text"]))
            asked += len(turns)
            repeated += len(turns) - len({question for question, _ in turns})
        return {"questions asked before": repeated / asked}

    def explorer(self, trained: TrainedMethod, options: dict[str, Any]) -> None:
        """Games of the policy, question by question."""
        from qsft_lite.tasks.twenty_questions.widgets import game_explorer

        policy, starts = self.policy(trained, **options), self.starts(test=True)[:20]
        played = evaluate(policy, self.env, len(starts), TEST_SEED, options=starts).transcripts
        # Its bars show all questions, also those that ask_once refuses.
        game_explorer(super().policy(trained, **options), self.env.rules, played, asked=2)

    def measure_values(self, learned: np.ndarray, consistent: np.ndarray) -> dict[str, float]:
        """How values of the questions but guesses rank with what their answers tell (entropy)."""
        table = self.env.rules.table[: self.env.rules.guesses.start].astype(np.float64)
        yes = consistent @ table.T / consistent.sum(1, keepdims=True)
        told = entr(yes) + entr(1 - yes)
        ranks = [
            rank_correlation(q[: len(table)], t)
            for q, t in zip(learned, told, strict=True)
            if t.any()
        ]
        return {"of questions, with what they tell": float(np.mean(ranks))}


TASK = TwentyQuestionsTask
