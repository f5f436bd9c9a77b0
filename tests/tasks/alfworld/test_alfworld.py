"""ALFWorld without the original: rules, generator, planner, players, recorded games, bad input."""

import copy
import dataclasses
import json
import random
from collections import Counter, defaultdict

import gymnasium
import numpy as np
import pytest
from alfworld_sources import SCENE, SHARED, read_tasks, tables
from hypothesis import given, settings
from hypothesis import strategies as st

from qsft_lite import envs
from qsft_lite.tasks.alfworld import rooms
from qsft_lite.tasks.alfworld.engine import NativeEngine
from qsft_lite.tasks.alfworld.env import ALFWorld
from qsft_lite.tasks.alfworld.games import Trials, read_game, world_of
from qsft_lite.tasks.alfworld.generator import SPLITS, draw_game
from qsft_lite.tasks.alfworld.memory import read_history
from qsft_lite.tasks.alfworld.pddl import TASK_TYPES, Goal, read_problem, task_texts, write_problem
from qsft_lite.tasks.alfworld.planner import plan
from qsft_lite.tasks.alfworld.players import PLAYERS, play_game
from qsft_lite.tasks.alfworld.short import long_command, short_command, short_text
from qsft_lite.tasks.alfworld.text import NOTHING_HAPPENS, canonical, parts, read_command
from qsft_lite.tasks.alfworld.world import World, entity_names

needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="../shared/data/alfworld is absent")
ALL_GAMES = [f"{split}/{number}" for split, size in SPLITS.items() for number in range(size)]
A_FEW = [*ALL_GAMES[::97], *ALL_GAMES[-60:]]

# Names


def test_entities_are_numbered_backwards_and_basins_named():
    ids = [
        "mug_bar_a",
        "mug_bar_b",
        "sink_bar_1_bar_sinkbasin",
        "sink_bar_1",
        "agent1",
        "mug_bar_B",
    ]
    assert entity_names(ids) == {
        "mug_bar_B": "mug 3",
        "mug_bar_a": "mug 2",
        "mug_bar_b": "mug 1",
        "sink_bar_1": "sink 1",
        "sink_bar_1_bar_sinkbasin": "sinkbasin 1",
    }


@pytest.mark.parametrize(
    ("command", "read"),
    [
        ("go to desk 1", ("go", "desk 1", "")),
        (" take mug 1 from desk 2\n", ("take", "mug 1", "desk 2")),
        ("move mug 1 to desk 2", ("move", "mug 1", "desk 2")),
        ("put mug 1 in/on desk 2", ("move", "mug 1", "desk 2")),
        ("put mug 1 in desk 2", ("move", "mug 1", "desk 2")),
        ("put mug 1 on desk 2", ("move", "mug 1", "desk 2")),
        ("look", ("look", "", "")),
        ("look here", ("", "", "")),
        ("heat mug 1 in microwave 1", ("", "", "")),
        ("", ("", "", "")),
    ],
)
def test_commands_are_read(command, read):
    assert read_command(command) == read
    assert canonical("put mug 1 in/on desk 2") == "move mug 1 to desk 2"


# The rules


def state_of(play):
    return (
        play.place,
        play.held,
        tuple(map(frozenset, play.inside)),
        frozenset(play.opened),
        tuple(frozenset(marked) for marked in play.marks.values()),
    )


@settings(max_examples=20)
@given(st.integers(0, len(ALL_GAMES) - 1), st.randoms(use_true_random=False))
def test_what_is_listed_works_and_nothing_else_does(number, rng):
    world = world_of(ALL_GAMES[number])
    play = NativeEngine(world)
    every = set()
    for _ in range(40):
        commands = play.commands()
        assert commands == sorted(set(commands)) and "help" in commands
        every |= set(commands)
        for command in rng.sample(
            sorted(every - set(commands)), min(5, len(every - set(commands)))
        ):
            before = state_of(play)
            assert play.step(command) == (NOTHING_HAPPENS, False)
            assert state_of(play) == before
        command = rng.choice(commands)
        text, valid = play.step(command)
        assert valid and text != NOTHING_HAPPENS and "\n\n" not in text
        things = [o for inside in play.inside for o in inside]
        held = [] if play.held is None else [play.held]
        assert sorted(things + held) == list(range(len(world.object_names)))  # each is somewhere


