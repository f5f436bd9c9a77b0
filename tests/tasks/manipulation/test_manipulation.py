"""Pictures, bins, the environment and recorded episodes of the table."""

import copy
import hashlib
import json
import re
import sys
from importlib.util import find_spec

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given
from hypothesis import strategies as st

from qsft_lite import envs
from qsft_lite.data import recording
from qsft_lite.data.images import load_image
from qsft_lite.evaluate import evaluate
from qsft_lite.models.tokenizers import word_tokenizer
from qsft_lite.tasks.manipulation import data, picture
from qsft_lite.tasks.manipulation.bins import ActionBins
from qsft_lite.tasks.manipulation.env import Manipulation
from qsft_lite.tasks.manipulation.players import (
    Script,
    StatePlayer,
    good_plans,
    is_half_way,
    log_chance_of_bins,
    noisy,
)
from qsft_lite.tasks.manipulation.starts import HORIZONS, STARTS, start_tables
from qsft_lite.tasks.manipulation.table import LOWER, NOTHING, OPEN, UPPER
from qsft_lite.tasks.manipulation.text import (
    COLORS,
    instructions,
    is_hidden,
    parts,
    read_states,
    signed_numbers,
    signed_steps,
    state_texts,
)

RIGHT = "x14 y07 z07 a07 b07 c07 g0 s0\n"


def played(task="tray", n=20, steps=0, seed=0, part="whole"):
    """Tables on which a script has played some steps."""
    rng = np.random.default_rng(seed)
    tables = start_tables(task, "prior", n, rng)
    script = Script(task, part, good_plans(tables, rng))
    for _ in range(steps):
        tables.step(noisy(script.act(tables), 0.1, rng))
    return tables


def away(tables):
    """The same with the gripper in the upper right corner, in front of nothing."""
    tables.position[:] = [0.97, 0.97, 0.5]
    return tables


def pixel(image, x, y, z):
    """The color at a point, by the projection that picture.py states."""
    scale = len(image) / 1.04
    row = len(image) - (0.72 * y + 0.62 * z + 0.02) * scale
    return image[int(row), int((x + 0.02) * scale)].astype(int)


# Pictures


@pytest.mark.parametrize("task", HORIZONS)
@pytest.mark.parametrize("size", [48, 63])
def test_a_picture_is_the_same_alone_and_among_others(task, size):
    for steps in (0, 12, 25, 36):
        tables = played(task, steps=steps)
        images = picture.render(tables, size)
        assert images.shape == (20, size, size, 3) and images.dtype == np.uint8
        assert (images == picture.render(tables, size)).all()
        for row in range(20):
            assert (picture.render(tables.take([row]), size)[0] == images[row]).all()


@given(st.lists(st.floats(-0.1, 1.1), min_size=4, max_size=4), st.floats(0, 1))
def test_a_rectangle_covers_each_pixel_as_much_as_fine_points_say(corners, alpha):
    (x0, x1), (y0, y1) = sorted(corners[:2]), sorted(corners[2:])
    canvas = picture.Canvas(1, 16, (0, 0, 0))
    canvas.paint(np.array([0]), x0, x1, y0, y1, (200, 100, 50), alpha)
    fine = (np.arange(16 * 40) + 0.5) / 40 / 16 * 1.04 - 0.02
    across = ((fine >= x0) & (fine < x1)).reshape(16, 40).mean(1)
    down = ((fine >= y0) & (fine < y1)).reshape(16, 40).mean(1)[::-1]
    expected = (down[:, None] * across)[..., None] * [200, 100, 50] * alpha
    np.testing.assert_allclose(canvas.image()[0], expected, atol=12)


@pytest.mark.parametrize("task", HORIZONS)
def test_every_block_shows_its_color_where_it_is_or_is_hidden(task):
    for steps in (0, 20, 30):
        tables = away(played(task, steps=steps))
        tables.holding[:], tables.shut[:] = -1, False
        hidden, images = is_hidden(tables), picture.render(tables, 192)
        for row, block in np.ndindex(hidden.shape):
            color = picture.BLOCK_COLORS[tables.colors[row, block]]
            x, y, z = tables.blocks[row, block]
            same = (np.abs(images[row].astype(int) - color).max(-1) < 12).sum()
            if hidden[row, block]:
                assert same == 0
            elif not (np.abs(tables.blocks[row] - [x, y, z]).max(1) < 0.12).sum() > 1:
                assert np.abs(pixel(images[row], x, y, z + 0.05) - color).max() < 12
                assert same > 100
    if task != "tray":
        assert hidden.sum() < is_hidden(played(task)).sum()  # some drawers were opened meanwhile


