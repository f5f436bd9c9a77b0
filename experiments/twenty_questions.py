"""Every method on Twenty Questions, several seeds, paired games: the numbers of chapter 08's table.

    python -m experiments.twenty_questions --profile record

See `experiments.study` for what is fixed before anything is seen.
"""

from __future__ import annotations

from typing import Any

import datasets
import numpy as np

from experiments.study import METHOD_ROWS, TEST_SEED, Task, parser, run_study, start
from qsft_lite.data import RewardScale, data_hash, encode
from qsft_lite.envs import make
from qsft_lite.envs.twenty_questions_data import play_games, to_episodes
from qsft_lite.envs.twenty_questions_players import (
    InformationGainPlayer,
    OptimalPlayer,
    ScriptedPlayer,
)
from qsft_lite.envs.twenty_questions_rules import Thing, read_objects
from qsft_lite.evaluate import evaluate
from qsft_lite.models import line_tokenizer, small_model

LOWEST = -20

RECORD = {
    "objects": 20,
    "games": 40_000,
    "ideas": 1,  # of the player that made the data, and how often it asks anything at all
    "noise": 0.3,
    "layers": 2,
    "width": 64,
    "batch rows": 16,
    "row length": 84,
    "behavior epochs": 1.0,
    "value epochs": 1.0,
    "learning rate": 3e-3,
    "muon": 1,
    "target rate": 0.04,
    "seeds": 3,
    "validation games": 500,
    "test games": 1_000,
}
SMOKE = {"objects": 6, "games": 300, "layers": 1, "width": 16, "validation games": 10}
PROFILES = {
    "smoke": {**RECORD, **SMOKE, "seeds": 1, "test games": 20},
    "laptop": {**RECORD, "games": 20_000, "seeds": 1},
    "record": RECORD,
    "gpu": {**RECORD, "objects": 158, "games": 2_000_000, "layers": 4, "width": 256},
}


def some_objects(count: int) -> tuple[Thing, ...]:
    """Every k-th of the shipped objects, so that there are `count` of them from all over."""
    things = read_objects()
    return things[:: len(things) // count][:count]


class TwentyQuestionsTask(Task):
    """One seed of Twenty Questions."""

    def __init__(self, settings: dict[str, Any], seed: int):
        super().__init__(settings, seed)
        self.env = make("twenty_questions", objects=some_objects(settings["objects"]))
        rules = self.env.rules
        self.tokenizer = line_tokenizer(self.env.texts)
        self.acts = {"max_new_tokens": 1}  # a question is one token
        object_seed, player_seed = np.random.SeedSequence(seed).spawn(2)
        objects = np.random.default_rng(object_seed).integers(
            len(rules.names), size=settings["games"]
        )
        player = ScriptedPlayer(rules, player_seed, settings["ideas"], noise=settings["noise"])
        played = play_games(rules, player, objects)
        games = datasets.Dataset.from_dict(to_episodes(rules, played))
        self.data_hash = data_hash(games)
        self.data_mean = float(played.returns.mean())
        self.episodes = encode(games, self.tokenizer, scale=RewardScale(LOWEST, 0, "end"))
        self.model = small_model(
            self.tokenizer,
            layers=settings["layers"],
            width=settings["width"],
            heads=4,
            context=48,
            seed=seed,
        )

    def levels(self) -> dict[str, float]:
        """Those of the players are played; the optimum is exact."""
        rules, games = self.env.rules, self.settings["test games"]
        careful = ScriptedPlayer(rules, 0, self.settings["ideas"])
        players = {"The data's player, careful": careful}
        players["Information gain"] = InformationGainPlayer(rules)
        played = {
            name: evaluate(player, self.env, games, TEST_SEED).mean
            for name, player in players.items()
        }
        return {**played, "Optimum": OptimalPlayer(rules).expected_score()}


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    command_line = parser("twenty_questions", RECORD, "twenty_questions_methods")
    options = vars(command_line.parse_args(arguments))
    run_study(
        start("twenty_questions", options, PROFILES),
        options,
        METHOD_ROWS,
        TwentyQuestionsTask,
        lowest=LOWEST,
        best="Information gain",
        raw=lambda task: {"objects": task.env.rules.names},
    )


if __name__ == "__main__":
    main()