def test_a_game_by_hand():
    play = NativeEngine(World(hand_made("pick_clean_then_place_in_recep", "mug", "drawer")))
    said = [
        ("go to desk 1", "You arrive at desk 1. On the desk 1, you see a mug 1."),
        ("look", "You are facing the desk 1. Next to it, you see nothing."),
        ("go to desk 1", "Nothing happens."),
        ("take mug 1 from desk 1", "You pick up the mug 1 from the desk 1."),
        ("inventory", "You are carrying: a mug 1."),
        ("examine mug 1", "There's nothing special about mug 1."),
        ("go to drawer 1", "You arrive at drawer 1. The drawer 1 is closed."),
        ("move mug 1 to drawer 1", "Nothing happens."),
        ("open drawer 1", "You open the drawer 1. The drawer 1 is open. In it, you see nothing."),
        ("go to sinkbasin 1", "You arrive at sinkbasin 1. On the sinkbasin 1, you see nothing."),
        ("clean mug 1 with sinkbasin 1", "You clean the mug 1 using the sinkbasin 1."),
        ("examine mug 1", "This is a clean mug 1."),
        ("go to drawer 1", "You arrive at drawer 1. The drawer 1 is open. In it, you see nothing."),
        ("put mug 1 in/on drawer 1", "You move the mug 1 to the drawer 1."),
    ]
    assert play.start_text() == (
        "-= Welcome to TextWorld, ALFRED! =-\n\nYou are in the middle of a room. Looking quickly "
        "around you, you see a desk 1, a drawer 1, and a sinkbasin 1.\n\nYour task is to: put a "
        "clean mug in drawer."
    )
    for command, text in said:
        assert not play.won()
        assert play.step(command)[0] == text
    assert play.won()


def hand_made(task_type, thing, place):
    """A room with a desk, a drawer and a sink, and one mug on the desk."""
    facts = """
        receptacletype desk_bar_1 desktype, receptacletype drawer_bar_1 drawertype,
        receptacletype sink_bar_1_bar_sinkbasin sinkbasintype, receptacleatlocation desk_bar_1 l1,
        receptacleatlocation drawer_bar_1 l2, receptacleatlocation sink_bar_1_bar_sinkbasin l3,
        openable drawer_bar_1, objecttype mug_bar_1 mugtype, pickupable mug_bar_1,
        cleanable mug_bar_1, inreceptacle mug_bar_1 desk_bar_1, objectatlocation mug_bar_1 l1,
        cancontain drawertype mugtype, cancontain desktype mugtype, atlocation agent1 l0
    """
    facts = frozenset(tuple(fact.split()) for fact in facts.split(","))
    kinds = {"agent1": "agent", "mug_bar_1": "object", "mugtype": "otype"}
    kinds |= dict.fromkeys(("desk_bar_1", "drawer_bar_1", "sink_bar_1_bar_sinkbasin"), "receptacle")
    kinds |= dict.fromkeys(("l0", "l1", "l2", "l3"), "location")
    kinds |= dict.fromkeys(("desktype", "drawertype", "sinkbasintype"), "rtype")
    goal = Goal(task_type, thing, place)
    return read_problem(write_problem(read_like(goal, kinds, facts)), "by hand")


def read_like(goal, kinds, facts):
    game = draw_game("train", 0)
    return dataclasses.replace(game, goal=goal, kinds=kinds, facts=facts, task=task_texts(goal)[0])


# The generator, and the planner


