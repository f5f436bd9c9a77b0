"""A new task of the shape that docs/tasks.md asks for, written into a folder, goes all the way."""

import importlib
import sys

import numpy as np
import pytest

from qsft_lite import data, envs, study
from qsft_lite.evaluate import evaluate

FILES = {
    "__init__.py": '"""Find a number from 1 to 4 in three tries."""\n',
    "text.py": '''
"""How guesses and answers are written."""

START = "Guess:\\n"
GUESSES = tuple(f"{number}\\n" for number in range(1, 5))
ANSWERS = ("lower\\n", "right\\n", "higher\\n")


def parts(word):
    """Guesses are numbers, and have that in common; [] for other words."""
    return [("number",), ("is", word)] if word in GUESSES else []
''',
    "rules.py": '''
"""The game in tables, see qsft_lite.tasks.guessing.Rules."""

import numpy as np

from qsft_lite.tasks.guessing import Rules, read_turns

from .text import ANSWERS, GUESSES, START


class GuessRules(Rules):
    start, turns, answer_texts = START, 3, ANSWERS
    action_texts = GUESSES
    table = 1 + np.sign(np.arange(4)[None, :] - np.arange(4)[:, None])

    def wins(self, guesses, answers):
        return answers == 1

    def read_history(self, history):
        lines = read_turns(history, START)
        return [(GUESSES.index(g + "\\n"), ANSWERS.index(a + "\\n")) for g, a in lines]

    def consistent(self, turns):
        return np.all([np.ones(4, bool), *(self.table[g] == a for g, a in turns)], axis=0)
''',
    "env.py": '''
"""The environment: text in, text out."""

import gymnasium
from gymnasium.spaces import Text

from qsft_lite.tasks.checks import check_action, reset_option

from .rules import GuessRules
from .text import ANSWERS, GUESSES, START


class GuessNumber(gymnasium.Env):
    metadata = {"render_modes": []}
    action_space = Text(max_length=4, charset="1234 \\n")
    observation_space = Text(max_length=8, charset="".join({*START, *"".join(ANSWERS)}))
    texts = (START, *GUESSES, *ANSWERS)

    def __init__(self):
        self.rules = GuessRules()

    def reset(self, *, seed=None, options=None):
        secret = reset_option(options, "number")
        super().reset(seed=seed)
        self.secret = int(self.np_random.integers(4)) if secret is None else secret - 1
        self.left = self.rules.turns
        return START, {"number": self.secret + 1}

    def step(self, action):
        check_action(action)
        valid = action.strip() + "\\n" in GUESSES
        answer = self.rules.table[int(action) - 1, self.secret] if valid else 0
        self.left -= 1
        success = bool(answer == 1)
        info = {"success": success, "valid": valid}
        return ANSWERS[answer], float(success) - 1, success or not self.left, False, info
''',
    "players.py": '''
"""The behavior player, who guesses anything, and the best one, who halves what is left."""

from qsft_lite.tasks.guessing import RandomPlayer, SetPlayer

PLAYERS = {"random": RandomPlayer}


class HalvingPlayer(SetPlayer):
    def best_action(self, secrets, turns_left):
        return int(secrets[(len(secrets) - 1) // 2])
''',
    "data.py": '''
"""Recorded games."""

from functools import partial

import numpy as np

from qsft_lite.data.recording import record
from qsft_lite.tasks.guessing import RandomPlayer, play_games, to_episodes

from .rules import GuessRules


def generate_guess_number(n, seed, *, processes=1, path=None, shard=None):
    settings = {"task": "guess_number"}
    return record(_play_block, n, seed, settings, processes=processes, path=path, shard=shard)


def _play_block(n, seed):
    rules, (secret_seed, player_seed) = GuessRules(), seed.spawn(2)
    secrets = np.random.default_rng(secret_seed).integers(4, size=n)
    return to_episodes(rules, play_games(rules, RandomPlayer(rules, player_seed), secrets))
''',
    "study.py": '''
"""The task as a study."""

import dataclasses

from qsft_lite.data import RewardScale, encode
from qsft_lite.models import share_embeddings, small_model, word_tokenizer
from qsft_lite.study import Settings, Task, evenly

from .data import generate_guess_number
from .env import GuessNumber
from .text import GUESSES, parts


@dataclasses.dataclass(frozen=True)
class GuessSettings(Settings):
    """Settings of guessing a number: a few more than those of all studies, here none."""


SMOKE = GuessSettings(
    layers=1, width=32, games=1_500, batch_rows=4, row_tokens=64, muon=False, warmup_steps=5,
    learning_rate=1e-2, value_learning_rate=3e-3, seeds=1, validation_games=4, test_games=8,
)
PROFILES = dict.fromkeys(("smoke", "laptop", "record", "gpu"), SMOKE)


class GuessTask(Task):
    lowest, best = -3, "Halving"

    def __init__(self, settings, seed):
        super().__init__(settings, seed)
        self.env = GuessNumber()
        self.tokenizer = word_tokenizer(self.env.texts)
        self.acts = {"max_new_tokens": 1}

    def new_model(self):
        size = {"layers": self.settings.layers, "width": self.settings.width}
        model = small_model(self.tokenizer, **size, heads=4, context=16, seed=self.seed)
        share_embeddings(model, self.tokenizer, {g: parts(g) for g in GUESSES}, seed=self.seed)
        return model

    def recorded(self, games, part):
        return generate_guess_number(games, self.seed)

    def encoded(self, games):
        return encode(games, self.tokenizer, scale=RewardScale(self.lowest, 0, "step"))

    def starts(self, test):
        games = self.settings.test_games if test else self.settings.validation_games
        return evenly([{"number": number} for number in range(1, 5)], games)

    def levels(self):
        return {"Halving": -1.0}  # by hand: 0, 1, 1 and 2 wrong guesses


TASK = GuessTask
''',
}
NAME = "guess_number"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The task's package, in the table of tasks."""
    folder = tmp_path / NAME
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(text.lstrip())
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(envs.TASKS, NAME, (NAME, "GuessNumber"))
    yield NAME
    for module in [name for name in sys.modules if name.split(".")[0] == NAME]:
        del sys.modules[module]


