r"""Every method on Wordle, several seeds, paired games: the numbers of chapter 06's table.

    python -m experiments.wordle --profile record
    python -m experiments.wordle --profile record --study ablation
    python -m experiments.wordle --profile record --word-list wordle_official_400.txt --words 0 \
        --games 600000 --layers 3 --width 160 --spelled 1 --value-epochs 0.5
    python -m experiments.wordle --profile gpu --model smollm2 --format letters --games 20000

See `experiments.study` for what is fixed before anything is seen.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments.study import ALONG, METHOD_ROWS, TEST_SEED, Row, Task, parser, run_study, start
from qsft_lite.data import RewardScale, data_hash, encode
from qsft_lite.envs import generate, make
from qsft_lite.evaluate import evaluate
from qsft_lite.models import (
    add_dummy,
    character_tokenizer,
    load_model,
    share_embeddings,
    small_model,
    smollm2,
    word_tokenizer,
)
from qsft_lite.tasks.wordle.players import ConsistentPlayer, InformationGainPlayer, OptimalPlayer

BEHAVIOR_P = 1 / 3
LOWEST = -6

RECORD = {
    "rules": "lmrl",
    "words": 40,
    "games": 100_000,
    "format": "words",  # "letters" is LMRL-Gym's text
    "model": "scratch",  # or "smollm2", or the id or folder of any pretrained one
    "layers": 2,
    "width": 64,
    "spelled": 0,  # 1: embeddings start as sums of their letters' vectors
    "batch rows": 32,
    "row length": 56,
    "behavior epochs": 1.0,
    "value epochs": 1.0,
    "learning rate": 2e-3,
    "muon": 1,
    "target rate": 0.02,
    "seeds": 3,
    "validation games": 500,
    "test games": 1_000,
}
SMOKE = {"words": 8, "games": 500, "layers": 1, "width": 16, "validation games": 20}
PROFILES = {
    "smoke": {**RECORD, **SMOKE, "seeds": 1, "test games": 50},
    "laptop": {**RECORD, "games": 30_000, "seeds": 1},
    "record": RECORD,
    "gpu": {**RECORD, "words": 0, "games": 1_000_000, "layers": 4, "width": 256},
}

STUDIES: dict[str, dict[str, Row]] = {
    "methods": {
        **METHOD_ROWS,
        "Q-SFT, new head": ("q_sft_new_head", {"backup": "behavior", **ALONG}, ["ratio"]),
    },
    "ablation": {
        f"{leftover}, {backup}, pi {'trained along' if along else 'frozen'}": (
            "q_sft",
            {"leftover": leftover, "backup": backup, "train_behavior": along, **options},
            ["p", "ratio"],
        )
        for leftover, backup, along, options in [
            ("uniform", "max", False, {}),
            ("uniform", "support", True, {"support": 0.01}),
            ("dummy", "max", True, {}),
            ("dummy", "support", True, {"support": 0.01}),
            ("dummy", "policy", True, {"support": 0.01, "beta": 32.0}),
            ("dummy", "behavior", False, {}),
            ("dummy", "behavior", True, {}),
            ("dummy", "returns", True, {}),
        ]
    },
}


def word_list(path: str | None, words: int, rules: str = "lmrl") -> list[str]:
    """Every k-th word of the list, so that there are `words` of them; 0 for all."""
    everything = list(make("wordle", rules=rules, word_list=path).rules.words)
    return everything[:: len(everything) // words][:words] if words else everything


class WordleTask(Task):
    """One seed of Wordle with these words."""

    def __init__(self, words: list[str], settings: dict[str, Any], seed: int):
        super().__init__(settings, seed)
        shared = {"rules": settings["rules"], "word_list": words, "format": settings["format"]}
        self.env = make("wordle", **shared)
        self.model, self.tokenizer = self._new_model()
        # An action is one token, or six of letters; a pretrained tokenizer may take a few more.
        self.acts = {"max_new_tokens": 1 if settings["format"] == "words" else 12}
        games = generate("wordle", settings["games"], seed, p=BEHAVIOR_P, **shared)
        self.data_hash = data_hash(games)
        self.data_mean = float(np.mean([sum(reward) for reward in games["reward"]]))
        self.episodes = encode(games, self.tokenizer, scale=RewardScale(LOWEST, 0, "end"))

    def _new_model(self):
        """The model before any training, and its tokenizer."""
        settings, name = self.settings, self.settings["model"]
        if name != "scratch":
            model, tokenizer = smollm2() if name == "smollm2" else load_model(name)
            add_dummy(model, tokenizer)
            return model, tokenizer
        of_format = {"words": word_tokenizer, "letters": character_tokenizer}
        tokenizer = of_format[settings["format"]](self.env.texts)
        model = small_model(
            tokenizer,
            layers=settings["layers"],
            width=settings["width"],
            heads=4,
            context=128,
            seed=self.seed,
        )
        if settings["spelled"]:
            groups = (self.env.rules.guess_texts, self.env.rules.feedback_texts)
            letters = {
                word: [(group, place, letter) for place, letter in enumerate(word.rstrip())]
                for group, words in enumerate(groups)
                for word in words
            }
            share_embeddings(model, tokenizer, letters, seed=self.seed, scale=0.05)
        return model, tokenizer

    def levels(self) -> dict[str, float]:
        """Those of consistent play and of information gain are played; the optimum is exact."""
        rules, games = self.env.rules, self.settings["test games"]
        players = {"Consistent": ConsistentPlayer, "Information gain": InformationGainPlayer}
        played = {
            name: evaluate(player(rules, seed=0), self.env, games, TEST_SEED).mean
            for name, player in players.items()
        }
        return {**played, "Optimum": OptimalPlayer(rules).expected_score()}


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    command_line = parser("wordle", RECORD, None)
    command_line.add_argument("--study", choices=STUDIES, default="methods")
    command_line.add_argument("--word-list", help="a file; the shipped list without it")
    options = vars(command_line.parse_args(arguments))
    options["name"] = options["name"] or f"wordle_{options['study']}"
    run = start("wordle", options, PROFILES)
    words = word_list(options["word_list"], run.settings["words"], run.settings["rules"])
    run_study(
        run,
        options,
        STUDIES[options["study"]],
        lambda settings, seed: WordleTask(words, settings, seed),
        same=words,
        lowest=LOWEST,
        best="Information gain",
        raw=lambda task: {"words": words},
    )


if __name__ == "__main__":
    main()