@pytest.mark.parametrize(
    "names", [A_FEW, pytest.param(ALL_GAMES, marks=pytest.mark.slow)], ids=["some", "all"]
)
def test_every_game_is_solved_by_the_planner(names):
    for name in names:
        world = World(draw_game(name.split("/")[0], int(name.split("/")[1])))
        play, commands = NativeEngine(world), plan(world)
        assert 1 < len(commands) <= 20, name
        for command in commands:
            assert not play.won() and command in play.commands(), (name, command)
            play.step(command)
        assert play.won(), name


def test_no_shorter_way_wins():
    """Against a search of all states, in games left with what matters to the task."""
    checked = Counter()
    for name in ALL_GAMES[-274:]:
        game = reduced(world_of(name))
        if game is None or checked[game.goal.task_type]:
            continue
        checked[game.goal.task_type] += 1
        world = World(game)
        assert len(plan(world)) == len(plan(world_of(name)))
        assert wins_within(NativeEngine(world), len(plan(world)))
        assert not wins_within(NativeEngine(world), len(plan(world)) - 1), name
    assert set(checked.values()) == {1} and len(checked) == 6


def reduced(world):
    """The game with no other things than the wanted, and few receptacles; None where too many."""
    play, goal = NativeEngine(world), world.game.goal
    matter = {goal.object, "desklamp"} if goal.task_type.startswith("look") else {goal.object}
    objects = [one for one, o in world.object_ids.items() if world.object_kinds[o] & matter]
    used = {goal.target, "sinkbasin", "microwave", "fridge"}
    receptacles = [
        one
        for one, r in world.receptacle_ids.items()
        if world.receptacle_kinds[r] & used
        or any(world.object_ids[thing] in play.inside[r] for thing in objects)
    ]
    if len(objects) > 3 or len(receptacles) > 7:
        return None
    gone = ({*world.object_ids} | {*world.receptacle_ids}) - {*objects, *receptacles}
    facts = frozenset(fact for fact in world.game.facts if not gone & set(fact))
    return dataclasses.replace(world.game, facts=facts)


def wins_within(play, steps):
    """Whether some commands win in so many steps: all states, breadth first."""
    level, seen = [play], {state_of(play)}
    for _ in range(steps):
        following = []
        for one in level:
            for command in one.commands():
                if command.startswith(("look", "help", "inventory", "examine", "slice")):
                    continue
                other = copy_of(one)
                other.step(command)
                if other.won():
                    return True
                if state_of(other) not in seen:
                    seen.add(state_of(other))
                    following.append(other)
        level = following
    return False


def copy_of(play):
    other = copy.copy(play)
    other.inside = [set(things) for things in play.inside]
    other.opened, other.left = set(play.opened), set(play.left)
    other.marks = {mark: set(marked) for mark, marked in play.marks.items()}
    other.lies = copy.deepcopy(play.lies)
    return other


def test_games_are_always_the_same_and_survive_being_pddl():
    for name in A_FEW:
        split, number = name.split("/")
        game = draw_game(split, int(number))
        assert game == draw_game(split, int(number))
        again = read_problem(write_problem(game), game.name, game.task)
        assert again == game
        assert game.task in task_texts(game.goal)


def test_things_lie_where_they_may_and_are_not_where_they_are_wanted():
    for name in A_FEW:
        world = world_of(name)
        play, goal = NativeEngine(world), world.game.goal
        assert not play.won()
        for r, things in enumerate(play.inside):
            for o in things:
                [kind], [place] = world.object_kinds[o], world.receptacle_kinds[r]
                if kind == "desklamp":
                    assert place in rooms.LAMP_STANDS_ON
                else:
                    assert kind in rooms.holds()[place] and o in world.holds[r]
                assert (kind, place) != (goal.object, goal.target)


