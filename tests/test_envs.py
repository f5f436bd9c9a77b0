"""The registry of tasks, and the text gridworld against the tabular MDP it shows."""

import copy
import json
import os
import shutil
import subprocess
import sys
from importlib import import_module

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st
from places import ROOT

from qsft_lite import envs
from qsft_lite.tabular import greedy_policy, policy_return, value_iteration
from qsft_lite.tabular.mdps import GRIDWORLD, gridworld, random_mdp, stitching_maze
from qsft_lite.tasks.gridworld.env import Gridworld
from qsft_lite.tasks.gridworld.players import DRIFT
from qsft_lite.tasks.gridworld.text import END

DIRECTIONS = {"up\n": (-1, 0), "right\n": (0, 1), "down\n": (1, 0), "left\n": (0, -1)}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: envs.make("wordel"), "'wordel'; did you mean 'wordle'"),
        (lambda: envs.make("gridworld", mazes=1), "'mazes'; did you mean 'maze'"),
        (lambda: envs.make("wordle", seed=1), "'seed'"),
        (lambda: envs.generate("wordle", 1, 0, polcy="random"), "did you mean 'policy'"),
        (lambda: envs.generate("wordle", 1, 0, policy="randm"), "did you mean 'random'"),
        (lambda: envs.generate("chess960", 1, 0), "'chess960'"),
        (lambda: envs.generate("wordle", 0, 0), "n must be at least 1"),
        (lambda: envs.generate("wordle", 1, 0, processes=0), "processes must be at least 1"),
        (lambda: envs.make("gridworld", max_steps=0), "max_steps"),
        (lambda: envs.make("gridworld").reset(options={"state": 99}), "state must be in"),
        (lambda: envs.make("gridworld").reset(options={"start": 1}), "'start'"),
    ],
)
def test_wrong_names_and_options_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_door_imports_a_task_only_when_it_is_asked_for():
    code = (
        "import sys\n"
        "from qsft_lite import envs\n"
        "def heavy(): return sorted({'torch', 'datasets', 'chess'} & set(sys.modules))\n"
        "def tasks(): return {name.split('.')[2] for name in sys.modules\n"
        "    if name.startswith('qsft_lite.tasks.')} - {'checks', 'guessing'}\n"
        "assert not heavy() and not tasks(), (heavy(), tasks())\n"
        "try: envs.make('wordel')\n"
        "except ValueError as error: assert 'wordle' in str(error) and not tasks()\n"
        "envs.make('wordle')\n"
        "assert tasks() == {'wordle'} and 'chess' not in heavy(), (heavy(), tasks())\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize("name", envs.TASKS)
def test_every_task_has_its_parts(name):
    package, environment = envs.TASKS[name]
    assert issubclass(getattr(import_module(f"{package}.env"), environment), gymnasium.Env)
    assert callable(getattr(import_module(f"{package}.data"), f"generate_{name}"))
    for part in ("players", "text"):
        assert import_module(f"{package}.{part}").__doc__


def test_a_task_knows_the_options_of_the_one_it_builds_on():
    assert envs.make("endgames", materials=["Q"], max_moves=3).max_moves == 3
    with pytest.raises(ValueError, match="'max_move'; did you mean 'max_moves'"):
        envs.make("endgames", max_move=3)
    with pytest.raises(ValueError, match="unknown option 'options'"):
        envs.make("endgames", options=3)
    with pytest.raises(ValueError, match="unknown opponent 'perfekt'; did you mean 'perfect'"):
        envs.make("endgames", opponent="perfekt")


# A task, its options, where its episode begins, and an action in two spellings that LMRL-Gym knows.
KQ = {"position": "8/7Q/8/8/8/1K6/8/k7 w - - 0 1"}
ACTIONS = {
    "alfworld": ("alfworld", {}, {"game": "train/0"}, "go to desk 1", "go to desk 1"),
    "alfworld short": (
        "alfworld",
        {"format": "short"},
        {"game": "train/0"},
        "go desk 1",
        "go to desk 1",
    ),
    "wordle": ("wordle", {}, {"secret": "train"}, "t r a i n", "train"),
    "wordle words": ("wordle", {"format": "words"}, {"secret": "train"}, "train", "t r a i n"),
    "gridworld": ("gridworld", {}, {"state": 7}, "right", "right"),
    "chess": ("chess", {"opponent": "random"}, {}, "N f 3", "Nf3"),
    "chess pieces": ("chess", {"opponent": "random", "format": "pieces"}, {}, "Ng1 f3", "Nf3"),
    "endgames": ("endgames", {}, KQ, "Q g 7 +", "Qg7"),
    "endgames pieces": ("endgames", {"format": "pieces"}, KQ, "Qg7", "Q g 7 +"),
    "endgames mirrored": ("endgames", {"format": "mirrored"}, KQ, "Qg7", "Q g 7 +"),
    "webshop": ("webshop", {"products": 20}, {"goal": 0}, "search[lip balm]", "search[Lip BALM]"),
    "webshop short": (
        "webshop",
        {"products": 20, "format": "short"},
        {},
        "search lip balm",
        "search Lip BALM",
    ),
    "questions": ("twenty_questions", {}, {"object": "piano"}, "Is it a piano?", "Is it a piano?"),
}


@pytest.mark.parametrize("name", ACTIONS)
def test_white_space_around_an_action_means_nothing(name):
    task, options, start, *spellings = ACTIONS[name]
    env = envs.make(task, **options)
    outcomes = []
    for text in spellings:
        for before, after in [("", "\n"), ("", ""), ("", "\n\n"), ("", "\r\n"), ("\n \t", " \n")]:
            env.reset(seed=0, options=start)
            outcomes.append(env.step(before + text + after))
    assert outcomes[0][4]["valid"]
    assert outcomes == outcomes[:1] * len(outcomes)


@pytest.mark.parametrize("name", ACTIONS)
def test_an_action_that_is_no_text_is_refused_and_changes_nothing(name):
    task, options, start, text, _ = ACTIONS[name]
    env = envs.make(task, **options)
    env.reset(seed=0, options=start)
    expected = env.step(text)
    env.reset(seed=0, options=start)
    for action in (None, 1, b"crane", ["crane"], {}, ["x" * 1000] * 1000):
        with pytest.raises(TypeError, match="an action is a text, got") as caught:
            env.step(action)
        assert len(str(caught.value)) < 500
    assert env.step(text) == expected


BAD_STARTS = {"wordle": "secret", "gridworld": "state", "twenty_questions": "object"}
BAD_STARTS |= {"chess": "position", "endgames": "position", "alfworld": "game"}


@pytest.mark.parametrize("task", BAD_STARTS)
def test_bad_reset_options_are_refused_and_the_game_goes_on(task):
    name = BAD_STARTS[task]
    env = envs.make(task, **({"opponent": "random"} if task == "chess" else {}))
    env.reset(seed=0)
    drawn = env.np_random.bit_generator.state
    for options, kind in [
        ([("a", 1)], TypeError),
        ("crane", TypeError),
        ({name: 1.5}, (TypeError, ValueError)),
        ({name: True}, (TypeError, ValueError)),
        ({name: ["crane"]}, (TypeError, ValueError)),
        ({name: b"crane"}, (TypeError, ValueError)),
        ({name: "x" * 1_000_000}, (TypeError, ValueError)),
        ({name: {}}, (TypeError, ValueError)),
        ({name: -1}, (TypeError, ValueError)),
        ({1: 2, "b": 3}, ValueError),
        ({"seed": 0}, ValueError),
    ]:
        with pytest.raises(kind) as caught:
            env.reset(seed=1, options=options)
        assert 10 < len(str(caught.value)) < 600
        said = str(caught.value)
        assert name in said or any(word in said for word in ("FEN", "word", "object", "text")), said
    assert env.np_random.bit_generator.state == drawn
    env.step("anything")  # no ResetNeeded
    env.reset(options={}), env.reset(options=None), env.reset(options={name: None})


# Recording


def test_of_two_that_claim_a_folder_at_once_one_is_refused(tmp_path, monkeypatch):
    """The other writes its settings between our look and our writing."""
    envs.generate("gridworld", 2, 1, path=tmp_path / "other")
    folder, link = tmp_path / "games", os.link

    def late(source, target):
        shutil.copy(tmp_path / "other" / "settings.json", folder)
        link(source, target)

    monkeypatch.setattr(os, "link", late)
    with pytest.raises(ValueError, match="holds episodes with seed=1, not 0"):
        envs.generate("gridworld", 2, 0, path=folder)
    assert [path.name for path in folder.iterdir()] == ["settings.json"]
    assert json.loads((folder / "settings.json").read_text())["seed"] == 1


def test_a_folder_is_claimed_where_there_are_no_links(tmp_path, monkeypatch):
    def link(source, target):
        raise PermissionError("not on this file system")

    monkeypatch.setattr(os, "link", link)
    envs.generate("gridworld", 2, 1, path=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000.jsonl", "settings.json"]
    with pytest.raises(ValueError, match="holds episodes with seed=1, not 0"):
        envs.generate("gridworld", 2, 0, path=tmp_path)


def test_what_a_killed_generator_was_writing_is_removed(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    games = envs.generate("gridworld", 2, 0, path=tmp_path)
    kept = {"00000.jsonl", "settings.json", f".00001.jsonl.{os.getpid()}", ".notes", ".a.jsonl.1"}
    for name in kept | {f".00001.jsonl.{ended.pid}", f".settings.json.{ended.pid}"}:
        if not (tmp_path / name).exists():
            (tmp_path / name).write_text("half")
    assert envs.generate("gridworld", 2, 0, path=tmp_path).to_list() == games.to_list()
    assert {path.name for path in tmp_path.iterdir()} == kept


@pytest.mark.parametrize("content", ["", '{"n": 2', "[1]", "7"])
def test_damaged_settings_are_named(tmp_path, content):
    envs.generate("gridworld", 2, 0, path=tmp_path)
    (tmp_path / "settings.json").write_text(content)
    with pytest.raises(ValueError, match=r"settings\.json is damaged .*remove"):
        envs.generate("gridworld", 2, 0, path=tmp_path)


# The gridworld


@pytest.mark.parametrize("maze", [GRIDWORLD, stitching_maze(), random_mdp(5, 3)])
@pytest.mark.filterwarnings("ignore:.*not within a reasonable range")
def test_gymnasium_accepts_the_gridworld(maze):
    check_env(envs.make("gridworld", maze=maze), skip_render_check=True)


@given(st.lists(st.sampled_from(sorted(DIRECTIONS)), min_size=60, max_size=60), st.integers(0, 23))
def test_walking_follows_the_drawing(actions, start):
    env = envs.make("gridworld")
    text, info = env.reset(options={"state": start})
    row, column = gridworld().cells[start]
    for step, action in enumerate(actions, start=1):
        assert text == f"r{row}c{column}\n"
        text, reward, terminated, truncated, info = env.step(action)
        r, c = row + DIRECTIONS[action][0], column + DIRECTIONS[action][1]
        inside = 0 <= r < len(GRIDWORLD) and 0 <= c < len(GRIDWORLD[0])
        letter = GRIDWORLD[r][c] if inside else "#"
        assert reward == (letter == "G")
        assert terminated == (letter in "GT")
        assert truncated == (step == 50 and not terminated)
        assert info["success"] == (letter == "G")
        if terminated or truncated:
            with pytest.raises(gymnasium.error.ResetNeeded):
                env.step(action)
            break
        if letter != "#":
            row, column = r, c
    if terminated:
        assert text == END


def test_an_unknown_action_stays_and_costs_a_step():
    env = envs.make("gridworld", max_steps=2)
    start, _ = env.reset(seed=0)
    assert env.step("jump\n")[:4] == (start, 0.0, False, False)
    text, reward, terminated, truncated, info = env.step("")
    assert (text, reward, terminated, truncated) == (start, 0.0, False, True)
    assert not info["valid"]


def test_outcomes_have_the_probabilities_of_the_mdp():
    mdp = random_mdp(4, 2, seed=1)
    mdp = type(mdp)(mdp.P * 0.8, mdp.R, mdp.gamma)  # a fifth of the steps end the episode
    env = envs.make("gridworld", maze=mdp)
    env.reset(seed=0)
    counts = np.zeros(5)
    for _ in range(4000):
        env.reset(options={"state": 2})
        text, reward, terminated, _, info = env.step("a1")
        assert reward == mdp.R[2, 1]
        assert terminated == (info["state"] == -1)
        assert text == (END if terminated else f"s{info['state']}\n")
        counts[info["state"]] += 1
    expected = np.append(mdp.P[2, 1], 0.2)
    np.testing.assert_allclose(counts / 4000, expected, atol=5 * 0.5 / np.sqrt(4000))


def test_the_state_of_a_transcript_is_its_last_line():
    env = envs.make("gridworld")
    for state, text in enumerate(env.state_texts):
        assert env.state_of(text) == state
        assert env.state_of("r0c0\nright\n" + text) == state
    with pytest.raises(ValueError, match="right"):
        env.state_of("r0c0\nright\n")


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 30))
def test_recorded_episodes_are_what_the_environment_plays(seed, max_steps):
    dataset = envs.generate("gridworld", 20, seed, max_steps=max_steps)
    env = envs.make("gridworld", max_steps=max_steps)
    for episode in dataset:
        text, rewards = [episode["text"][0]], [0.0]
        env.reset(options={"state": env.state_of(text[0])})
        for action in episode["text"][1::2]:
            observation, reward, terminated, truncated, _ = env.step(action)
            text += [action, observation]
            rewards += [reward, 0.0]
        assert (text, rewards) == (episode["text"], episode["reward"])
        assert terminated == episode["done"] and truncated != terminated
        assert set(text) <= set(env.texts)
        assert episode["is_action"] == [i % 2 == 1 for i in range(len(text))]


def test_recorded_actions_have_the_frequencies_of_the_behavior_policy():
    maze = stitching_maze()
    rng = np.random.default_rng(0)
    behavior = rng.dirichlet(np.ones(4), size=maze.mdp.n_states)
    starts = np.eye(maze.mdp.n_states)[maze.starts[1]]
    dataset = envs.generate("gridworld", 3000, 0, maze=maze, behavior=behavior, starts=starts)
    env = Gridworld(maze)
    counts = np.zeros((maze.mdp.n_states, 4))
    for episode in dataset:
        text = episode["text"]
        assert env.state_of(text[0]) == maze.starts[1]
        for state, action in zip(text[:-1:2], text[1::2], strict=True):
            counts[env.state_of(state), env.action_texts.index(action)] += 1
    visits = counts.sum(axis=1)
    often = visits > 500
    assert often.sum() >= 3
    shares = counts[often] / visits[often, None]
    assert np.abs(shares - behavior[often]).max() < 5 * 0.5 / np.sqrt(500)


def test_cloning_the_default_data_is_far_from_the_optimum():
    mdp = envs.make("gridworld").mdp
    optimum = policy_return(mdp, greedy_policy(value_iteration(mdp)))
    assert policy_return(mdp, np.tile(DRIFT, (mdp.n_states, 1))) < 0.6 * optimum


def test_a_wrong_behavior_policy_is_named():
    with pytest.raises(ValueError, match="behavior"):
        envs.generate("gridworld", 1, 0, behavior=[0.5, 0.5, 0.5, 0.5])
    with pytest.raises(ValueError, match="behavior"):
        envs.generate("gridworld", 1, 0, behavior=np.ones((3, 4)) / 4)


def test_copies_are_independent():
    env = envs.make("gridworld")
    start, _ = env.reset(seed=0)
    other = copy.deepcopy(env)
    other.step("down")
    assert env.step("up")[0] == start