def test_what_a_person_looks_for_is_seen():
    tables = away(played("drawer", n=1))
    shut = picture.render(tables, 192)[0]

    def dark(image):
        return (np.abs(image.astype(int) - picture.INSIDE).max(-1) < 12).sum()

    seen = []
    for opened in (0.05, 0.15, OPEN):
        for drawer in (LOWER, UPPER):
            tables.drawers[:] = 0
            tables.drawers[:, drawer] = opened
            seen.append(dark(picture.render(tables, 192)[0]))
    assert dark(shut) < seen[0] < seen[2] < seen[4] and dark(shut) < seen[1] < seen[3] < seen[5]
    assert (np.abs(pixel(shut, 0.78, 0.5, 0) - picture.TRAY) < 12).all()
    assert (np.abs(pixel(shut, 0.6, 0.2, 0) - picture.TABLE) < 12).all()
    assert (np.abs(pixel(shut, 0.27, 0.9, 0.32) - picture.WOOD) < 12).all()
    assert (np.abs(pixel(shut, 0.27, 0.69, 0.08) - picture.BAR) < 40).all()


def test_the_gripper_s_place_height_angles_and_grip_are_seen_at_the_usual_size():
    base = played("tray", n=1)
    base.position[:], base.angles[:] = [0.5, 0.3, 0.3], 0
    images = [picture.render(base)[0]]
    for name, value in [
        ("position", [0.53, 0.3, 0.3]),
        ("position", [0.5, 0.33, 0.3]),
        ("position", [0.5, 0.3, 0.33]),
        ("angles", [0.3, 0, 0]),
        ("angles", [0, 0.3, 0]),
        ("angles", [0, 0, 0.3]),
        ("shut", True),
    ]:
        tables = base.take([0])
        getattr(tables, name)[:] = value
        images.append(picture.render(tables)[0])
    held = base.take([0])
    held.shut[:], held.holding[:], held.blocks[:, 0] = True, 0, base.position
    images.append(picture.render(held)[0])
    for i, image in enumerate(images):
        for other in images[:i]:
            changed = np.abs(image.astype(int) - other).sum(-1) > 30
            assert changed.sum() >= 4
    # Its shadow lies on the table below it, whatever the height.
    shadow = [pixel(picture.render(base, 192)[0], 0.5, 0.3, 0)]
    base.position[:, 2] = 0.5
    shadow.append(pixel(picture.render(base, 192)[0], 0.5, 0.3, 0))
    assert all(color.max() < 0.7 * min(picture.TABLE) for color in shadow)


# Machado et al., 2009, of linear light: who has no red cones, and who has no green ones.
BLIND = {
    "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
}


@pytest.mark.parametrize("kind", BLIND)
def test_the_color_blind_tell_blocks_apart(kind):
    linear = (picture.BLOCK_COLORS / 255) ** 2.2
    seen = 255 * (linear @ np.array(BLIND[kind]).T).clip(0, 1) ** (1 / 2.2)
    gaps = np.abs(seen[:, None] - seen[None]).max(-1)
    assert gaps[~np.eye(len(COLORS), dtype=bool)].min() > 60


def test_a_picture_too_small_is_refused():
    with pytest.raises(ValueError, match="size must be at least 16, got 8"):
        picture.render(played(n=1), 8)


# Bins


def some_actions(n=3000, seed=0):
    rng = np.random.default_rng(seed)
    actions = (rng.standard_normal((n, 8)) * 0.6).clip(-0.9, 0.9)
    actions[:, 3] = rng.choice([-0.2, 0.7], n)
    actions[:, 4] = 0.25
    actions[:, 6:] = np.where(rng.random((n, 2)) < 0.3, 0.9, -0.9) + rng.normal(0, 0.1, (n, 2))
    return actions.clip(-0.9, 0.9)


ALL_BINS = {
    "uniform": ActionBins.uniform(),
    "four": ActionBins.uniform(4),
    "quantiles": ActionBins.fit(some_actions()),
    "fitted uniform": ActionBins.fit(some_actions(), 7, "uniform"),
    "one action": ActionBins.fit(some_actions(1)),
}