def test_splits_are_as_large_as_the_originals_and_unseen_rooms_are_others():
    assert SPLITS == {"train": 3553, "validation": 140, "seen": 140, "unseen": 134}
    assert len(rooms.unseen_rooms()) == 12
    assert not set(rooms.unseen_rooms()) & {number for _, number in rooms.tasks()}
    shapes = defaultdict(set)  # of some kinds of receptacles the rooms that have them
    for number, room in rooms.rooms().items():
        shapes[frozenset(Counter(kind for kind, _ in room.receptacles).items())].add(number)
    unseen, used = set(rooms.unseen_rooms()), {split: [] for split in SPLITS}
    for name in [*ALL_GAMES[:200], *ALL_GAMES[-274:]]:
        kinds = Counter(one.split()[0] for one in world_of(name).receptacle_names)
        used[name.split("/")[0]].append(shapes[frozenset(kinds.items())])
    assert all(fits & unseen for fits in used["unseen"])
    assert len(set().union(*used["unseen"]) & unseen) > 8
    assert all(fits - unseen for fits in used["train"] + used["seen"])
    texts = {
        split: {NativeEngine(world_of(f"{split}/{n}")).start_text() for n in range(50)}
        for split in SPLITS
    }
    assert len(texts["train"] & texts["seen"]) < 5


@needs_shared
def test_tasks_are_drawn_as_often_as_they_are_set():
    tasks = read_tasks()
    total = sum(sum(counts.values()) for counts in tasks.values())
    assert total == 2420
    goals = Counter(draw_game("train", number).goal for number in range(SPLITS["train"]))
    assert {dataclasses.astuple(goal) for goal in goals} <= set(tasks)
    for task_type in TASK_TYPES:
        real = sum(sum(c.values()) for task, c in tasks.items() if task[0] == task_type) / total
        ours = sum(n for goal, n in goals.items() if goal.task_type == task_type) / SPLITS["train"]
        assert abs(real - ours) < 0.025, task_type  # three standard errors


@needs_shared
def test_the_tables_are_those_of_the_original():
    from pathlib import Path

    # The folder of these tests, on the path beside others, would pass for the package alone.
    reason = "the tables are made from alfworld's files"
    constants = pytest.importorskip("alfworld.gen.constants", reason=reason)
    folder = Path(constants.__file__).parent / "layouts"
    for name, text in tables(constants, folder).items():
        shipped = Path(rooms.__file__).parent / "tables" / f"{name}.txt"
        assert shipped.read_text() == text, name


# The short form, and words


def test_short_commands_and_long_ones_are_the_same():
    for name in A_FEW:
        play = NativeEngine(world_of(name))
        rng = np.random.default_rng(0)
        for _ in range(30):
            commands = play.commands()
            short = [short_command(command) for command in commands]
            assert len(set(short)) == len(short)
            assert [long_command(one) for one in short] == commands
            play.step(commands[rng.integers(len(commands))])


@pytest.mark.parametrize("format", ["text", "short"])
def test_words_of_all_transcripts_are_known(format):
    from qsft_lite.models import word_tokenizer  # torch, which the other tests do without

    env = ALFWorld(format=format)
    tokenizer = word_tokenizer(env.texts)
    games = envs.generate("alfworld", 60, 0, format=format, split="unseen")
    for texts in games["text"]:
        for text in [*texts, "help\n", env.texts[0]]:
            assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    if format == "short":
        words = sorted(set(sum((env.texts,), ())))
        assert all(len(tokenizer(word)["input_ids"]) == 1 for word in words)
        assert parts("mug2 ") == [("word", "mug"), ("number", "2"), ("kind", "thing ")]
        assert parts("mug ")[0] == parts("mug2\n")[0] and parts("mug ")[1] != parts("go ")[1]
        for word in words:
            assert sorted(parts(word))


def test_short_answers():
    assert (
        short_text("You arrive at desk 1. On the desk 1, you see a mug 2, and a pen 1.")
        == "mug2 pen1"
    )
    assert short_text("You are facing the desk 1, and shelf 2. Next to it, you see nothing.") == (
        "facing desk1 shelf2 : nothing"
    )
    assert short_text("This is a hot and clean sliced apple 1.") == "hot clean sliced"
    assert short_text("You are carrying: a mug 1.") == "mug1"


# The environment


