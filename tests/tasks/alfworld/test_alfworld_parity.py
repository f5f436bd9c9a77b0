"""The native engine against the original, step by step: texts, commands and who has won.

The original is alfworld 0.4.2 with textworld 1.7 (the extra `alfworld`), left as it is: its own
domain and grammar, its handcoded expert, its planner. Games are the genuine scene of its repository
and 30 of ours, five of each task.
"""

import json
import random
import re
from functools import cache

import pytest
from alfworld_sources import SCENE

from qsft_lite.tasks.alfworld.engine import NativeEngine
from qsft_lite.tasks.alfworld.env import ALFWorld
from qsft_lite.tasks.alfworld.games import read_game
from qsft_lite.tasks.alfworld.generator import SPLITS, draw_game
from qsft_lite.tasks.alfworld.pddl import TASK_TYPES, write_problem
from qsft_lite.tasks.alfworld.planner import plan
from qsft_lite.tasks.alfworld.world import World

textworld = pytest.importorskip("textworld", reason="the original needs textworld")
pytest.importorskip("alfworld.agents", reason="the original needs alfworld")

import fast_downward  # noqa: E402
from alfworld.agents.environment.alfred_tw_env import (  # noqa: E402
    AlfredDemangler,
    AlfredExpert,
    AlfredInfos,
)
from alfworld.info import ALFRED_PDDL_PATH, ALFRED_TWL2_PATH  # noqa: E402
from textworld.envs import PddlEnv  # noqa: E402

NONSENSE = (
    "",
    "look around",
    "Look",
    "go to fridge 99",
    "take it",
    "use lamp",
    "open",
    "go fridge 1",
)
needs_scene = pytest.mark.skipif(not SCENE.is_dir(), reason="../shared/data/alfworld is absent")


@pytest.fixture(autouse=True)
def translated_once(monkeypatch):
    """Fast Downward translates a problem at each load and each reset; once is enough."""
    once = cache(fast_downward.pddl2sas)
    monkeypatch.setattr(fast_downward, "pddl2sas", once)


def written(folder, problem, task, traj_data):
    """A trial of the original, on disk."""
    with open(ALFRED_PDDL_PATH) as domain, open(ALFRED_TWL2_PATH) as grammar:
        game = {
            "pddl_domain": domain.read(),
            "grammar": grammar.read().replace("UNKNOWN GOAL", task),
            "pddl_problem": problem,
        }
    (folder / "game.tw-pddl").write_text(json.dumps(game))
    (folder / "initial_state.pddl").write_text(problem)
    (folder / "traj_data.json").write_text(json.dumps(traj_data))
    return str(folder / "game.tw-pddl")


def scene_trial(folder):
    """The genuine scene, without two of its three agents."""
    problem = (SCENE / "initial_state.pddl").read_text()
    problem = re.sub(r".*\b(bob|charlie)\b.*\n", "", problem).replace("alice", "agent1")
    traj_data = json.loads((SCENE / "traj_data.json").read_text())
    return written(folder, problem, "put a hot potato in sinkbasin", traj_data)


def drawn_trial(folder, game):
    """A game of ours as a trial."""
    goal = game.goal
    kinds = {name.lower(): name for name in capitals()}
    traj_data = {
        "task_type": goal.task_type,
        "pddl_params": {
            "object_target": kinds[goal.object],
            "parent_target": kinds[goal.target],
            "toggle_target": kinds[goal.target],
            "mrecep_target": "",
            "object_sliced": False,
        },
    }
    return written(folder, write_problem(game), game.task, traj_data)


def capitals():
    from alfworld.gen import constants

    return {*constants.OBJECTS, *constants.RECEPTACLES}


def games_of_ours(each):
    """So many games of each task, from all splits."""
    chosen = {task_type: [] for task_type in TASK_TYPES}
    for number in range(134):
        for split in SPLITS:
            game = draw_game(split, number)
            chosen[game.goal.task_type].append(game)
    return [game for games in chosen.values() for game in games[:each]]


def original(path, *, expert=None, walkthrough=False):
    infos = textworld.EnvInfos(
        admissible_commands=True, won=True, extras=["walkthrough"] if walkthrough else []
    )
    env = AlfredInfos(AlfredDemangler(PddlEnv(infos), shuffle=False))
    if expert:
        env = AlfredExpert(env, expert)
    env.load(path)
    return env


def random_command(rng, commands):
    """Mostly what acts on something, sometimes nonsense, sometimes what another state allows."""
    draw = rng.random()
    if draw < 0.05:
        return rng.choice(NONSENSE)
    if draw < 0.1:
        return "take mug 1 from countertop 1"
    acting = [c for c in commands if not c.startswith(("go", "help", "inventory", "look"))]
    return rng.choice(acting if acting and draw < 0.7 else commands)


def compare(env, world, choose, steps=50):
    """Play both with the same commands; how many steps were compared, and whether it was won."""
    state, ours = env.reset(), NativeEngine(world)
    assert state["feedback"] == ours.start_text()
    for step in range(steps):
        assert state["admissible_commands"] == ours.commands()
        command = choose(state)
        if command is None:
            return step, False
        valid = command.strip() in state["admissible_commands"]
        state, _, done = env.step(command)
        assert (state["feedback"], valid) == ours.step(command), command
        assert state["won"] == ours.won(), command
        if done:
            return step + 1, True
    return steps, False


def compare_players(path, world):
    """Random, expert and planner play; of each the steps compared and whether it won."""
    rng = random.Random(0)
    results = {}
    env = original(path)
    results["random"] = compare(env, world, lambda s: random_command(rng, s["admissible_commands"]))
    random.seed(0)  # the expert draws from it
    env = original(path, expert="handcoded")
    results["expert"] = compare(env, world, lambda s: s["extra.expert_plan"][0])
    env = original(path, walkthrough=True)
    walkthrough = []

    def follow(state):
        if not walkthrough:
            walkthrough.extend(reversed(state["extra.walkthrough"]))
        return walkthrough.pop()

    results["planner"] = compare(env, world, follow)
    assert results["planner"][1]
    assert len(plan(world)) <= results["planner"][0]  # and ours is never longer
    return results


@needs_scene
def test_the_genuine_scene_is_played_alike(tmp_path):
    path = scene_trial(tmp_path)
    results = compare_players(path, World(read_game(SCENE)))
    assert results["expert"][1]  # it wins there
    print(results)


# One game of each task is quick; the others are slow.
NUMBERS = [pytest.param(n, marks=[pytest.mark.slow] if n % 5 else []) for n in range(30)]


@pytest.mark.parametrize("number", NUMBERS)
def test_games_of_ours_are_played_alike(number, tmp_path):
    game = games_of_ours(5)[number]
    results = compare_players(drawn_trial(tmp_path, game), World(game))
    print(game.name, game.goal, results)


@needs_scene
def test_one_environment_plays_either_engine(tmp_path):
    """Through the door: the same texts, rewards and infos, old commands included."""
    scene_trial(tmp_path)
    pair = [ALFWorld(engine=engine, games=tmp_path) for engine in ("native", "textworld")]
    commands = [
        "go to countertop 2\n", " take potato 1 from countertop 2", "put it", "go to microwave 1",
        "heat potato 1 with microwave 1", "help", "go to sinkbasin 1", "look",
        "put potato 1 in/on sinkbasin 1",
    ]  # fmt: skip
    one, two = (env.reset(seed=3) for env in pair)
    assert one == two
    for command in commands:
        one, two = (env.step(command) for env in pair)
        assert one == two, command
    assert one[1] == 1.0 and one[2] and one[4]["success"]