@pytest.mark.parametrize("name", ALL_BINS)
@given(data=st.data())
def test_bins_and_texts_and_numbers_lead_back(name, data):
    bins = ALL_BINS[name]
    chosen = np.array([[data.draw(st.integers(0, count - 1)) for count in bins.counts]])
    assert (bins.encode(bins.decode(chosen)) == chosen).all()
    text = bins.write(chosen)[0]
    assert (bins.read(text) == chosen[0]).all()
    assert (bins.read("  " + text.replace(" ", "\t ") + "\n") == chosen[0]).all()
    assert set(f"{word} " for word in text.split()[:-1]) | {text.split()[-1] + "\n"} <= set(
        bins.words
    )


def test_default_bins_are_documented_ones():
    bins = ActionBins.uniform()
    assert bins.counts == (15,) * 6 + (2, 2)
    action = np.array([[1, 0, -1, 0.15, 0, 0, 0.9, -0.9]])
    assert bins.write(bins.encode(action)) == ["x14 y07 z00 a08 b07 c07 g1 s0\n"]
    np.testing.assert_allclose(
        bins.decode(bins.encode(action))[0],
        [14 / 15, 0, -14 / 15, 2 / 15, 0, 0, 0.5, -0.5],
        atol=1e-12,
    )
    assert (bins.encode(np.zeros((1, 8))) == [[7] * 6 + [0, 0]]).all()  # 0 is off, as on the table
    edge = np.array([[-5, 5, 0, 0, 0, 0, 5, -5]])
    assert bins.encode(edge)[0].tolist() == [0, 14, 7, 7, 7, 7, 1, 0]


def test_fitted_bins_are_full_and_their_centers_are_means():
    actions = some_actions()
    bins = ActionBins.fit(actions, 10)
    assert bins.counts[3:] == (2, 1, 10, 2, 2) and max(bins.counts) == 10
    codes = bins.encode(actions)
    for dimension in range(8):
        for code in range(bins.counts[dimension]):
            inside = actions[codes[:, dimension] == code, dimension]
            assert bins.centers[dimension][code] == pytest.approx(inside.mean())
    counts = np.bincount(codes[:, 5])
    assert (counts[1:-1] > 200).all() and (counts[1:-1] < 400).all()
    even = ActionBins.fit(actions, 5, "uniform")
    np.testing.assert_allclose(np.diff(even.edges[0]), 0.36)
    np.testing.assert_allclose(bins.decode(codes), actions, atol=0.6)


def test_bins_are_saved_and_loaded_exactly(tmp_path):
    for name, bins in ALL_BINS.items():
        bins.save(tmp_path / name)
        again = ActionBins.load(tmp_path / name)
        assert again.as_dict() == bins.as_dict()
    for content in (
        "",
        "{}",
        "[1]",
        '{"edges": [[0]], "centers": [[0]]}',
        '{"edges": 3, "centers": 4}',
    ):
        (tmp_path / "bad").write_text(content)
        with pytest.raises(ValueError, match="bad cannot be read"):
            ActionBins.load(tmp_path / "bad")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ActionBins.uniform(1), "at least 2"),
        (lambda: ActionBins.fit(np.zeros((0, 8))), "no action"),
        (lambda: ActionBins.fit(np.full((2, 8), np.nan)), "has nan in place 0"),
        (lambda: ActionBins.fit(np.zeros((2, 7))), r"\(2, 7\)"),
        (lambda: ActionBins.fit(np.zeros((2, 8)), kind="quantile"), "did you mean 'quantiles'"),
        (lambda: ActionBins.uniform().encode(np.full((1, 8), -np.inf)), "has -inf in place 0"),
        (lambda: ActionBins.uniform().decode(np.full((1, 8), 2)), r"below \(15, 15"),
        (lambda: ActionBins.uniform().decode(np.full((1, 8), -1)), "at least 0"),
        (lambda: ActionBins.uniform().decode(np.zeros((1, 8))), "whole numbers"),
        (lambda: ActionBins([[0.0]] * 7, [[-1, 1]] * 7), "8 dimensions, got 7"),
        (lambda: ActionBins([[0.0]] * 8, [[-1, 0, 1]] * 8), "x: 3 centers need one edge fewer"),
        (lambda: ActionBins([[0.0]] * 8, [[1, -1]] * 8), "x: edges must grow"),
        (
            lambda: ActionBins([[0.0]] * 8, [[-1, np.inf]] * 8),
            "x: edges and centers must be finite",
        ),
    ],
)
def test_wrong_bins_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# The environment


