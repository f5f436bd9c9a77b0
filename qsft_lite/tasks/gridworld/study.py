"""Mazes as a study: small networks whose values have an exact twin.

python -m qsft_lite.study gridworld --profile laptop
python -m qsft_lite.study gridworld --study ablation --profile record --set corridor=true layers=0
"""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import Any

import datasets
import numpy as np
from scipy import stats
from transformers import PreTrainedModel

from qsft_lite.baselines import TrainedMethod
from qsft_lite.data import RewardScale, encode, start_id
from qsft_lite.evaluate import evaluate
from qsft_lite.models import small_model, word_tokenizer
from qsft_lite.study import Settings, Task, evenly
from qsft_lite.study.task import TEST_SEED
from qsft_lite.tabular import greedy_policy, policy_return, policy_value, value_iteration
from qsft_lite.tabular.mdps import gridworld, stitching_maze, stitching_paths
from qsft_lite.tabular.offline import cloned_policy, record_paths
from qsft_lite.tasks.gridworld.data import as_episodes, generate_gridworld
from qsft_lite.tasks.gridworld.env import Gridworld
from qsft_lite.tasks.gridworld.players import DRIFT

__all__ = ["PROFILES", "TASK", "GridworldSettings", "GridworldTask"]

PARTS = {"behavior": 0, "values": 1, "held out": 2}  # of the walks, each drawn by its own seed


@dataclasses.dataclass(frozen=True)
class GridworldSettings(Settings):
    """Settings of a maze.

    layout: its rows, top to bottom, see tabular.mdps.Maze. corridor: instead of it, chapter 01's
    corridor, whose recorded walks are its four pieces. gamma: discount of a step. longest_game:
    steps after which a walk is cut off.
    """

    layout: tuple[str, ...] = ("S..#.", ".#...", "..#..", "T.T.G")
    corridor: bool = False
    gamma: float = 0.8
    longest_game: int = 20
    layers: int = 1
    width: int = 48
    games: int = 12_000
    batch_rows: int = 48
    row_tokens: int = 42
    learning_rate: float = 1e-2
    value_learning_rate: float = 3e-3
    target_rate: float = 0.04
    behavior_epochs: float = 3.0
    value_epochs: float = 6.0
    validation_games: int = 200


PROFILES = {
    "smoke": GridworldSettings(
        games=300,
        width=16,
        threads=1,
        seeds=1,
        validation_games=20,
        test_games=40,
        value_epochs=1.0,
    ),
    "laptop": GridworldSettings(threads=1, seeds=1),
    "record": GridworldSettings(),
    "gpu": GridworldSettings(
        layers=4, width=256, games=200_000, batch_rows=256, seeds=5, bf16=True
    ),
}