def test_reward_comes_with_success_and_time_runs_out():
    env = envs.make("alfworld", split="seen", max_steps=30)
    for seed in range(20):
        text, info = env.reset(seed=seed)
        assert text.endswith("\n") and info["task"] in text
        for command in plan(env.world):
            text, reward, terminated, truncated, info = env.step(command + "\n")
            assert text.endswith("\n") and info["valid"] and reward == terminated
        assert (reward, terminated, truncated, info["success"]) == (1.0, True, False, True)
        with pytest.raises(gymnasium.error.ResetNeeded):
            env.step("look")
    env.reset(seed=0)
    for step in range(30):
        text, reward, terminated, truncated, info = env.step("dance")
        assert (text, reward, terminated) == ("Nothing happens.\n", 0.0, False)
        assert truncated == (step == 29) and not info["valid"]


def test_games_are_drawn_from_the_split_and_fixed_by_name():
    env = ALFWorld(split="unseen")
    drawn = {env.reset(seed=seed)[1]["game"] for seed in range(50)}
    assert len(drawn) > 30 and all(name.startswith("unseen/") for name in drawn)
    assert env.reset(seed=3) == env.reset(seed=3) == env.clone().reset(seed=3)
    assert env.reset(options={"game": "train/7"})[1]["game"] == "train/7"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "trian"}, "did you mean 'train'"),
        ({"engine": "natve"}, "did you mean 'native'"),
        ({"format": "long"}, "unknown format"),
        ({"max_steps": 0}, "max_steps must be at least 1"),
        ({"gamez": 1}, "did you mean 'games'"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        envs.make("alfworld", **options)


def test_the_extra_is_named_where_it_is_missing(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "textworld", None)
    with pytest.raises(ImportError, match=r"qsft-lite\[alfworld\]"):
        ALFWorld(engine="textworld")


# Hostile input


PIECES = (
    "go to take from move put in/on heat with desk 1 drawer mug 2 open use examine look help "
    "'; -- \x00 \u202e { } {r.name} #look.feedback# __class__ 9999999999 -1 \n \t"
).split(" ")


def fuzzed(rng):
    """A text of random characters, or of pieces of commands and of attacks."""
    if rng.random() < 0.3:
        return "".join(
            chr(rng.choice((rng.randrange(128), rng.randrange(0xD800)))) for _ in "12345"
        )
    return " ".join(rng.choices(PIECES, k=rng.randrange(9)))


@pytest.mark.parametrize("format", ["text", "short"])
def test_no_action_crashes(format):
    env, rng = ALFWorld(format=format, max_steps=6_000), random.Random(0)
    env.reset(options={"game": "train/0"})
    valid = 0
    for _ in range(5_000):  # 10,000 in all
        before = state_of(env.play)
        text, reward, terminated, truncated, info = env.step(fuzzed(rng))
        assert text.endswith("\n") and reward == 0.0 and not terminated and not truncated
        valid += info["valid"]
        if not info["valid"]:
            assert text == ("invalid\n" if format == "short" else "Nothing happens.\n")
            assert state_of(env.play) == before
    assert 0 < valid < 1_000


@settings(max_examples=100)
@given(st.text())
def test_no_text_crashes(text):
    env = ALFWorld()
    env.reset(options={"game": "train/0"})
    answer = env.step(text)[0]
    assert answer == "Nothing happens.\n" or read_command(text)[0]


def test_huge_actions_are_only_invalid():
    env = ALFWorld()
    env.reset(seed=0)
    for action in ["go to " * 200_000, "x" * 1_000_000, "take " + "mug 1 from " * 50_000]:
        assert env.step(action)[4]["valid"] is False


GOOD = write_problem(draw_game("train", 0))
BROKEN = {
    "empty": ("", "no PDDL problem"),
    "words": ("hello there", "no PDDL problem"),
    "open": (GOOD[:-3], "the \\( of line 1 is never closed"),
    "half": (GOOD[: len(GOOD) // 2], "never closed"),
    "closed twice": (GOOD + ")", "closes nothing"),
    "no goal": (GOOD[: GOOD.index("(:goal")] + ")", "no :goal"),
    "no init": (GOOD.replace("(:init", "(:start"), "no :init"),
    "another goal": (GOOD.replace("(receptacletype ?r", "(opened ?r"), "none of the six tasks"),
    "empty goal": (GOOD[: GOOD.index("(:goal")] + "(:goal (and)))", "none of the six tasks"),
    "goal of words": (GOOD[: GOOD.index("(:goal")] + "(:goal win))", "none of the six tasks"),
    "unknown name": (
        GOOD.replace("(atlocation agent1", "(atlocation robot"),
        "line .*robot is not",
    ),
    "no agent": (GOOD.replace("agent1 - agent", "agent1 - object"), "no agent"),
    "no type": (
        GOOD.replace("(:objects", "(:objects thing\n)\n(:objekts"),
        "thing in :objects has",
    ),
    "bracket": (GOOD.replace("(:objects", "(:objects (a)"), "a bracket among the objects"),
    "dash": (GOOD.replace("(:objects", "(:objects -)(:o"), "without a type"),
    "bare fact": (GOOD.replace("(:init", "(:init opened"), "stands in no brackets"),
    "deep": ("(" * 10_000, "never closed"),
    "deep fact": (GOOD.replace("(:init", "(:init ((a) b)"), "no fact such as"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_problems_that_are_none_say_what_is_wrong(case, tmp_path):
    text, message = BROKEN[case]
    (tmp_path / "initial_state.pddl").write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        ALFWorld().reset(options={"game": str(tmp_path)})
    assert "initial_state.pddl" in str(caught.value)


@given(st.data())
@settings(max_examples=60)
def test_damaged_problems_are_errors_or_games(data):
    """A piece of a good problem is cut out, doubled or replaced."""
    start = data.draw(st.integers(0, len(GOOD) - 1))
    end = min(len(GOOD), start + data.draw(st.integers(0, 200)))
    piece = data.draw(st.sampled_from(["", GOOD[start:end] * 2, "(", ")", "x", "; ", "\x00", "- "]))
    try:
        play = NativeEngine(World(read_problem(GOOD[:start] + piece + GOOD[end:])))
    except ValueError as error:
        assert str(error)
        return
    play.start_text()
    for command in play.commands():
        play.step(command)


@pytest.mark.parametrize(
    "fact",
    [
        ("inreceptacle", "agent1", "mugtype"),
        ("inreceptacle", "agent1"),
        ("receptacleatlocation", "mugtype", "loc_bar_001"),
        ("objecttype", "agent1", "mugtype"),
        ("objectatlocation", "desktype", "loc_bar_001"),
        ("holds", "agent1", "loc_bar_001"),
        ("inreceptacleobject", "agent1", "agent1"),
    ],
)
def test_facts_about_other_types_are_refused(fact):
    game = draw_game("train", 0)
    with pytest.raises(ValueError, match=f"{fact[0]} .*does not have the names"):
        NativeEngine(World(dataclasses.replace(game, facts=game.facts | {fact})))
    unnamed = {("objecttype", "mug", "mugtype")}
    game = dataclasses.replace(game, kinds=game.kinds | {"mug": "object"})
    with pytest.raises(ValueError, match="mug has no name"):
        World(dataclasses.replace(game, facts=game.facts | unnamed))


def test_two_places_or_none_are_refused():
    game = draw_game("train", 0)
    [receptacle, *_] = [one for one, kind in game.kinds.items() if kind == "receptacle"]
    more = game.facts | {("receptacleatlocation", receptacle, "loc_bar_start")}
    with pytest.raises(ValueError, match="stands at two locations"):
        World(dataclasses.replace(game, facts=more))
    less = frozenset(fact for fact in game.facts if fact[0] != "atlocation")
    with pytest.raises(ValueError, match="must start at one location, not 0"):
        World(dataclasses.replace(game, facts=less))


def trial(folder, number=0, **changes):
    """A game of ours as a trial of the original's layout."""
    game = draw_game("train", number)
    folder.mkdir(parents=True)
    (folder / "initial_state.pddl").write_text(write_problem(game))
    data = {"task_type": game.goal.task_type, "pddl_params": {}} | changes
    (folder / "traj_data.json").write_text(json.dumps(data))
    return game


def test_folders_of_trials_are_loaded(tmp_path):
    games = {
        f"task-{n}/trial_T{n}": trial(tmp_path / f"task-{n}" / f"trial_T{n}", n) for n in range(4)
    }
    trial(tmp_path / "pick_and_place_with_movable_recep-9" / "trial_T1", 9)
    trial(tmp_path / "task-AppleSliced-3" / "trial_T1", 8)
    env = ALFWorld(games=tmp_path)
    assert env.source.names == sorted(games)
    for name, game in games.items():
        text, info = env.reset(options={"game": name})
        assert info["task_type"] == game.goal.task_type
        assert info["game"].endswith(name) and info["task"] == task_texts(game.goal)[0]
        assert env.reset(options={"game": str(tmp_path / name)}) == (text, info)
    assert env.reset(options={"game": "train/3"})[1]["game"] == "train/3"
    recorded = envs.generate("alfworld", 5, 0, games=tmp_path)
    assert len(recorded) == 5


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"traj_data.json": "{"}, "traj_data.json is no JSON"),
        ({"traj_data.json": "[]"}, "must hold one JSON object"),
        ({"traj_data.json": '{"task_type": "dance"}'}, "task_type is 'dance'"),
        ({"initial_state.pddl": b"\xff\xfe\x00"}, "cannot be read as text"),
        ({"game.tw-pddl": "no"}, "game.tw-pddl is no JSON"),
        ({"initial_state.pddl": None, "game.tw-pddl": "{}"}, "no text pddl_problem"),
        ({"initial_state.pddl": None}, "holds no game"),
    ],
)
def test_damaged_trials_say_what_is_wrong(files, message, tmp_path):
    trial(tmp_path / "t")
    for name, content in files.items():
        path = tmp_path / "t" / name
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message):
        read_game(tmp_path / "t")