@pytest.mark.parametrize("format", ["image", "state"])
def test_steps_together_are_those_one_by_one(format):
    env = Manipulation("tray", format=format)
    envs, others = ([env.clone() for _ in range(4)] for _ in range(2))
    for number, (one, other) in enumerate(zip(envs, others, strict=True)):
        one.reset(seed=number), other.reset(seed=number)
    for action in (RIGHT, "what?\n", RIGHT):
        together = Manipulation.step_together(envs, [action] * 4)
        for found, other in zip(together, others, strict=True):
            alone = other.step(action)
            assert found[:4] == alone[:4] and found[4].keys() == alone[4].keys()
            for name, value in alone[4].items():
                np.testing.assert_array_equal(found[4][name], value)


def test_the_environment_follows_gymnasium_and_the_contract():
    check_env(Manipulation(), skip_render_check=True)
    env = envs.make("manipulation", task="drawer")
    text, info = env.reset(seed=3)
    color = info["instruction"].split()[2]
    assert color in COLORS and env.images is True
    gripper = r"X\d\d Y\d\d Z\d\d A[+-]\d+ B[+-]\d+ C[+-]\d+ open"
    assert re.fullmatch(f"{gripper} take the {color} block out of the drawer <image>\n", text)
    # The same of itself as in words.
    words = Manipulation("drawer", format="state").reset(seed=3)[0]
    assert text.split()[:7] == words.split()[:7]
    assert info["image"].shape == (48, 48, 3) and info["image"].dtype == np.uint8
    assert info["state"].shape == (10,)
    after, reward, terminated, truncated, more = env.step(RIGHT)
    assert after.split()[1:] == text.split()[1:] and after[:3] == "X18" != text[:3]
    assert (reward, terminated, truncated) == (0.0, False, False)
    assert more["valid"] is True and more["success"] is False
    assert more["state"][0] == pytest.approx(info["state"][0] + 0.07 * 14 / 15)
    assert (more["image"] != info["image"]).any()
    assert env.render().shape == (192, 192, 3) and env.render(96).shape == (96, 96, 3)


@pytest.mark.parametrize("task", HORIZONS)
def test_the_seed_decides_the_start_and_options_its_kind(task):
    env = envs.make("manipulation", task=task)
    for kind in STARTS:
        one, again = env.reset(seed=5, options={"start": kind})[1], env.clone()
        other = again.reset(seed=5, options={"start": kind})[1]
        assert (one["image"] == other["image"]).all() and (one["state"] == other["state"]).all()
        assert is_half_way(task, env.table.tables)[0] == (kind == "task")
        assert (env.reset(seed=6, options={"start": kind})[1]["image"] != one["image"]).any()
    by_option = Manipulation(task, start="task").reset(seed=5)[1]
    assert (by_option["state"] == env.reset(seed=5, options={"start": "task"})[1]["state"]).all()


def test_an_episode_ends_at_success_or_at_its_horizon():
    env = Manipulation(max_steps=3)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(RIGHT)
    env.reset(seed=0)
    assert [env.step(RIGHT)[2:4] for _ in range(3)] == [(False, False)] * 2 + [(False, True)]
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(RIGHT)
    env.reset(seed=0, options={"start": "task"})
    env.table.tables.position[:] = [0.78, 0.5, 0.3]
    assert env.step("x07 y07 z07 a07 b07 c07 g1 s0")[1:4] == (0.0, False, False)
    text, reward, terminated, truncated, info = env.step("x07 y07 z07 a07 b07 c07 g0 s0")
    assert (reward, terminated, truncated, info["success"]) == (1.0, True, False, True)
    for task, horizon in HORIZONS.items():
        assert Manipulation(task).max_steps == horizon.whole
    assert [horizon.whole for horizon in HORIZONS.values()] == [60, 80, 80]


@given(st.text() | st.text("xyzabcgs0123456789 \n", max_size=40))
def test_a_text_that_says_nothing_moves_nothing_and_takes_a_step(action):
    env = Manipulation(max_steps=2)
    start = env.reset(seed=1)
    text, reward, *_, info = env.step(action)
    assert info["valid"] is False and reward == 0 and text == start[0]
    assert (info["image"] == start[1]["image"]).all() and (info["state"] == start[1]["state"]).all()
    assert env.step(action)[3]


@pytest.mark.parametrize(
    "action",
    [
        RIGHT.replace("x14", "x15"),
        RIGHT.replace("x14", "x-1"),
        RIGHT.replace("a07", "a7"),
        RIGHT.replace("g0", "g2"),
        RIGHT.replace("x14 y07", "y07 x14"),
        RIGHT + RIGHT,
        RIGHT.replace("x14", "x١٤"),
        RIGHT.upper(),
        "",
        "x14",
    ],
)
def test_nearly_right_actions_are_none(action):
    env = Manipulation()
    env.reset(seed=0)
    assert env.step(action)[4]["valid"] is False


