"""A robot at a table as a study: whether methods join halves that no episode joins.

python -m qsft_lite.study manipulation --profile laptop
python -m qsft_lite.study manipulation --profile gpu --set task=drawer format=image

Each turn is read alone: a picture and the instruction, or words that say what a picture would show.
An action is a token a number, and its reward and its discount come with the last of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cached_property
from typing import Any

import datasets
import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from qsft_lite.baselines import TrainedMethod, train
from qsft_lite.baselines.choosing import GREEDY_BETA
from qsft_lite.data import RewardScale, cut_turns, encode
from qsft_lite.evaluate import Evaluation, Policy, episode_seed, evaluate
from qsft_lite.models import (
    add_dummy,
    image_tokens,
    load_model,
    share_embeddings,
    small_model,
    small_vision_model,
    smollm2,
    smollm2_vision,
    word_tokenizer,
)
from qsft_lite.policy import CachedPolicy, LastLine
from qsft_lite.study import ROWS as SHARED_ROWS
from qsft_lite.study import Settings, Task
from qsft_lite.study.rows import Q_TRANSFORMER
from qsft_lite.study.task import TEST_SEED
from qsft_lite.tasks.agent_study import measure_actions
from qsft_lite.tasks.checks import check_choice
from qsft_lite.tasks.manipulation.bins import ActionBins
from qsft_lite.tasks.manipulation.data import VERSION, cache_folder, generate_manipulation
from qsft_lite.tasks.manipulation.env import Manipulation
from qsft_lite.tasks.manipulation.picture import SIZE
from qsft_lite.tasks.manipulation.players import (
    BEHAVIOR,
    NOISE,
    Script,
    draw_plans,
    good_plans,
    is_half_way,
    noisy,
)
from qsft_lite.tasks.manipulation.reader import (
    LONGEST_SCENE,
    Reader,
    description_texts,
    generate_descriptions,
    read_shares,
)
from qsft_lite.tasks.manipulation.starts import is_success
from qsft_lite.tasks.manipulation.table import Tables
from qsft_lite.tasks.manipulation.text import parts

__all__ = ["PROFILES", "ROWS", "TASK", "ManipulationSettings", "ManipulationTask"]

PARTS = {"behavior": 0, "values": 1, "held out": 2}  # of the games, each drawn by its own seed
ACTION_WORDS = 8
FITTED_ON = 500  # episodes
READER_EPOCHS, READER_ROWS = 2.0, 16
ROWS = {**SHARED_ROWS, Q_TRANSFORMER.key: Q_TRANSFORMER}
# Where the halves meet, most of the data wait: what leads on is one action in ten, or less.
AXES = {"relative_support": (0.0, 0.02, 0.1, 0.3), "beta": (0.0, 2.0, 8.0, 32.0, GREEDY_BETA)}


@dataclasses.dataclass(frozen=True)
class ManipulationSettings(Settings):
    """The robot's settings.

    task: "tray", "drawer" or "shut_drawer". format: "image" or "state", in words. bins: of a number
    of an action; bin_kind: "uniform", of one width, or "quantiles", fitted to what the scripts do.
    noise: of the data's actions. gamma: discount of a step. longest_game: steps after which a game
    is cut off, 0 for the task's own. model: "scratch", "smollm2", or the id or folder of any
    pretrained one, for pictures one that sees. keypoints, image_tokens: of a network from scratch
    that sees, see models.small_vision_model. reader: with the format "state", descriptions that
    another such network learns from, for test games to be played from pictures, see reader.py; 0
    for games in words. context: most tokens of a turn that a network from scratch reads.
    measured_games: those that networks are measured on.
    """

    task: str = "tray"
    format: str = "image"
    bins: int = 5  # the whole script needs no more, and the noise of the data has less room
    bin_kind: str = "uniform"
    noise: float = NOISE
    gamma: float = 0.95
    longest_game: int = 0
    model: str = "scratch"
    keypoints: int = 32
    image_tokens: int = 8
    reader: int = 0
    context: int = 64
    measured_games: int = 40
    row_tokens: int = 230
    batch_rows: int = 16
    validation_games: int = 100
    test_games: int = 200
    coarse_grid: bool = True


PROFILES = {
    "smoke": ManipulationSettings(
        games=60,
        layers=1,
        width=16,
        keypoints=8,
        batch_rows=4,
        threads=1,
        seeds=1,
        warmup_steps=1,
        value_warmup_steps=1,
        validation_games=4,
        test_games=8,
        measured_games=2,
        longest_game=6,
    ),
    # In words: pictures take a GPU.
    "laptop": ManipulationSettings(
        games=3_000,
        format="state",
        batch_rows=8,
        behavior_epochs=1.5,
        value_epochs=0.5,
        seeds=1,
        threads=1,
        validation_games=60,
    ),
    "record": ManipulationSettings(games=10_000, format="state", value_epochs=0.6, threads=1),
    "gpu": ManipulationSettings(
        games=300_000,
        layers=4,
        width=256,
        heads=8,
        keypoints=64,
        image_tokens=8,
        batch_rows=64,
        learning_rate=2e-3,
        value_learning_rate=1e-3,
        bf16=True,
        validation_games=200,
    ),
}


class ManipulationTask(Task):
    """One seed of the robot: it learns from halves of a task, and is judged on the whole task."""

    lowest, best = 0.0, "Script of the whole task"

    def __init__(self, settings: ManipulationSettings, seed: int):
        super().__init__(settings, seed)
        check_choice(settings.bin_kind, ("uniform", "quantiles"), "kind of bins")
        if settings.reader and settings.format != "state":
            raise ValueError("a reader is for policies by words: reader needs format=state")
        self.bins = ActionBins.uniform(settings.bins)
        if settings.bin_kind == "quantiles":
            self.bins = ActionBins.fit(self._script_actions(), settings.bins)
        self.env = self._table(settings.format)
        # A word is one token, or a few of a pretrained tokenizer.
        self.acts = {"max_new_tokens": ACTION_WORDS if self._from_scratch else 4 * ACTION_WORDS}

    def _table(self, format: str) -> Manipulation:
        settings = self.settings
        longest = settings.longest_game or None
        return Manipulation(settings.task, format=format, bins=self.bins, max_steps=longest)

    def _script_actions(self) -> np.ndarray:
        """(N, 8) what the scripts of the data do, the same for all seeds."""
        fine = ActionBins.uniform(201)
        options = {"task": self.settings.task, "noise": self.settings.noise, "format": "state"}
        games = generate_manipulation(FITTED_ON, 0, bins=fine, **options)
        texts = [text for game in games["text"] for text in game[1::2]]
        return fine.decode(np.stack([fine.read(text) for text in texts]))

    @property
    def _from_scratch(self) -> bool:
        return self.settings.model == "scratch"

    @property
    def _sees(self) -> bool:
        return self.settings.format == "image"

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Of the task's words, or the pretrained model's."""
        if self._from_scratch:
            return word_tokenizer(self.env.texts, images=self._sees)
        return self._pretrained[1]

    @cached_property
    def _pretrained(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        name = self.settings.model
        if name == "smollm2":
            model, tokenizer = smollm2_vision() if self._sees else smollm2()
        else:
            model, tokenizer = load_model(name)
        if self._sees and not image_tokens(model):
            raise ValueError(f"{name} sees no pictures: take another, or format=state")
        add_dummy(model, tokenizer)
        return model, tokenizer

    def new_model(self) -> PreTrainedModel:
        """See Task.new_model."""
        if not self._from_scratch:
            return self._pretrained[0]
        return self._new_network(self.tokenizer, self._sees)

    def _new_network(self, tokenizer: PreTrainedTokenizerBase, sees: bool) -> PreTrainedModel:
        """A network from scratch; bins of one dimension that are near each other begin alike."""
        settings = self.settings
        names = ("layers", "width", "heads", "context")
        shape = {name: getattr(settings, name) for name in names} | {"seed": self.seed}
        if sees:
            seeing = {name: getattr(settings, name) for name in ("keypoints", "image_tokens")}
            model = small_vision_model(tokenizer, **shape, image_size=SIZE, **seeing)
        else:
            model = small_model(tokenizer, **shape)
        special = tokenizer.all_special_tokens
        words = {word: parts(word) for word in tokenizer.get_vocab() if word not in special}
        # Words that begin large drown what the first steps see of a picture.
        share_embeddings(model, tokenizer, words, seed=self.seed, scale=0.02 if sees else 0.1)
        return model

    @cached_property
    def describer(self) -> CachedPolicy:
        """The network that puts pictures into words for games; it is trained once, and kept."""
        settings, seed = self.settings, 1_000 * self.seed
        tokenizer = word_tokenizer(description_texts(settings.task), images=True)
        games = generate_descriptions(settings.reader, seed, task=settings.task)
        options = {"memory": "turn", "image_tokens": settings.image_tokens}
        turns = encode(games, tokenizer, scale=RewardScale(0, 1, "step"), **options)
        # A run that goes on with more seeds, or with other values, has the same reader.
        others = ("seeds", "games", "value", "behavior", "validation", "test", "measured")
        own = dataclasses.asdict(settings).items()
        own = {name: value for name, value in own if not name.startswith(others)}
        own["version"] = VERSION  # of the texts and pictures that it learns from
        folder = cache_folder(f"{settings.task}-reader", own, settings.reader, seed, READER_ROWS)
        changes = {"num_train_epochs": READER_EPOCHS, "per_device_train_batch_size": READER_ROWS}
        trained = train(
            "bc",
            self._new_network(tokenizer, sees=True),
            tokenizer,
            cut_turns(turns, settings.row_tokens),
            None,
            self.config("behavior", folder, **changes),
            length=settings.row_tokens,
            resume=True,
        )
        return trained.policy(greedy=True, max_new_tokens=LONGEST_SCENE)

    def recorded(self, games: int, part: str) -> datasets.Dataset:
        """See Task.recorded; halves of the task, as many of the one as of the other."""
        settings = self.settings
        return generate_manipulation(
            games,
            1_000 * self.seed + PARTS[part],
            task=settings.task,
            noise=settings.noise,
            format=settings.format,
            bins=self.bins,
        )

    def encoded(self, games: datasets.Dataset) -> datasets.Dataset:
        """See Task.encoded; in pieces that fit a row.

        An episode that ran out of steps is not over: what could come after it counts.
        """
        options = {"gamma": self.settings.gamma, "discount": "turn", "memory": "turn"}
        if self._sees:
            own = self.settings.image_tokens
            options["image_tokens"] = (
                own if self._from_scratch else image_tokens(self._pretrained[0])
            )
        turns = encode(games, self.tokenizer, scale=RewardScale(0, 1, "step"), **options)
        return cut_turns(turns, self.settings.row_tokens)

    def policy(self, trained: TrainedMethod, **options: Any) -> LastLine:
        """See Task.policy."""
        return _LastState(super().policy(trained, **options))

    def play(self, policy: Policy, test: bool) -> Evaluation:
        """See Task.play; with a reader test games are played from pictures, others in words."""
        if not (test and self.settings.reader):
            return super().play(policy, test)
        policy, starts = Reader(self.describer, policy), self.starts(test=True)
        table = self._table("image")
        return evaluate(policy, table, len(starts), TEST_SEED, batch=len(starts), options=starts)

    def starts(self, test: bool) -> list[dict[str, Any]]:
        """The start of the whole task; the seeds of the games say which table it is."""
        settings = self.settings
        return [{"start": "prior"}] * (settings.test_games if test else settings.validation_games)

    def test_tables(self) -> Tables:
        """The tables that the test games start with."""
        env, found = self._table("state"), []
        for number, start in enumerate(self.starts(test=True)):
            env.reset(seed=episode_seed(TEST_SEED, number), options=start)
            found.append(env.table.tables)
        return Tables.joined(found)

    def levels(self) -> dict[str, float]:
        """Any action, the scripts that the data are made with, and one that does it all."""
        settings, rng = self.settings, np.random.default_rng(TEST_SEED)
        tables = self.test_tables()

        def script_of(part: str) -> float:
            plans = draw_plans(settings.task, part, tables, BEHAVIOR, rng)
            script = Script(settings.task, part, plans)
            return self._success(
                lambda now: self.bins.encode(noisy(script.act(now), settings.noise, rng))
            )

        whole = Script(settings.task, "whole", good_plans(tables, rng))
        counts = self.bins.counts
        return {
            "Random": self._success(lambda now: rng.integers(counts, size=(len(now), 8))),
            "Scripts of the first half": script_of("prior"),
            "Scripts of the second half": script_of("task"),
            self.best: self._success(lambda now: self.bins.encode(whole.act(now))),
        }

    def _success(self, act: Callable[[Tables], np.ndarray]) -> float:
        """Share of the test games that reach the goal; act: from tables to bins (B, 8)."""
        tables = self.test_tables()
        won = np.zeros(len(tables), dtype=bool)
        for _ in range(self.env.max_steps):
            tables.step(self.bins.decode(act(tables)))
            won |= is_success(self.settings.task, tables)
        return float(won.mean())

    def describe(self, result: Evaluation) -> dict[str, float]:
        """How many get half way, how many of those succeed, in how many steps; invalid actions."""
        won, half = result.returns > 0, self.half_way(result)
        return {
            "half way": float(half.mean()),
            "success from half way": float(won[half].mean()) if half.any() else np.nan,
            "steps to success": float(result.lengths[won].mean()) if won.any() else np.nan,
            "invalid actions": 1 - result.valid,
        }

    def half_way(self, result: Evaluation) -> np.ndarray:
        """(games,) bool: whether the named block was held, or the drawer open, at any time.

        The games are played again, for a transcript with pictures does not say it.
        """
        env, found = self._table("state"), np.zeros(len(result.returns), dtype=bool)
        for number, game in enumerate(result.transcripts):
            env.reset(seed=episode_seed(result.seed, number), options={"start": "prior"})
            for action in game["text"][1::2]:
                env.step(action)
                found[number] |= is_half_way(self.settings.task, env.table.tables)[0]
        return found

    def measure(self, trained: TrainedMethod) -> dict[str, float]:
        """See measure_actions; a reward is what the data's scripts reached, half by half."""
        games = self.recorded(self.settings.measured_games, "held out")
        return measure_actions(trained, self.encoded(games))

    def raw(self) -> dict[str, Any]:
        """The bins of an action; what the describer of this seed reads of fresh pictures."""
        if not self.settings.reader:
            return {"bins": self.bins.as_dict()}
        read = read_shares(self.describer, self.settings.task, self.settings.test_games, TEST_SEED)
        return {"bins": self.bins.as_dict(), "read within one step": read}

    def explorer(self, trained: TrainedMethod, options: dict[str, Any]) -> None:
        """Print how games of the policy went, one a line."""
        policy, starts = self.policy(trained, **options), self.starts(test=True)[:5]
        result = evaluate(policy, self.env, len(starts), TEST_SEED, options=starts)
        half, won = self.half_way(result), result.returns > 0
        for number, game in enumerate(result.transcripts):
            color = game["text"][0].partition(" block ")[0].split()[-1]
            said = "done" if won[number] else "half way" if half[number] else "not half way"
            print(f"{color}: {said} after {result.lengths[number]} steps")


class _LastState(LastLine):
    """A LastLine that may repeat itself: words are coarse, and a small step is no illegal one."""

    def act(self, histories: Any, images: Any = None) -> list[str]:
        return super().act(histories, [[] for _ in histories] if images is None else images)


TASK = ManipulationTask