def test_wrong_folders_and_names_are_refused(tmp_path):
    for folder, message in [(tmp_path / "none", "is no folder"), (tmp_path, "holds no game")]:
        with pytest.raises(FileNotFoundError, match=message):
            ALFWorld(games=folder)
    env = ALFWorld()
    for name in [
        "train/3553",
        "train/-1",
        "test/0",
        "",
        "..",
        "\x00",
        "x" * 5_000,
        "train/" + "9" * 99,
    ]:
        with pytest.raises(ValueError, match="game"):
            env.reset(options={"game": name})


@needs_shared
def test_the_genuine_scene_is_read(tmp_path):
    env = ALFWorld(games=SCENE)
    text, info = env.reset()
    assert info["task"] == "put a hot potato in sinkbasin" and "a toaster 1." in text
    assert Trials(SCENE).names == ["."]
    commands = plan(env.world)
    assert len(commands) == 6  # as the original's planner
    for command in commands:
        _, reward, *_ = env.step(command)
    assert reward == 1.0


# Players, and recorded games


@pytest.mark.parametrize("format", ["text", "short"])
@pytest.mark.parametrize("name", PLAYERS)
def test_what_is_read_from_a_transcript_is_what_was_seen(name, format):
    """act on the transcript is choose on what the player has noted, also after "help"."""
    for number in range(0, 60, 7):
        world = world_of(f"unseen/{number}")
        texts, _ = play_game(world, PLAYERS[name](number), format == "short")
        texts[1:1] = ["help\n", "help\n" if format == "short" else env_help(world)]
        for end in range(1, len(texts), 2):
            memory, short = read_history("".join(texts[:end]))
            assert short == (format == "short")
        again, _ = read_history("".join(texts))
        assert again.goal == world.game.goal
        assert again.receptacles == [world.receptacle_names[r] for r in world.everywhere]
        play = NativeEngine(world)
        for action in texts[1::2]:
            play.step(long_command(action.strip()))
        assert again.held == (None if play.held is None else world.object_names[play.held])
        for receptacle, things in again.contents.items():
            inside = play.inside[world.receptacle_of[receptacle]]
            assert sorted(things) == sorted(world.object_names[o] for o in inside)