def test_it_is_recorded_and_read_as_tokens(package, tmp_path):
    games = envs.generate(package, 500, seed=0, path=tmp_path / "games")
    assert (
        games.to_list()
        == data.load_trajectories(sorted((tmp_path / "games").glob("*.jsonl"))).to_list()
    )
    env = envs.make(package)
    assert set(sum(games["text"], [])) == set(env.texts)
    for game in games.select(range(50)):
        fits = [n for n in range(1, 5) if replayed(env, n, game["text"]) == game]
        assert fits, game  # some number explains every word and reward of it
    encoded = importlib.import_module(f"{package}.study").TASK(None, 0)
    rows = data.pack(encoded.encoded(games), length=64)
    assert sum(sum(row["action_mask"]) for row in rows) == sum(map(sum, games["is_action"]))


def replayed(env, number, texts):
    """The episode again, with that number as the secret."""
    told, rewards = [env.reset(options={"number": number})[0]], [0.0]
    over = False
    for action in texts[1::2]:
        if over:
            return None
        text, reward, over, _, _ = env.step(action)
        told += [action, text]
        rewards += [reward, 0.0]
    is_action = [i % 2 == 1 for i in range(len(told))]
    return {"text": told, "is_action": is_action, "reward": rewards, "done": over}


def test_its_reference_player_scores_what_it_should(package):
    players = importlib.import_module(f"{package}.players")
    env = envs.make(package)
    starts = [{"number": number} for number in range(1, 5)]
    best = evaluate(players.HalvingPlayer(env.rules), env, 4, 0, options=starts)
    assert best.returns.tolist() == [-1, 0, -1, -2]


def test_it_is_trained_and_played(package):
    module = importlib.import_module(f"{package}.study")
    task = module.TASK(module.PROFILES["smoke"], seed=0)
    assert task.data_mean == pytest.approx(-(3 / 4 + 9 / 16 + 27 / 64), abs=0.1)
    cloned = task.clone()
    ours = task.train("q_sft", cloned, backup="behavior")
    start, *words = task.env.texts
    first = [data.start_id(task.tokenizer), *task.tokenizer(start)["input_ids"]]
    log_pi, values = ours.values_of([first], [task.tokenizer.convert_tokens_to_ids(words[:4])])
    np.testing.assert_allclose(np.exp(log_pi[0]), 1 / 4, atol=0.1)  # the data guess anything
    assert ((values[0] > 0) & (values[0] < 1)).all()
    played = task.play(task.policy(ours, beta=1.0, relative_support=0.1), test=True)
    assert len(played.returns) == 8 and set(played.returns) <= {0, -1, -2, -3}
    guesses = [text for game in played.transcripts for text in game["text"][1::2]]
    assert set(guesses) <= set(words[:4])


def test_it_is_studied(package, tmp_path, monkeypatch):
    monkeypatch.setenv("QSFT_RESULTS", str(tmp_path / "results"))
    changes = {"games": 200, "validation_games": 2, "test_games": 4}
    chosen = study.Study.of(
        package, "smoke", methods=["q_sft"], changes=changes, output=tmp_path / "runs"
    )
    result = study.run(chosen, quiet=True)
    [table] = result["tables"].values()
    rows = {row["method"]: row["score"]["mean"] for row in table}
    assert list(rows) == ["Sharpened cloning", "Q-SFT (ours)"]
    assert all(-3 <= score <= result["headline"]["Halving"] + 1 for score in rows.values())