class GridworldTask(Task):
    """One seed of a maze: walks of a walker that knows nothing of it, from any of its cells.

    In the corridor the walks are its pieces, each as often as the others but for chance.
    """

    lowest, best = 0.0, "Optimum"

    def __init__(self, settings: GridworldSettings, seed: int):
        super().__init__(settings, seed)
        if settings.corridor:
            self.maze = stitching_maze(gamma=settings.gamma)
        else:
            self.maze = gridworld(settings.layout, gamma=settings.gamma)
        self.env = Gridworld(self.maze, max_steps=settings.longest_game)
        self.tokenizer = word_tokenizer(self.env.texts)
        self.acts = {"max_new_tokens": 1}
        self.behavior = np.tile(DRIFT, (len(self.maze.cells), 1))  # (S, 4)
        if settings.corridor:
            self.pieces = stitching_paths(self.maze)
            self.behavior = cloned_policy(record_paths(self.maze.mdp, self.pieces))

    def new_model(self) -> PreTrainedModel:
        """See Task.new_model."""
        settings = self.settings
        shape = {"layers": settings.layers, "width": settings.width, "heads": settings.heads}
        return small_model(
            self.tokenizer, **shape, context=2 * settings.longest_game + 4, seed=self.seed
        )

    def recorded(self, games: int, part: str) -> datasets.Dataset:
        """See Task.recorded."""
        cells, seed = len(self.maze.cells), 1000 * self.seed + PARTS[part]
        if self.settings.corridor:
            drawn = np.random.default_rng(seed).integers(len(self.pieces), size=games)
            walks = record_paths(self.maze.mdp, [self.pieces[piece] for piece in drawn])
            return datasets.Dataset.from_dict(as_episodes(self.env, walks))
        return generate_gridworld(
            games,
            seed,
            maze=self.maze,
            behavior=self.behavior,
            starts=np.full(cells, 1 / cells),
            max_steps=self.settings.longest_game,
        )

    def encoded(self, games: datasets.Dataset) -> datasets.Dataset:
        """See Task.encoded."""
        scale = RewardScale(0, 1, "step")
        return encode(games, self.tokenizer, scale=scale, gamma=self.settings.gamma)

    def starts(self, test: bool) -> list[dict[str, Any]]:
        """The cells that walks start from."""
        games = self.settings.test_games if test else self.settings.validation_games
        cells = np.flatnonzero(self.maze.mdp.initial)
        return evenly([{"state": int(cell)} for cell in cells], games)

    def levels(self) -> dict[str, float]:
        """Exact: moves do not slip, so that a walk arrives, and scores 1, from where it can."""
        arrives = self.truths["Q*"].max(1) > 0
        return {"Optimum": float(self.maze.mdp.initial @ arrives)}

    @cached_property
    def truths(self) -> dict[str, np.ndarray]:
        """Q (S, 4) of the behavior policy and of the best one."""
        mdp = self.maze.mdp
        value = policy_value(mdp, self.behavior)
        return {
            "Q of the behavior": mdp.R + mdp.gamma * mdp.P @ value,
            "Q*": value_iteration(mdp),
        }

    def measure(self, trained: TrainedMethod) -> dict[str, float]:
        """Against exact truth, means over the cells, each as the first of a walk.

        KL(pi_beta || pi_phi) in nats. Of methods with values: the mean and the largest error of the
        values of the moves that the walker makes, their rank correlation with the truth, and what
        the move of highest value earns, always taken, as a share of the optimum.
        """
        ids = self.tokenizer.convert_tokens_to_ids(list(self.env.action_texts))
        prefixes = [
            [start_id(trained.tokenizer), *trained.tokenizer(trained.prompt + text)["input_ids"]]
            for text in self.env.state_texts
        ]
        log_pi, learned = trained.values_of(prefixes, [ids] * len(prefixes))
        made = self.behavior > 0
        ratio = np.log(np.where(made, self.behavior, 1)) - np.stack(log_pi)
        found = {"KL(pi_beta || pi_phi)": float((self.behavior * ratio).sum(1).mean())}
        if learned is None:
            return found
        values = np.where(made, np.stack(learned), -np.inf)
        for title, exact in self.truths.items():
            errors = np.abs(values - exact)[made]
            found[f"error to {title}"] = float(errors.mean())
            found[f"largest error to {title}"] = float(errors.max())
            ranks = [
                stats.spearmanr(q[of], true[of]).statistic if np.ptp(q[of]) else 0.0
                for q, true, of in zip(values, exact, made, strict=True)
                if np.ptp(true[of])
            ]
            found[f"rank correlation with {title}"] = float(np.mean(ranks))
        greedy = policy_return(self.maze.mdp, greedy_policy(values))
        best = self.maze.mdp.initial @ self.truths["Q*"].max(1)
        return {**found, "its best moves, share of the optimum": float(greedy / best)}

    def raw(self) -> dict[str, Any]:
        """The maze."""
        return {"layout": self.settings.layout}

    def explorer(self, trained: TrainedMethod, options: dict[str, Any]) -> None:
        """Print walks of the policy, one a line."""
        policy, starts = self.policy(trained, **options), self.starts(test=True)[:5]
        for walk in evaluate(policy, self.env, len(starts), TEST_SEED, options=starts).transcripts:
            print(" ".join("".join(walk["text"]).split()))


TASK = GridworldTask
