"""Every method on Twenty Questions, several seeds, paired games: the numbers of chapter 08's table.

    python -m experiments.twenty_questions --profile record

See `experiments.study` for what is fixed before anything is seen.
"""

from __future__ import annotations

from typing import Any

import datasets
import numpy as np
import torch
from scipy import stats
from scipy.special import entr

from experiments.study import METHOD_ROWS, TEST_SEED, Task, parser, run_study, start
from qsft_lite.baselines import METHODS, TrainedMethod
from qsft_lite.data import RewardScale, data_hash, encode, start_id
from qsft_lite.envs import make
from qsft_lite.evaluate import evaluate
from qsft_lite.models import line_tokenizer, small_model
from qsft_lite.tasks.guessing import Games
from qsft_lite.tasks.twenty_questions.data import play_games, to_episodes
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

LOWEST = -20
MEASURED_SEED = 3_000

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
    "value learning rate": 3e-3,
    "muon": 1,
    "target rate": 0.04,
    "seeds": 3,
    "validation games": 500,
    "test games": 1_000,
    "measured games": 400,
}
SMOKE = {
    "objects": 6,
    "games": 300,
    "layers": 1,
    "width": 16,
    "validation games": 10,
    "measured games": 6,
}
PROFILES = {
    "smoke": {**RECORD, **SMOKE, "seeds": 1, "test games": 20},
    "laptop": {**RECORD, "games": 20_000, "seeds": 1},
    "record": RECORD,
    "gpu": {
        **RECORD,
        "objects": 158,
        "games": 2_000_000,
        "layers": 4,
        "width": 256,
        "learning rate": 1e-3,
        "value learning rate": 3e-4,
    },
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
        player = self._player(player_seed)
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

    def _player(self, seed: int | np.random.SeedSequence) -> ScriptedPlayer:
        """The player that made the data."""
        settings = self.settings
        return ScriptedPlayer(self.env.rules, seed, settings["ideas"], noise=settings["noise"])

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

    def measure(self, trained: TrainedMethod) -> dict[str, float]:
        """On games of the data's player that no network has seen, means over their questions.

        KL(pi_beta || pi_phi) in nats: the player's probabilities are exact. Of methods with values:
        how the value of the question asked ranks with the game's return, and, within a turn, how
        the values of the questions but guesses rank with what their answers tell (the entropy).
        """
        rules, player = self.env.rules, self._player(MEASURED_SEED)
        objects = np.arange(self.settings["measured games"]) % len(rules.names)
        played = play_games(rules, player, objects)
        games, turns = np.nonzero(played.actions != UNKNOWN)
        consistent = consistent_at(rules, played)[games, turns]
        log_pi = _logits(trained, trained.behavior, rules, played)[games, turns].log_softmax(-1)
        ids = self.tokenizer.convert_tokens_to_ids([texts[0] for texts in rules.phrasings])
        exact, log_pi = player.probabilities(consistent), log_pi[:, ids].numpy()
        found = {"KL(pi_beta || pi_phi)": float(-(entr(exact) + exact * log_pi).sum(1).mean())}
        if trained.values is None:
            return found
        logits = _logits(trained, trained.values, rules, played)[games, turns]
        if METHODS[trained.method].family == "heads":
            learned = logits[:, ids].numpy()
        else:
            learned = np.exp(logits.log_softmax(-1)[:, ids].numpy() - log_pi).clip(max=1)
        asked = learned[np.arange(len(games)), played.actions[games, turns]]
        found["rank correlation with the return"] = _rank(asked, played.returns[games])
        table = rules.table[: rules.guesses.start].astype(np.float64)
        yes = consistent @ table.T / consistent.sum(1, keepdims=True)
        told = entr(yes) + entr(1 - yes)
        ranks = [_rank(q[: len(table)], t) for q, t in zip(learned, told, strict=True) if t.any()]
        found["of questions, with what they tell"] = float(np.mean(ranks))
        return found


def consistent_at(rules: TwentyQuestionsRules, games: Games) -> np.ndarray:
    """(N, 20, W) bool: the objects that fit all earlier answers of a game, at each of its turns."""
    fits = rules.table[games.actions] == games.answers[:, :, None]
    before = np.ones_like(fits)
    before[:, 1:] = np.logical_and.accumulate(fits, axis=1)[:, :-1]
    return before


@torch.no_grad()
def _logits(
    trained: TrainedMethod, model: Any, rules: TwentyQuestionsRules, games: Games
) -> torch.Tensor:
    """(N, 20, V) float32: what a network says at each turn of the games, zeros after their end."""
    device = next(model.parameters()).device
    found = []
    for texts in to_episodes(rules, games)["text"]:
        ids = trained.tokenizer(trained.prompt + "".join(texts))["input_ids"]
        row = torch.tensor([[start_id(trained.tokenizer), *ids]], device=device)
        # A question is one token, an answer another: a question is foretold at every second place.
        logits = model(input_ids=row).logits[0, -len(texts) : -1 : 2].float().cpu()
        found.append(torch.nn.functional.pad(logits, (0, 0, 0, TURNS - len(logits))))
    return torch.stack(found)


def _rank(learned: np.ndarray, truth: np.ndarray) -> float:
    """Spearman's rank correlation; 0 where either has no order."""
    if not np.ptp(learned) or not np.ptp(truth):
        return 0.0
    return float(stats.spearmanr(learned, truth).statistic)


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