def test_what_is_no_text_is_refused_and_the_episode_goes_on():
    env = Manipulation()
    env.reset(seed=0)
    for action in (None, 3, b"x", [0.0] * 8, np.zeros(8), np.full(8, np.nan)):
        with pytest.raises(TypeError, match="an action is a text, got"):
            env.step(action)
    assert env._steps == 0 and env.step(RIGHT)[4]["valid"]
    drawn = env.np_random.bit_generator.state
    for options, kind in [
        ([("start", "prior")], TypeError),
        ({"start": 1}, TypeError),
        ({"start": ["prior"]}, TypeError),
        ({"start": "x" * 1_000_000}, ValueError),
        ({"start": ""}, ValueError),
        ({"begin": "prior"}, ValueError),
    ]:
        with pytest.raises(kind) as caught:
            env.reset(seed=1, options=options)
        assert "start" in str(caught.value) and len(str(caught.value)) < 600
    assert env.np_random.bit_generator.state == drawn
    assert env.step(RIGHT)[4]["valid"]


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"task": "trays"}, ValueError, "did you mean 'tray'"),
        ({"start": "goal"}, ValueError, "unknown start"),
        ({"format": "images"}, ValueError, "did you mean 'image'"),
        ({"images": False}, ValueError, "needs format='state'"),
        ({"bins": 15}, TypeError, "bins must be ActionBins"),
        ({"size": 4}, ValueError, "size must be at least 16"),
        ({"max_steps": 0}, ValueError, "max_steps"),
        ({"simulator": "mujoco"}, ValueError, "unknown simulator"),
        ({"sise": 48}, ValueError, "did you mean 'size'"),
    ],
)
def test_wrong_options_are_named(options, kind, message):
    with pytest.raises(kind, match=message):
        envs.make("manipulation", **options)


def test_own_bins_write_and_read_the_actions():
    env = Manipulation(bins=ActionBins.uniform(3))
    state = env.reset(seed=0)[1]["state"]
    info = env.step("x2 y1 z1 a1 b1 c1 g0 s0\n")[4]
    assert info["valid"] and info["state"][0] == pytest.approx(state[0] + 0.07 * 2 / 3)
    assert env.step(RIGHT)[4]["valid"] is False


# In words


def test_signed_steps_are_the_same_again_and_grow():
    numbers = np.linspace(-1, 1, 2_001)
    steps = signed_steps(numbers)
    assert (np.diff(steps) >= 0).all() and (steps == -signed_steps(-numbers)).all()
    assert (signed_steps(signed_numbers(steps)) == steps).all()
    assert not signed_numbers(steps)[np.abs(numbers) < 0.007].any()


@pytest.mark.parametrize("task", HORIZONS)
def test_a_state_in_words_says_what_there_is(task):
    for steps in (0, 15, 30):
        tables = played(task, steps=steps)
        texts = state_texts(task, tables)
        again = read_states(texts)
        assert np.abs(again.position - tables.position).max() <= 0.02 + 1e-9
        assert (again.shut == tables.shut).all() and (again.named == 0).all()
        # The named block is written first, the others in their order.
        order = np.argsort(np.arange(3) != tables.named[:, None], axis=1, kind="stable")
        rows = np.arange(len(tables))[:, None]
        assert (again.colors == tables.colors[rows, order]).all()
        whole = np.where(again.holding < 3, order[rows[:, 0], again.holding % 3], again.holding)
        assert (np.where(again.holding == NOTHING, NOTHING, whole) == tables.holding).all()
        way = (tables.blocks - tables.position[:, None])[rows, order]
        error = np.abs(again.blocks - again.position[:, None] - way)
        seen = ~is_hidden(tables)[rows, order]
        assert error[seen & (np.abs(way) < 0.05).all(-1)].max(initial=0) <= 0.0085
        assert error[seen].max() <= 0.1 + 1e-9
        assert np.abs(again.angles - tables.angles).max() <= 0.1 + 1e-9
        assert np.abs(again.drawers - tables.drawers).max() <= 0.01 + 1e-9
        hidden = [text.count("hidden") for text in texts]
        assert hidden == is_hidden(tables).sum(1).tolist()
        for text, told in zip(texts, instructions(task, tables), strict=True):
            assert text.endswith(f" {told}\n")
    with pytest.raises(ValueError, match="is no state in words"):
        read_states(["put the red block on the tray <image>\n"])