def env_help(world):
    return NativeEngine(world).step("help")[0] + "\n"


def test_players_by_text_score_what_they_score_in_recording():
    from qsft_lite.evaluate import evaluate

    env = ALFWorld(split="unseen")
    starts = [{"game": f"unseen/{number}"} for number in range(60)]
    expected = {"expert": (0.98, 1.0), "careless": (0.9, 1.0), "half_informed": (0.5, 0.95)}
    expected["wanderer"] = (0.0, 0.05)
    for name, (low, high) in expected.items():
        by_text = evaluate(PLAYERS[name](0), env, 60, 0, options=starts)
        recorded = [play_game(world_of(start["game"]), PLAYERS[name](1))[1] for start in starts]
        assert low <= by_text.success <= high
        assert abs(by_text.success - np.mean(recorded)) < 0.25
        assert by_text.mean == by_text.success  # reward 1 on success


def test_how_often_players_fail_is_an_option():
    """A slip one step in five, of which so many fumble; most of these fail, as do other slips."""
    failed = {}
    for fumbles in (0.0, 0.4, 1.0):
        games = envs.generate(
            "alfworld", 150, 2, format="short", behavior={"careless": 1}, fumbles=fumbles
        )
        answers = [text for game in games for text in game["text"][2::2]]
        failed[fumbles] = np.mean([answer == "invalid\n" for answer in answers])
        assert np.mean(games["done"]) > 0.9  # they know how to go on
    assert failed[0.0] < 0.01 and 0.05 < failed[0.4] < 0.1 and 0.14 < failed[1.0] < 0.22
    with pytest.raises(ValueError, match=r"fumbles must be a probability in \[0, 1\], got 2"):
        envs.generate("alfworld", 5, 0, fumbles=2)


