"""Wordle as a study: chapter 06's table, and its longer ones.

python -m qsft_lite.study wordle --profile record
python -m qsft_lite.study wordle --profile record --study ablation
python -m qsft_lite.study wordle --profile record --set word_list=wordle_official_400.txt \
        words=0 games=600000 layers=3 width=160 spelled=true value_epochs=0.5
python -m qsft_lite.study wordle --profile gpu --set model=smollm2 games=20000
"""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import Any, ClassVar

import datasets
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from qsft_lite.baselines import TrainedMethod
from qsft_lite.models import (
    add_dummy,
    character_tokenizer,
    load_model,
    share_embeddings,
    small_model,
    smollm2,
    word_tokenizer,
)
from qsft_lite.study import Settings
from qsft_lite.tasks.guessing import Player, Seed
from qsft_lite.tasks.guessing_study import GuessingTask
from qsft_lite.tasks.wordle.data import generate_wordle
from qsft_lite.tasks.wordle.env import Wordle
from qsft_lite.tasks.wordle.players import (
    ConsistentPlayer,
    InformationGainPlayer,
    MixturePlayer,
    OptimalPlayer,
)
from qsft_lite.tasks.wordle.rules import read_words
from qsft_lite.tasks.wordle.text import parts

__all__ = ["PROFILES", "TASK", "WordleSettings", "WordleTask", "some_words"]


@dataclasses.dataclass(frozen=True)
class WordleSettings(Settings):
    """Wordle's settings.

    rules: feedback of "lmrl", or "standard". word_list: a file, "" for the shipped list; words:
    so many of it, 0 for all. format: "words" (a guess is one token), "clues" (and a feedback five:
    each letter with its place and color), or "letters" (LMRL-Gym's text).
    p: share of the data's guesses that are drawn among the consistent words.
    rewards: whether a game's score is paid at its "end", or a point of it at each "step".
    model: "scratch", "smollm2", or the id or folder of any pretrained one. spelled: embeddings
    start as sums of their letters' vectors. measured_games: those that networks are measured on.
    """

    rules: str = "lmrl"
    word_list: str = ""
    words: int = 20
    format: str = "words"
    p: float = 1 / 3
    rewards: str = "step"
    model: str = "scratch"
    spelled: bool = False
    measured_games: int = 400


RECORD = WordleSettings(
    words=40,
    games=100_000,
    row_tokens=56,
    learning_rate=2e-3,
    value_learning_rate=2e-3,
    rewards="end",
    even_starts=False,
)
PROFILES = {
    "smoke": WordleSettings(
        words=8,
        layers=1,
        width=32,
        games=500,
        value_games=500,
        batch_rows=16,
        learning_rate=2e-3,
        value_learning_rate=1e-3,
        threads=1,
        seeds=1,
        validation_games=40,
        test_games=40,
    ),
    # AdamW as transformers has it. So many games are 1,600 steps of cloning and 700 of values.
    "laptop": WordleSettings(
        games=175_868,
        value_games=76_942,
        p=0.3333,
        batch_rows=16,
        learning_rate=2e-3,
        value_learning_rate=2e-3,
        warmup_steps=90,
        value_warmup_steps=70,
        muon=False,
        threads=1,
        seeds=1,
        validation_games=200,
    ),
    "record": RECORD,
    "gpu": WordleSettings(
        words=0,
        format="letters",
        games=1_000_000,
        layers=6,
        width=384,
        batch_rows=32,
        row_tokens=1024,
        learning_rate=6e-4,
        value_learning_rate=3e-4,
        muon=False,
        bf16=True,
        validation_games=2_000,
        test_games=4_000,
    ),
}


def some_words(words: list[str], count: int) -> list[str]:
    """Every k-th of the words, so that there are `count` of them; 0 for all."""
    return words[:: len(words) // count][:count] if count else words


class WordleTask(GuessingTask):
    """One seed of Wordle."""

    lowest, secret, optimal = -6, "secret", OptimalPlayer
    parts: ClassVar = {"behavior": 1, "values": 2, "held out": 3}

    def __init__(self, settings: WordleSettings, seed: int):
        super().__init__(settings, seed)
        words = read_words(settings.word_list) if settings.word_list else read_words()
        self.words = some_words(list(words), settings.words)
        self.env = Wordle(settings.rules, self.words, format=settings.format)
        # An action is one token, or six of letters; a pretrained tokenizer may take a few more.
        self.acts = {"max_new_tokens": 12 if settings.format == "letters" else 1}

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Of the game's words or letters, or the pretrained model's."""
        if self.settings.model != "scratch":
            return self._pretrained[1]
        of_texts = character_tokenizer if self.settings.format == "letters" else word_tokenizer
        return of_texts(self.env.texts)

    @cached_property
    def _pretrained(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        name = self.settings.model
        model, tokenizer = smollm2() if name == "smollm2" else load_model(name)
        add_dummy(model, tokenizer)
        return model, tokenizer

    def new_model(self) -> PreTrainedModel:
        """See Task.new_model."""
        settings = self.settings
        if settings.model != "scratch":
            return self._pretrained[0]
        shape = {"layers": settings.layers, "width": settings.width, "heads": settings.heads}
        model = small_model(self.tokenizer, **shape, context=192, seed=self.seed)
        if settings.spelled:
            rules = self.env.rules
            texts = (*rules.guess_texts, *rules.answer_texts)
            tokens = (token for text in texts for token in self.tokenizer.tokenize(text))
            spelled = {token: parts(token) for token in tokens}
            share_embeddings(model, self.tokenizer, spelled, seed=self.seed, scale=0.05)
        return model

    @property
    def names(self) -> list[str]:
        """The words."""
        return self.words

    def player(self, seed: Seed) -> MixturePlayer:
        """See GuessingTask.player."""
        return MixturePlayer(self.env.rules, seed, p=self.settings.p)

    def references(self) -> dict[str, Player]:
        """See GuessingTask.references."""
        rules = self.env.rules
        gain = InformationGainPlayer(rules, seed=0)
        return {"Consistent": ConsistentPlayer(rules, seed=0), "Information gain": gain}

    def recorded(self, games: int, part: str) -> datasets.Dataset:
        """See Task.recorded; one set of games is drawn as ``generate`` does."""
        settings = self.settings
        if settings.value_games or part == "held out":
            return super().recorded(games, part)
        shared = {"rules": settings.rules, "word_list": self.words, "format": settings.format}
        return generate_wordle(games, self.seed, p=settings.p, **shared)

    def measure(self, trained: TrainedMethod) -> dict[str, float]:
        """See GuessingTask.measure; nothing where a guess is more than one token."""
        one_token = self.settings.format != "letters" and self.settings.model == "scratch"
        return super().measure(trained) if one_token else {}

    def raw(self) -> dict[str, Any]:
        """The words of the game."""
        return {"words": self.words}

    def explorer(self, trained: TrainedMethod, options: dict[str, Any]) -> None:
        """A game to play along with the policy, which has made the first guess."""
        from qsft_lite.tasks.wordle.widgets import play_explorer

        play_explorer(self.policy(trained, **options), self.env.rules, game=1, begun=1)


TASK = WordleTask