@pytest.mark.parametrize("task", HORIZONS)
def test_a_player_by_words_solves_the_whole_task(task):
    env = envs.make("manipulation", task=task, format="state")
    assert env.images is False and "image" not in env.reset(seed=0)[1]
    played = evaluate(StatePlayer(task), env, 40, seed=0)
    assert played.success == played.mean > 0.9 and played.valid == 1
    text = "".join(text for text in played.transcripts[0]["text"])
    assert "<image>" not in text
    tokenizer = word_tokenizer(env.texts)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text and len(ids) == len(text.split())
    known = {word: parts(word) for word in tokenizer.get_vocab() if not word.startswith("<")}
    assert all(known.values()) and sorted({part for own in known.values() for part in own})
    assert set(parts("x04 ")) & set(parts("x05 ")) and not set(parts("x04 ")) & set(parts("X04 "))


def test_pictures_and_words_may_go_together():
    env = Manipulation(format="state", images=True)
    text, info = env.reset(seed=0)
    assert "<image>" not in text and info["image"].shape == (48, 48, 3) and env.images is False


# Recorded episodes


def generate(n, seed=0, **options):
    return envs.generate("manipulation", n, seed, **options)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(data, "BLOCK", 8)


@pytest.mark.parametrize("task", HORIZONS)
def test_an_episode_is_what_the_environment_answers(task, tmp_path, monkeypatch):
    starts = {}

    def remember(task, part, n, rng):
        tables = start_tables(task, part, n, rng)
        starts[part] = tables.take(range(n))
        return tables

    monkeypatch.setattr(data, "start_tables", remember)
    for part in STARTS:
        episodes = generate(6, task=task, parts={part: 1}, path=tmp_path / part, noise=0.2)
        env = Manipulation(task)
        for row, episode in enumerate(episodes):
            assert episode["is_action"] == [i % 2 == 1 for i in range(len(episode["text"]))]
            assert len(episode["images"]) == (len(episode["text"]) + 1) // 2
            env.reset(seed=0)
            env.table.tables = starts[part].take([row])
            images = [load_image(reference) for reference in episode["images"]]
            assert (images[0] == env.table.image(48)).all()
            actions = list(range(1, len(episode["text"]), 2))
            assert 0 < len(actions) <= getattr(HORIZONS[task], part)
            for i in actions:
                text, reward, terminated, _, info = env.step(episode["text"][i])
                assert (text, reward) == (episode["text"][i + 1], episode["reward"][i])
                assert (info["image"] == images[(i + 1) // 2]).all() and info["valid"]
                assert terminated == (episode["done"] and i == actions[-1])


@pytest.mark.parametrize("task", HORIZONS)
def test_no_episode_goes_from_the_prior_s_start_to_the_goal(task):
    """Whoever solves the whole task has put halves together."""
    episodes = generate(600, task=task, format="state")
    tables = read_states([text[0] for text in episodes["text"]])
    half_way = is_half_way(task, tables)
    rewards = np.array([sum(reward) for reward in episodes["reward"]])
    done = np.array(episodes["done"])
    assert 0.4 < half_way.mean() < 0.6
    assert (rewards[~half_way] == 0).all() and not done[~half_way].any()
    assert 0.5 < rewards[half_way].mean() < 0.9  # bad ones among them
    assert (done == (rewards == 1)).all()
    # The prior's episodes reach the half way, often enough and not always.
    last = read_states([text[-1] for text in episodes["text"]])
    assert 0.4 < is_half_way(task, last)[~half_way].mean() < 0.95
    states = [i for i, text in enumerate(episodes["text"]) if not half_way[i]]
    ends = read_states([text for i in states for text in episodes["text"][i][::2]])
    if task != "tray":  # nothing is ever grasped in a drawer
        assert (ends.holding[ends.holding < 100] == -1).all()


def test_shares_of_good_play_and_noise_change_what_is_recorded():
    def success(**options):
        some = generate(200, parts={"task": 1}, format="state", **options)
        return np.mean([sum(reward) for reward in some["reward"]])

    assert success(behavior={"good": 1}) > 0.97 > success() > 0.5
    assert success(behavior={"wander": 1}) < 0.3 and success(behavior={"wrong": 1}) < 0.1
    assert success(behavior={"good": 1}, noise=0.6) < 0.7


def test_episodes_are_the_same_for_any_number_of_processes(small_blocks, tmp_path):
    one = generate(20, 3, path=tmp_path / "one")
    two = generate(20, 3, path=tmp_path / "two", processes=2)
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == sorted(
        [f"{i:05d}.jsonl" for i in range(3)]
        + [f"images-{i:05d}.npy" for i in range(3)]
        + ["settings.json"]
    )
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert one["text"][:] == two["text"][:] != generate(20, 4, path=tmp_path / "other")["text"][:]
    line = json.loads((tmp_path / "one" / "00001.jsonl").read_text().splitlines()[0])
    assert line["images"][:2] == ["images-00001.npy#0", "images-00001.npy#1"]


@pytest.mark.parametrize("killed_at", ["lines", "pictures"])
def test_a_killed_run_goes_on(small_blocks, tmp_path, monkeypatch, killed_at):
    whole = generate(20, 3, path=tmp_path / "whole")
    save, save_array = recording.save_trajectories, np.save

    def save_until(dataset, path):
        if path.name == "00001.jsonl":
            raise KeyboardInterrupt
        save(dataset, path)

    def save_half(file, array, **options):
        if "images-00001" in file.name:
            file.write(b"half of it")
            raise KeyboardInterrupt
        save_array(file, array, **options)

    with monkeypatch.context() as killed:
        if killed_at == "lines":
            killed.setattr(recording, "save_trajectories", save_until)
        else:
            killed.setattr(np, "save", save_half)
        with pytest.raises(KeyboardInterrupt):
            generate(20, 3, path=tmp_path / "killed")
    leftover = tmp_path / "killed" / ".images-00002.npy.99999999"
    leftover.write_bytes(b"of a process that was killed")
    kept = (tmp_path / "killed" / "images-00000.npy").stat().st_mtime_ns
    again = generate(20, 3, path=tmp_path / "killed")
    assert again["text"][:] == whole["text"][:]
    assert (tmp_path / "killed" / "images-00000.npy").stat().st_mtime_ns == kept
    assert not leftover.exists()
    for path in (tmp_path / "whole").iterdir():
        assert (tmp_path / "killed" / path.name).read_bytes() == path.read_bytes()
    with pytest.raises(ValueError, match="noise=0.1, not 0.2"):
        generate(20, 3, path=tmp_path / "killed", noise=0.2)


def test_without_a_path_pictures_go_to_the_cache_by_the_settings(tmp_path, monkeypatch):
    monkeypatch.setattr(data.platformdirs, "user_cache_dir", lambda name: str(tmp_path / name))
    one = generate(3)
    files = {path.name for path in (tmp_path / "qsft_lite" / "manipulation").iterdir()}
    assert len(files) == 1 and str(tmp_path) in one["images"][0][0]
    assert generate(3)["text"][:] == one["text"][:]
    generate(3, noise=0.3), generate(3, 1), generate(3, bins=ActionBins.uniform(5))
    assert len(list((tmp_path / "qsft_lite" / "manipulation").iterdir())) == 4
    assert "images" not in generate(3, format="state").column_names


def test_what_many_episodes_cost_is_said_first(tmp_path, monkeypatch, capsys):
    cost = data.estimate(1000, task="drawer")
    episodes = generate(300, task="drawer", path=tmp_path / "some")
    pictures = sum(map(len, episodes["images"]))
    size = sum(path.stat().st_size for path in (tmp_path / "some").iterdir())
    assert cost.pictures == pytest.approx(pictures / 0.3, rel=0.15)
    assert cost.size == pytest.approx(size / 0.3, rel=0.15) and cost.seconds > 0
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(data, "MANY", 3)
    generate(4, path=tmp_path / "many")
    assert "4 episodes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "trays"}, "did you mean 'tray'"),
        ({"parts": {"priors": 1}}, "did you mean 'prior'"),
        ({"parts": {"prior": 0}}, "parts needs weights"),
        ({"behavior": {"god": 1}}, "did you mean 'good'"),
        ({"noise": -0.1}, "noise must be at least 0"),
        ({"noise": float("nan")}, "noise must be at least 0"),
        ({"format": "text"}, "unknown format"),
        ({"size": 3}, "size must be at least 16"),
        ({"nois": 1}, "did you mean 'noise'"),
    ],
)
def test_wrong_options_of_episodes_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        generate(2, **options)


