"""ALFWorld as a study: chapter 11's table, and its longer ones.

python -m qsft_lite.study alfworld --profile record
python -m qsft_lite.study alfworld --profile gpu --set games=100000
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import datasets
import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from qsft_lite.baselines import TrainedMethod
from qsft_lite.baselines.react import ReActPolicy
from qsft_lite.evaluate import Evaluation, evaluate
from qsft_lite.study.task import TEST_SEED
from qsft_lite.tasks.agent_study import SMOKE, AgentSettings, AgentTask, spread
from qsft_lite.tasks.alfworld.data import generate_alfworld
from qsft_lite.tasks.alfworld.env import MAX_STEPS, ALFWorld
from qsft_lite.tasks.alfworld.games import Split, world_of
from qsft_lite.tasks.alfworld.players import PLAYERS
from qsft_lite.tasks.alfworld.prompts import alfworld_prompts, prompt_for
from qsft_lite.tasks.alfworld.text import parts
from qsft_lite.tasks.draws import log_likelihood

__all__ = ["PROFILES", "TASK", "ALFWorldSettings", "ALFWorldTask"]


@dataclasses.dataclass(frozen=True)
class ALFWorldSettings(AgentSettings):
    """Settings of ALFWorld.

    wanderers: share of the data's games that wanderers play; of the others the careless play a
    third, the half-informed two. fumbles: how many of their slips are commands that mostly fail.
    rooms: "all", or one kind of them, where a small network learns sooner. longest_game: steps
    after which a game is cut off.
    """

    wanderers: float = 0.4
    fumbles: float = 0.4
    rooms: str = "all"
    games: int = 10_000
    batch_rows: int = 16
    row_tokens: int = 384
    value_learning_rate: float = 1e-3
    longest_game: int = MAX_STEPS
    validation_games: int = 100
    test_games: int = 274
    coarse_grid: bool = True


PROFILES = {
    "smoke": ALFWorldSettings(**SMOKE, longest_game=12),
    "laptop": ALFWorldSettings(
        rooms="bathroom",
        games=5_000,
        wanderers=0.25,
        behavior_epochs=3.0,
        seeds=1,
        validation_games=46,
        test_games=122,
    ),
    # One kind of rooms: two cores do not learn all of them.
    "record": ALFWorldSettings(
        rooms="bathroom",
        games=5_000,
        wanderers=0.25,
        behavior_epochs=4.0,
        threads=1,
        validation_games=46,
        test_games=122,
    ),
    "gpu": ALFWorldSettings(
        layers=4,
        width=256,
        heads=8,
        batch_rows=32,
        behavior_epochs=4.0,
        value_epochs=3.0,
        learning_rate=2e-3,
        bf16=True,
        threads=1,
    ),
}


class ALFWorldTask(AgentTask):
    """One seed of ALFWorld: games of mixed players, judged in rooms seen and unseen."""

    best, longest_action = "Expert", 3

    def __init__(self, settings: ALFWorldSettings, seed: int):
        env = ALFWorld(
            format=settings.format, rooms=settings.rooms, max_steps=settings.longest_game
        )
        super().__init__(settings, seed, env)

    def parts(self, word: str) -> Sequence[tuple]:
        """See AgentTask.parts."""
        return parts(word)

    @property
    def behavior(self) -> dict[str, float]:
        """Which players the data are of, with their shares."""
        wanderers, rest = self.settings.wanderers, (1 - self.settings.wanderers) / 3
        return {"careless": rest, "half_informed": 2 * rest, "wanderer": wanderers}

    def log_likelihood(self, texts: Sequence[str]) -> float:
        """See AgentTask.log_likelihood."""
        players = [PLAYERS[name](fumbles=self.settings.fumbles) for name in self.behavior]
        taken = []
        for place in range(1, len(texts), 2):
            history, action = "".join(texts[:place]), texts[place]
            taken.append([player.chance(history, action) for player in players])
        return log_likelihood(list(self.behavior.values()), taken)

    def recorded(self, games: int, part: str) -> datasets.Dataset:
        """See Task.recorded; of training games."""
        settings = self.settings
        return generate_alfworld(
            games,
            self.part_seed(part),
            behavior=self.behavior,
            rooms=settings.rooms,
            format=settings.format,
            max_steps=settings.longest_game,
            fumbles=settings.fumbles,
        )

    @cached_property
    def test_names(self) -> list[str]:
        """The games of the test, in rooms of the training games and in others."""
        return spread([*self._names("seen"), *self._names("unseen")], self.settings.test_games)

    def _names(self, split: str) -> list[str]:
        return Split(split, self.settings.rooms).names

    def starts(self, test: bool) -> list[dict[str, Any]]:
        """All seen and unseen games in turn; for validation, fresh games of the training rooms."""
        names = self.test_names
        if not test:
            names = spread(self._names("validation"), self.settings.validation_games)
        return [{"game": name} for name in names]

    def levels(self) -> dict[str, float]:
        """The players of the data, and the expert without slips."""
        starts = self.starts(test=True)
        return {
            name.replace("_", "-").capitalize(): evaluate(
                player(0), self.env, len(starts), TEST_SEED, options=starts
            ).mean
            for name, player in PLAYERS.items()
        }

    def describe(self, result: Evaluation) -> dict[str, float]:
        """Also success in either kind of rooms, and of each type of task."""
        rooms = np.array([name.partition("/")[0] for name in self.test_names])
        types = np.array([world_of(name).game.goal.task_type for name in self.test_names])
        found = super().describe(result)
        if len(result.returns) != len(rooms):
            return found
        for kinds in (rooms, types):
            for kind in dict.fromkeys(kinds.tolist()):
                found[kind] = float(result.returns[kinds == kind].mean())
        return found

    def prompted(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        thinks: bool,
        prompts: str | None = None,
    ) -> ReActPolicy:
        """A language model that plays by a prompt: ours, or ReAct's file; format "text"."""
        prompt = prompt_for(alfworld_prompts(prompts, thinks=thinks))
        return ReActPolicy(model, tokenizer, prompt, thinks=thinks)

    def explorer(self, trained: TrainedMethod, options: dict[str, Any]) -> None:
        """Games of the policy in test rooms, to step through and to play on."""
        from qsft_lite.tasks.alfworld.widgets import room_explorer

        policy, starts = self.policy(trained, **options), self.starts(test=True)[:8]
        played = evaluate(policy, self.env, len(starts), TEST_SEED, options=starts).transcripts
        room_explorer(policy, self.env, starts, played)


TASK = ALFWorldTask