def test_recorded_games_are_replayed_by_the_environment():
    starts = {}  # several games may begin with the same text
    env = ALFWorld(split="seen", max_steps=20)
    for name in env.source.names:
        starts.setdefault(env.reset(options={"game": name})[0], []).append(name)
    games = envs.generate("alfworld", 60, 3, split="seen", max_steps=20)
    for game in games:
        assert any(replayed(env, name, game["text"]) == game for name in starts[game["text"][0]])
    assert 0.2 < np.mean(games["done"]) < 0.8
    short = envs.generate("alfworld", 60, 3, format="short", split="seen", max_steps=20)
    assert short["reward"] == games["reward"]
    for one, other in zip(short["text"], games["text"], strict=True):
        assert [f"{long_command(text.strip())}\n" for text in one[1::2]] == other[1::2]


def replayed(env, name, texts):
    told, rewards = [env.reset(options={"game": name})[0]], [0.0]
    over = terminated = False
    for action in texts[1::2]:
        if over:
            return None
        text, reward, terminated, truncated, _ = env.step(action)
        over = terminated or truncated
        told += [action, text]
        rewards += [reward, 0.0]
    is_action = [place % 2 == 1 for place in range(len(told))]
    return {"text": told, "is_action": is_action, "reward": rewards, "done": terminated}


def test_games_are_the_same_for_any_number_of_processes_and_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr("qsft_lite.tasks.alfworld.data.BLOCK", 20)
    whole = envs.generate("alfworld", 50, 5, format="short")
    first = envs.generate("alfworld", 50, 5, format="short", path=tmp_path, processes=2)
    assert first.to_list() == whole.to_list()
    (tmp_path / "00001.jsonl").unlink()
    again = envs.generate("alfworld", 50, 5, format="short", path=tmp_path)
    assert again.to_list() == whole.to_list()
    with pytest.raises(ValueError, match="holds episodes with"):
        envs.generate("alfworld", 50, 5, format="text", path=tmp_path)
    with pytest.raises(ValueError, match="part of behavior"):
        envs.generate("alfworld", 5, 0, behavior={"exprt": 1})