# Meta-World


def test_without_metaworld_one_is_told_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "metaworld", None)
    monkeypatch.setitem(sys.modules, "metaworld.env_dict", None)
    with pytest.raises(ImportError, match=r'pip install "qsft-lite\[metaworld\]"'):
        envs.make("manipulation", task="push", simulator="metaworld")
    with pytest.raises(ValueError, match="unknown task of metaworld 'tray'"):
        envs.make("manipulation", simulator="metaworld")


@pytest.mark.skipif(find_spec("metaworld") is None, reason="the extra metaworld is not installed")
@pytest.mark.parametrize("task", ["push", "pick_place", "drawer_open"])
def test_metaworld_s_own_scripts_succeed_through_the_words(task):
    from metaworld import policies

    name = "".join(word.capitalize() for word in task.split("_"))
    policy = getattr(policies, f"Sawyer{name}V3Policy")()
    env = envs.make("manipulation", task=task, simulator="metaworld", format="state", images=False)
    with pytest.raises(ValueError, match="the start 'prior' only"):
        env.reset(options={"start": "task"})
    text, info = env.reset(seed=1)
    assert env.reset(seed=1)[0] == text != env.reset(seed=2)[0] and info["state"].shape == (10,)
    tokenizer = word_tokenizer(env.texts)
    over = False
    while not over:
        x, y, z, grip = policy.get_action(env.table.observation).astype(float)
        action = np.array([[x, y, z, 0, 0, 0, grip, -1]])
        text, reward, terminated, truncated, info = env.step(
            env.bins.write(env.bins.encode(action))[0]
        )
        assert info["valid"] and tokenizer(text)["input_ids"]
        over = terminated or truncated
    assert reward == 1 and info["success"]
    assert copy.deepcopy(env.bins).counts == env.clone().bins.counts


