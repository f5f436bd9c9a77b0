"""The pictures of ALFWorld's rooms without a browser: what they show, and that it is so."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from explorers import controls, live_picture
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from small_games import agent_policy

from qsft_lite.baselines import TrainedMethod
from qsft_lite.envs import make
from qsft_lite.tasks import agent_widgets
from qsft_lite.tasks.alfworld import widgets as aw
from qsft_lite.tasks.alfworld.floor import WIDTH, floor_plan
from qsft_lite.tasks.alfworld.games import world_of
from qsft_lite.tasks.alfworld.players import CarelessPlayer, ExpertPlayer, play_game
from qsft_lite.tasks.alfworld.rooms import rooms
from qsft_lite.tasks.alfworld.study import PROFILES, ALFWorldTask
from qsft_lite.viz import explorers as widgets
from qsft_lite.viz.plots import HIGHLIGHT, VALUE_COLORS

START = {"game": "train/3"}


@pytest.fixture(scope="module")
def env():
    return make("alfworld", format="short")


@pytest.fixture(scope="module")
def policy(env):
    """Random weights, values unlike pi."""
    return agent_policy(env)


@pytest.fixture(scope="module")
def texts():
    """A careless game that is won."""
    found, won = play_game(world_of("train/3"), CarelessPlayer(1), short=True)
    assert won
    return found


def heads_of(axes):
    """Of each receptacle's name the number under it, its head's color, and what is in it."""
    # A receptacle is two patches, the box and its head, and two texts.
    labels = [text for text in axes.texts if text.get_zorder() == 5]
    heads = list(axes.patches)[1::2]
    assert len(axes.patches) == len(labels) == 2 * len(heads)
    found = {}
    for head, label, inside in zip(heads, labels[::2], labels[1::2], strict=True):
        name, _, number = label.get_text().partition("\n")
        found[name] = number, head.get_facecolor(), inside.get_text()
    return found


def at(env, texts, turn):
    """The commands and the engine after so many turns, played in the environment."""
    own = env.clone()
    _, info = own.reset(options=START)
    for command in texts[1 : 1 + 2 * turn : 2]:
        *_, info = own.step(command)
    return info["admissible_commands"], own.play


def asked_of(monkeypatch):
    """What the policy is asked about, in order."""
    asked = []
    ask = agent_widgets.ask_actions
    monkeypatch.setattr(agent_widgets, "ask_actions", lambda *a: (asked.append(a[2]), ask(*a))[1])
    return asked


# The plan


def test_every_room_has_a_place_for_each_receptacle():
    for room in rooms().values():
        kinds = [kind for kind, _ in room.receptacles]
        names = [f"{kind} {kinds[: i + 1].count(kind)}" for i, kind in enumerate(kinds)]
        boxes, height = floor_plan(names)
        assert sorted(boxes) == sorted(names)
        corners = np.array([box[:4] for box in boxes.values()])
        left, bottom, right, top = *corners[:, :2].T, *(corners[:, :2] + corners[:, 2:]).T
        assert left.min() >= 0 and bottom.min() >= -1e-9
        assert right.max() <= WIDTH and top.max() <= height + 1e-9
        apart = (right[:, None] <= left) | (left[:, None] >= right)
        apart |= (top[:, None] <= bottom) | (bottom[:, None] >= top)
        assert (apart | np.eye(len(names), dtype=bool)).all()


# The picture


@pytest.mark.parametrize("turn", [0, 2, 6])
def test_colors_are_the_values_of_the_commands_that_lead_there(env, policy, texts, turn):
    commands, _ = at(env, texts, turn)
    history = "".join(texts[: 1 + 2 * turn])
    found = policy.candidates(history, [f"{command}\n" for command in commands])
    best = {}
    for command, value in zip(commands, found["Q"], strict=True):
        # A command ends with its receptacle; those that name no other thing have none.
        best[command.split()[-1]] = max(value, best.get(command.split()[-1], 0))
    axes = aw.draw_room(policy, env, START, texts, turn).axes[0]
    heads = heads_of(axes)
    assert sorted(heads) == sorted(name.replace(" ", "") for name in world_names())
    for name, (number, color, _) in heads.items():
        if name in best:
            assert number == f"{best[name]:.2f}"
            assert color == pytest.approx(VALUE_COLORS(best[name]), abs=0.02)
        else:
            assert number == "" and color == to_rgba("#eeeeee")
    assert sum(number != "" for number, *_ in heads.values()) >= len(heads) - 1


def world_names():
    return world_of("train/3").receptacle_names


def test_the_policy_is_asked_about_the_admissible_commands(env, policy, texts, monkeypatch):
    asked = asked_of(monkeypatch)
    for turn in (0, 3):
        figure = aw.draw_room(policy, env, START, texts, turn)
        commands, _ = at(env, texts, turn)
        assert asked[-1] == [f"{command}\n" for command in commands]
        assert figure.axes[1].get_title() == f"10 best of {len(commands)} next actions"


def test_the_bars_are_the_ten_best_and_the_one_taken(env, policy, texts):
    turn = 2
    commands, _ = at(env, texts, turn)
    history = "".join(texts[: 1 + 2 * turn])
    found = policy.candidates(history, [f"{command}\n" for command in commands])
    order = found.sort_values("Q", ascending=False, kind="stable")
    best = order["action"].str.strip().tolist()
    taken = texts[1 + 2 * turn].strip()
    panel = aw.draw_room(policy, env, START, texts, turn).axes[1]
    lines = [text.get_text() for text in panel.texts]
    assert lines[:3] == ["Q", "π", "π̂, played"]
    shown = [text.removeprefix("➤ ") for text in lines[3::4]]
    assert set(shown) == {*best[:10], taken}
    marked = [text for text in panel.texts if text.get_color() == HIGHLIGHT]
    assert [text.get_text() for text in marked] == [f"➤ {taken}"]
    values = dict(zip(found["action"].str.strip(), found["Q"], strict=True))
    fills = panel.collections[1]
    lengths = [segment[1, 0] - segment[0, 0] for segment in fills.get_segments()]
    for row, name in enumerate(shown):
        assert lengths[3 * row] == pytest.approx(0.19 * values[name], abs=1e-4)
        color = fills.get_colors()[3 * row]
        assert tuple(color) == pytest.approx(VALUE_COLORS(values[name]), abs=0.02)
        told = lines[3 + 4 * row + 1]
        assert told == ("<.01" if 0 < values[name] < 0.005 else f"{values[name]:.2f}")


def test_what_is_in_a_box_is_what_the_agent_has_seen(env, policy, texts):
    for turn in range(1, len(texts) // 2, 3):
        axes = aw.draw_room(policy, env, START, texts, turn).axes[0]
        _, play = at(env, texts, turn)
        gone = {
            text.split()[1]
            for text, answer in zip(
                texts[1 : 2 * turn : 2], texts[2 : 1 + 2 * turn : 2], strict=True
            )
            if text.startswith("go ") and answer != "invalid\n"
        }
        for name, (_, _, inside) in heads_of(axes).items():
            if name not in gone:
                assert inside == "not seen"
                continue
            r = [one.replace(" ", "") for one in play.world.receptacle_names].index(name)
            if not play._is_open(r):
                assert inside == "closed"
                continue
            things = sorted(play.world.object_names[o].replace(" ", "") for o in play.inside[r])
            if "more" in inside:
                assert set(inside.split()[:-2]) <= set(things)
                assert len(inside.split()) - 2 + int(inside.split()[-2][1:]) == len(things)
            else:
                assert sorted(inside.split()) == (things or ["empty"])


def test_the_way_has_an_arrow_for_each_walk(env, policy, texts):
    axes = aw.draw_room(policy, env, START, texts).axes[0]
    commands = zip(texts[1::2], texts[2::2], strict=True)
    gone = [
        c.split()[1] for c, answer in commands if c.startswith("go ") and "invalid" not in answer
    ]
    arrows = [text for text in axes.texts if getattr(text, "arrow_patch", None)]
    assert len(arrows) == min(len(gone) - 1, aw.MOST_WALKS)
    dots = {line.get_xydata()[0].round(3).tobytes(): line.get_color() for line in axes.lines}
    assert len(dots) == len(set(gone))
    assert list(dots.values()).count(HIGHLIGHT) == 1
    numbers = [text.get_text() for text in axes.texts if text.get_text().isdigit()]
    assert sorted(map(int, numbers)) == sorted(
        len(gone) - gone[::-1].index(name) for name in set(gone)
    )


def test_a_walk_that_failed_is_none(env, policy, texts):
    walk = next(text for text in texts[1::2] if text.startswith("go "))
    stuck = [texts[0], walk, "closed\n", walk, "invalid\n", "go mug9\n", "invalid\n"]
    axes = aw.draw_room(policy, env, START, stuck).axes[0]
    assert [text.get_text() for text in axes.texts if text.get_text().isdigit()] == ["1"]
    assert not [text for text in axes.texts if getattr(text, "arrow_patch", None)]


def test_the_title_says_the_task_what_is_carried_and_what_was_done(env, policy, texts):
    carried, held = None, []
    for turn in range(len(texts) // 2 + 1):
        if turn and texts[2 * turn] != "invalid\n":
            verb, *things = texts[2 * turn - 1].split()
            carried = {"take": things[0] if things else "", "move": None}.get(verb, carried)
        held.append((carried or "nothing", turn))
    # The first and last turn with either thing in hand.
    for carried, turn in [*dict(held).items(), *dict(held[::-1]).items()]:
        title = aw.draw_room(policy, env, START, texts, turn).get_suptitle()
        if turn:
            assert f"Turn {turn} of {len(texts) // 2}: {texts[2 * turn - 1].strip()} →" in title
        told = title.partition("Carried: ")[2].split("\n")[0].removesuffix(" (treated)")
        assert told.replace(" ", "") == carried
        assert title.startswith(f"Task: {world_of('train/3').game.task}.")
    assert len(dict(held)) > 1


def test_the_end_is_said(env, policy, texts):
    figure = aw.draw_room(policy, env, START, texts)
    assert figure.axes[1].get_title() == "the task is done"
    assert len(figure.axes[1].texts) == 0
    assert {number for number, *_ in heads_of(figure.axes[0]).values()} == {""}
    short = make("alfworld", format="short", max_steps=2)
    lost = aw.draw_room(policy, short, START, texts[:5])
    assert lost.axes[1].get_title() == "the task is not done"


def test_a_command_that_does_nothing_is_called_invalid(env, policy, texts):
    wrong = [texts[0], "open mug9\n", "invalid\n", *texts[1:3]]
    before = aw.draw_room(policy, env, START, wrong, 0).axes[1]
    marked = [text.get_text() for text in before.texts if text.get_color() == HIGHLIGHT]
    assert marked == ["➤ invalid: open mug9"]
    after = aw.draw_room(policy, env, START, wrong, 1)
    assert after.get_suptitle().endswith("Turn 1 of 2: open mug9 → which did nothing")


def test_a_clone_has_pi_only(env, texts):
    clone = agent_policy(env, None)
    figure = aw.draw_room(clone, env, START, texts, 2)
    panel = figure.axes[1]
    assert [text.get_text() for text in panel.texts[:2]] == ["π", "π̂, played"]
    assert "Q" not in [text.get_text() for text in panel.texts]
    assert figure.axes[2].get_xlabel() == "π of an action (no values)"
    commands, _ = at(env, texts, 2)
    rival = agent_policy(env)  # whose pi is the clone
    found = rival.candidates("".join(texts[:5]), [f"{command}\n" for command in commands])
    best = found.sort_values("log_pi", ascending=False)["action"].iloc[0].strip()
    assert panel.texts[2].get_text().removeprefix("➤ ") == best


def test_no_text_leaves_its_box(env, policy):
    """In the largest room, where the boxes are smallest."""
    names = [f"train/{number}" for number in range(150)]
    name = max(names, key=lambda one: len(world_of(one).everywhere))
    assert len(world_of(name).everywhere) >= 45
    texts, _ = play_game(world_of(name), ExpertPlayer(0), short=True)
    figure = aw.draw_room(policy, env, {"game": name}, texts, min(len(texts) // 2 - 1, 25))
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    axes = figure.axes[0]
    boxes = [patch.get_window_extent(renderer) for patch in axes.patches][::2]
    texts = [text for text in axes.texts if text.get_zorder() == 5]
    for number, text in enumerate(texts):
        inner, outer = text.get_window_extent(renderer), boxes[number // 2]
        assert outer.x0 <= inner.x0 and inner.x1 <= outer.x1, text.get_text()
        assert outer.y0 <= inner.y0 and inner.y1 <= outer.y1, text.get_text()
    for text in figure.axes[1].texts:
        assert text.get_window_extent(renderer).x1 <= figure.bbox.x1, text.get_text()
    assert min(text.get_fontsize() for text in axes.texts) >= 9


def test_the_original_words_are_drawn_as_well():
    env = make("alfworld", format="text")
    texts, _ = play_game(world_of("train/3"), CarelessPlayer(1))
    figure = aw.draw_room(agent_policy(env, context=4_096), env, START, texts, 3)
    assert sorted(heads_of(figure.axes[0])) == sorted(n.replace(" ", "") for n in world_names())
    assert all(number for number, *_ in list(heads_of(figure.axes[0]).values())[1:])


# The explorer


def png(*arguments):
    return widgets._png(aw.draw_room(*arguments))


def test_games_are_stepped_through(env, policy, texts, shown, capfd):
    other, _ = play_game(world_of("train/5"), ExpertPlayer(2), short=True)
    starts = [START, {"game": "train/5"}]
    aw.room_explorer(policy, env, starts, [{"text": texts}, {"text": other}], turn=2)
    static, widget = shown
    assert static.alt
    assert static.data == live_picture(widget).value == png(policy, env, START, texts, 2)
    controls(widget)["turn"].value = 4
    assert live_picture(widget).value == png(policy, env, START, texts, 4)
    controls(widget)["turn"].value = 50  # beyond the end
    controls(widget)["game"].value = 2
    last = len(other) // 2
    assert live_picture(widget).value == png(
        policy, env, starts[1], other, min(last, len(texts) // 2)
    )
    assert plt.get_fignums() == []
    assert capfd.readouterr() == ("", "")


def test_one_plays_on_oneself(env, policy, texts, shown):
    env.reset(options={"game": "train/9"})
    before = env.play
    aw.room_explorer(policy, env, [START], [{"text": texts}], turn=1)
    widget = shown[1]
    picture, by_name = live_picture(widget), controls(widget)
    commands, _ = at(env, texts, 1)
    assert list(by_name["play on"].options) == [agent_widgets.NOT_YET, *commands]
    own = list(texts[:3])
    for command in ("look", commands[0]):
        by_name["play on"].value = command
        own += [f"{command}\n", ""]
        game = env.clone()
        game.reset(options=START)
        for place in range(1, len(own), 2):
            own[place + 1], *_, info = game.step(own[place])
        turn = len(own) // 2
        assert by_name["turn"].value == turn
        assert by_name["play on"].value == agent_widgets.NOT_YET
        offered = [agent_widgets.NOT_YET, agent_widgets.RECORDED, *info["admissible_commands"]]
        assert list(by_name["play on"].options) == offered
        assert picture.value == png(policy, env, START, own, turn)
    by_name["play on"].value = agent_widgets.RECORDED
    assert picture.value == png(policy, env, START, texts, 3)
    assert env.play is before  # the environment that was given is left alone
    by_name["turn"].value = len(texts) // 2
    assert list(by_name["play on"].options) == [agent_widgets.NOT_YET]


def test_a_study_shows_games_of_a_method(shown):
    task = ALFWorldTask(PROFILES["smoke"], 0)
    trained = TrainedMethod.cloned(task.new_model(), task.tokenizer)
    task.explorer(trained, {"temperature": 0.5})
    static, widget = shown
    assert len(controls(widget)["game"].options) == 8
    assert static.data == live_picture(widget).value


def test_bad_input_is_named(env, policy, texts, shown):
    with pytest.raises(ValueError, match="turns, got turn 99"):
        aw.draw_room(policy, env, START, texts, 99)
    with pytest.raises(ValueError, match="not of the game"):
        aw.draw_room(policy, env, {"game": "train/4"}, texts)
    with pytest.raises(ValueError, match="1 starts and 0 transcripts"):
        aw.room_explorer(policy, env, [START], [])
    with pytest.raises(ValueError, match="0 starts and 0 transcripts"):
        aw.room_explorer(policy, env, [], [])
    with pytest.raises(ValueError, match="turn must be one of"):
        aw.room_explorer(policy, env, [START], [{"text": texts}], turn=51)
    assert shown == []