def test_episodes_of_another_kind_have_another_version(tmp_path, monkeypatch):
    """If this fails, what an episode says has changed: raise data.VERSION, and set both here."""
    monkeypatch.setattr(data.platformdirs, "user_cache_dir", lambda name: str(tmp_path / name))
    told = hashlib.sha256()
    for task in HORIZONS:
        for format in ("state", "image"):
            games = envs.generate("manipulation", 4, 0, task=task, format=format)
            told.update(json.dumps(games["text"][:]).encode())
        shown = [load_image(one) for images in games["images"] for one in images]
        told.update(np.stack(shown).tobytes())
    assert (data.VERSION, told.hexdigest()[:16]) == (3, "21f633f643d96364")


# How likely a script does what it does


@pytest.mark.parametrize("bins", ["five of one width", "quantiles"])
def test_bins_are_as_likely_as_noise_falls_into_them(bins):
    """Against 4,000 noisy copies of actions, for each number of an action."""
    rng = np.random.default_rng(0)
    if bins == "quantiles":  # whose edges come close to where actions are cut
        bins = ActionBins.fit(noisy(rng.uniform(-1, 1, (500, 8)), 0.1, rng), 6)
    else:
        bins = ActionBins.uniform(5)
    actions = rng.uniform(-1, 1, (3, 8))
    many = bins.encode(noisy(np.repeat(actions, 4_000, axis=0), 0.2, rng)).reshape(3, 4_000, 8)
    for dimension, count in enumerate(bins.counts):
        # Of the others there is one bin, which nothing misses.
        sure = ActionBins(
            [edge if i == dimension else np.zeros(0) for i, edge in enumerate(bins.edges)],
            [center if i == dimension else [0.0] for i, center in enumerate(bins.centers)],
        )
        chances = np.zeros((3, count))
        for bin in range(count):
            chosen = np.zeros((3, 8), dtype=np.int64)
            chosen[:, dimension] = bin
            chances[:, bin] = np.exp(log_chance_of_bins(actions, 0.2, sure, chosen))
        assert chances.sum(1) == pytest.approx(1)
        for row in range(3):
            often = np.bincount(many[row, :, dimension], minlength=count) / 4_000
            assert often == pytest.approx(chances[row], abs=0.035)


def test_without_noise_a_script_is_sure_of_what_it_does():
    for bins in (ActionBins.uniform(), ActionBins.uniform(4)):  # 4 have an edge at 0
        assert data.script_cross_entropy(20, 3, noise=0.0, bins=bins) == 0
    little, much = (data.script_cross_entropy(20, 3, noise=noise) for noise in (0.1, 0.3))
    assert 0 < little < much < np.sum(np.log(ActionBins.uniform().counts))


def test_the_actions_that_are_counted_are_those_of_the_episodes(monkeypatch):
    counted = []
    own = data.log_chance_of_bins

    def watched(actions, noise, bins, chosen):
        counted.extend(bins.write(chosen))
        return own(actions, noise, bins, chosen)

    monkeypatch.setattr(data, "log_chance_of_bins", watched)
    data.script_cross_entropy(30, 5, task="drawer")
    games = data.generate_manipulation(30, 5, task="drawer", format="state")
    done = [text for texts in games["text"] for text in texts[1::2]]
    assert sorted(counted) == sorted(done)
