"""The rules of the table against a twin of plain ifs, the starts, and what is success."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from table_twin import Twin

from qsft_lite.tasks.manipulation.players import (
    Script,
    good_plans,
    is_half_way,
    noisy,
    success_rate,
)
from qsft_lite.tasks.manipulation.starts import HORIZONS, STARTS, is_success, start_tables
from qsft_lite.tasks.manipulation.table import (
    LOWER,
    LOWER_HANDLE,
    NOTHING,
    OPEN,
    UPPER,
    Tables,
    uniform,
)
from qsft_lite.tasks.manipulation.text import is_hidden

NUMBER = st.floats(-1.5, 1.5, allow_nan=False)
ACTION = st.lists(NUMBER, min_size=8, max_size=8)


def start(task="tray", kind="prior", n=1, seed=0) -> Tables:
    return start_tables(task, kind, n, np.random.default_rng(seed))


def act(tables, **numbers):
    """One action for all tables: the named numbers, the others 0, and an open gripper."""
    names = ("x", "y", "z", "a", "b", "c", "grip", "stop")
    action = {"grip": -1, "stop": -1, **numbers}
    tables.step(np.tile([float(action.get(name, 0)) for name in names], (len(tables), 1)))


def assert_same(tables, row, twin):
    held = LOWER_HANDLE + twin.handle if twin.handle is not None else twin.block
    assert tables.holding[row] == (NOTHING if held is None else held)
    assert tables.shut[row] == twin.shut and tables.steps[row] == twin.steps
    inside = [NOTHING if drawer is None else drawer for drawer in twin.inside]
    assert tables.inside[row].tolist() == inside
    for name in ("position", "angles", "blocks", "drawers"):
        np.testing.assert_allclose(getattr(tables, name)[row], getattr(twin, name), atol=1e-12)


@given(st.sampled_from(list(HORIZONS)), st.sampled_from(STARTS), st.integers(0, 2**32), st.data())
def test_a_table_goes_as_its_twin_by_any_actions(task, kind, seed, data):
    tables = start(task, kind, seed=seed)
    twin = Twin(tables)
    for action in data.draw(st.lists(ACTION, max_size=12)):
        tables.step(np.array([action]))
        twin.step(action)
        assert_same(tables, 0, twin)


@settings(max_examples=15)
@given(
    st.sampled_from(list(HORIZONS)),
    st.sampled_from(STARTS),
    st.sampled_from([0.1, 0.4, 1.0]),
    st.integers(0, 2**32),
)
def test_tables_go_as_their_twins_where_scripts_lead_them(task, kind, noise, seed):
    """Scripts grasp, carry, drop, pull and push; noise brings them to every corner."""
    rng = np.random.default_rng(seed)
    tables = start_tables(task, kind, 6, rng)
    script = Script(task, "whole", good_plans(tables, rng))
    twins = [Twin(tables, row) for row in range(6)]
    for _ in range(HORIZONS[task].whole):
        actions = script.act(tables) + noise * rng.standard_normal((6, 8))
        tables.step(actions)
        for row, twin in enumerate(twins):
            twin.step(actions[row])
            assert_same(tables, row, twin)


@settings(max_examples=15)
@given(st.sampled_from(list(HORIZONS)), st.integers(0, 2**32))
def test_what_always_holds(task, seed):
    rng = np.random.default_rng(seed)
    tables = start_tables(task, "prior", 20, rng)
    script = Script(task, "whole", good_plans(tables, rng))
    for _ in range(HORIZONS[task].whole):
        before = tables.take(range(20))
        tables.step(noisy(script.act(tables), 0.5, rng))
        assert (np.abs(tables.position - before.position) <= 0.14 + 1e-12).all()  # or pushed back
        floor = tables.below(tables.position)[1] + 0.05
        hooked = tables.holding >= LOWER_HANDLE
        assert (hooked | (floor <= tables.position[:, 2] + 1e-12)).all()
        assert ((tables.drawers >= 0) & (tables.drawers <= OPEN)).all()
        rows, held = tables.held_blocks()
        assert (tables.blocks[rows, held] == tables.position[rows]).all()
        assert tables.shut[tables.holding != NOTHING].all()
        # Nothing moves that was neither touched nor in a drawer that moved.
        free = np.ones((20, 3), dtype=bool)
        for some in (before, tables):
            rows, held = some.held_blocks()
            free[rows, held] = False
        free &= tables.inside == NOTHING
        assert (tables.blocks == before.blocks)[free].all()


@pytest.mark.parametrize("task", HORIZONS)
def test_many_tables_go_as_each_alone(task):
    rng = np.random.default_rng(3)
    tables = start_tables(task, "prior", 20, rng)
    alone = [tables.take([row]) for row in range(20)]
    script = Script(task, "whole", good_plans(tables, rng))
    for _ in range(HORIZONS[task].whole):
        actions = noisy(script.act(tables), 0.2, rng)
        tables.step(actions)
        for row, one in enumerate(alone):
            one.step(actions[row : row + 1])
    for row, one in enumerate(alone):
        for name, value in vars(one).items():
            assert (getattr(tables, name)[row] == value[0]).all(), name


# Single rules


def test_a_drawer_is_pulled_by_its_handle_with_what_is_in_it_and_pushed_shut():
    tables = start("drawer")
    tables.position[:] = tables.handle(LOWER)
    inside = np.flatnonzero(tables.inside[0] == LOWER)
    before = tables.blocks[0].copy()
    assert len(inside) == 2 and is_hidden(tables)[0, inside].all()
    act(tables, grip=1)
    assert tables.holding[0] == LOWER_HANDLE
    for _ in range(6):
        act(tables, y=-1, x=1, z=1, grip=1)
    np.testing.assert_allclose(tables.drawers[0], [OPEN, 0])
    np.testing.assert_allclose(tables.position[0, [0, 2]], [0.27, 0.08])  # it holds on
    np.testing.assert_allclose(before[inside, 1] - tables.blocks[0, inside, 1], OPEN)
    assert not is_hidden(tables).any()
    act(tables)  # lets go
    for _ in range(9):
        act(tables, y=1)
    np.testing.assert_allclose(tables.drawers[0], [0, 0], atol=1e-12)
    np.testing.assert_allclose(tables.blocks[0], before, atol=1e-12)


@pytest.mark.parametrize("axis", range(3))
def test_a_handle_is_held_only_from_near(axis):
    for beside, can in [(0.99, True), (1.01, False), (-0.99, True), (-1.01, False)]:
        if axis == 1 and beside > 0:
            continue  # the drawer is there
        tables = start("drawer")
        tables.position[:] = tables.handle(UPPER)
        tables.position[0, axis] += beside * [0.1, 0.05, 0.05][axis]
        before = tables.position.copy()
        act(tables, grip=1)
        assert (tables.position == before).all()
        assert (tables.holding[0] == LOWER_HANDLE + UPPER) == can


def test_the_lower_drawer_is_out_of_reach_while_the_upper_one_is_open():
    rng = np.random.default_rng(0)
    tables = start_tables("shut_drawer", "prior", 200, rng)
    tables.position[:] = rng.uniform([0.03, 0.03, 0.36], [0.97, 0.97, 0.5], (200, 3))
    for _ in range(60):  # from above, from the sides and from the front
        actions = rng.uniform(-1, 1, (200, 8))
        actions[:, :3] += (tables.handle(LOWER) - tables.position) / 0.07
        actions[:, 1] = np.where(tables.drawers[:, UPPER] < 0.2, -1, actions[:, 1])
        actions[:, 7] = -1
        tables.drawers[:, UPPER] = np.maximum(tables.drawers[:, UPPER], 0.2)
        tables.step(actions)
        assert (tables.holding != LOWER_HANDLE).all() and (tables.drawers[:, LOWER] == 0).all()


def test_walls_stop_what_is_lower_and_floors_carry():
    tables = start("drawer")
    tables.position[:] = [0.27, 0.6, 0.2]
    for _ in range(5):
        act(tables, y=1)
    assert tables.position[0, 1] < 0.72 and (tables.drawers == 0).all()
    tables.position[:] = [0.27, 0.8, 0.5]
    for _ in range(5):
        act(tables, z=-1)
    assert tables.position[0, 2] == pytest.approx(0.37)


def test_a_block_is_grasped_only_near_and_at_its_height_and_by_chance_when_beside():
    def grasped(beside, height, tilt=0.0, n=2000):
        tables = start(n=n, seed=1)
        tables.position[:] = tables.blocks[np.arange(n), tables.named] + [beside, 0, height]
        tables.angles[:, :2] = tilt
        act(tables, grip=1)
        return (tables.holding == tables.named).mean()

    assert grasped(0, 0) == grasped(0.017, 0.05) == 1
    assert grasped(0, 0.07) == grasped(0.07, 0) == 0
    assert grasped(0.048, 0) == pytest.approx(0.5, abs=0.05)
    assert grasped(0, 0, tilt=1.0) == pytest.approx(0.8, abs=0.05)
    assert grasped(0.03, 0, tilt=-0.4) == pytest.approx(0.6, abs=0.05)


def test_a_block_falls_where_it_is_let_go_and_counts_on_the_tray():
    tables = start("tray", "task", n=2)
    tables.position[:] = [[0.78, 0.5, 0.4], [0.4, 0.2, 0.4]]
    act(tables, grip=1)
    assert not is_success("tray", tables).any()  # held above it
    act(tables)
    assert is_success("tray", tables).tolist() == [True, False]
    np.testing.assert_allclose(tables.blocks[np.arange(2), tables.named, 2], 0.05)


def test_a_stop_goes_home_and_keeps_what_is_held():
    tables = start("tray", "task")
    for _ in range(12):
        act(tables, stop=1, x=-1, grip=-1, a=1)
    np.testing.assert_allclose(tables.position[0], [0.5, 0.3, 0.4])
    assert (tables.angles == 0).all() and tables.holding[0] == tables.named[0]


def test_the_state_is_what_its_numbers_say():
    tables = start("tray", "task", n=3)
    state = tables.state()
    assert state.shape == (3, 10) and state.dtype == np.float64
    np.testing.assert_array_equal(state[:, :3], tables.position)
    np.testing.assert_array_equal(state[:, 3:6], tables.angles)
    assert (state[:, 6:] == [0.5, 0.5, 0, 1]).all()
    act(tables)
    assert (tables.state()[:, 6:] == [1, 1, 1, 0]).all()
    tables.position[:] = [0.5, 0.3, 0.45]
    act(tables, grip=1)
    assert (tables.state()[:, 6:] == [0, 0, 0, 0]).all()
    tables = start("drawer")
    tables.position[:] = tables.handle(UPPER)
    act(tables, grip=1)
    assert (tables.state()[:, 6:] == [0.25, 0.25, 0, 1]).all()


def test_chances_are_even():
    numbers = uniform(np.arange(200_000, dtype=np.uint64), np.arange(200_000) % 50)
    assert ((numbers >= 0) & (numbers < 1)).all()
    counts, _ = np.histogram(numbers, 20, (0, 1))
    assert (np.abs(counts - 10_000) < 500).all()


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (np.zeros(8), r"shape \(2, 8\), got \(8,\)"),
        (np.zeros((3, 8)), r"shape \(2, 8\), got \(3, 8\)"),
        (np.zeros((2, 7)), r"shape \(2, 8\)"),
        (np.array([[0.0] * 8, [0, 0, np.nan, 0, 0, 0, 0, 0]]), "action 1 has nan in place 2"),
        (np.full((2, 8), np.inf), "action 0 has inf in place 0"),
    ],
)
def test_hostile_actions_are_refused_and_change_nothing(actions, message):
    tables = start(n=2)
    before = tables.take([0, 1])
    with pytest.raises(ValueError, match=message):
        tables.step(actions)
    for name, value in vars(before).items():
        assert (getattr(tables, name) == value).all()


# Starts, and scripts


@pytest.mark.parametrize("task", HORIZONS)
@pytest.mark.parametrize("kind", STARTS)
def test_starts_are_drawn_by_the_seed_and_are_what_they_are_called(task, kind):
    tables, again = start(task, kind, 500, 7), start(task, kind, 500, 7)
    other = start(task, kind, 500, 8)
    assert (tables.blocks == again.blocks).all() and (tables.blocks != other.blocks).any()
    assert not is_success(task, tables).any()
    assert (
        is_half_way(task, tables).all() if kind == "task" else not is_half_way(task, tables).any()
    )
    assert set(np.unique(tables.colors[np.arange(500), tables.named])) == {0, 1, 2, 3}
    assert set(np.unique(tables.named)) == {0, 1, 2}
    assert all(len(set(row)) == 3 for row in tables.colors.tolist())
    gaps = np.abs(tables.blocks[:, :, None] - tables.blocks[:, None])[..., :2].max(-1)
    assert (gaps[:, ~np.eye(3, dtype=bool)] > 0.1).all() or kind == "task"  # they do not overlap
    floor = tables.below(tables.position)[1]
    assert (tables.position[:, 2] >= floor + 0.05 - 1e-12).all()
    hidden = is_hidden(tables).sum(1)
    assert (hidden == (2 if task != "tray" and kind == "prior" else 0)).all()
    assert ((tables.drawers[:, UPPER] > 0) == (task == "shut_drawer" and kind == "prior")).all()


def test_unknown_tasks_and_starts_are_named():
    with pytest.raises(ValueError, match="did you mean 'tray'"):
        start("trays")
    with pytest.raises(ValueError, match="did you mean 'prior'"):
        start("tray", "priors")


# Success of the scripts without faults at noise 0, .1, .3 and .5: (least, most).
SCRIPTS = {
    ("tray", "whole"): [(1, 1), (0.98, 1), (0.98, 1), (0.6, 0.85)],
    ("tray", "prior"): [(1, 1), (0.98, 1), (0.75, 0.95), (0.1, 0.35)],
    ("tray", "task"): [(1, 1), (0.98, 1), (0.9, 1), (0.5, 0.8)],
    ("drawer", "whole"): [(1, 1), (0.98, 1), (0.98, 1), (0.6, 0.85)],
    ("drawer", "prior"): [(1, 1), (0.98, 1), (0.85, 1), (0.15, 0.4)],
    ("drawer", "task"): [(1, 1), (0.98, 1), (0.75, 0.95), (0.05, 0.3)],
    ("shut_drawer", "whole"): [(1, 1), (0.98, 1), (0.95, 1), (0.3, 0.6)],
    ("shut_drawer", "prior"): [(1, 1), (0.98, 1), (0.95, 1), (0.7, 0.9)],
    ("shut_drawer", "task"): [(1, 1), (0.98, 1), (0.75, 0.95), (0.05, 0.3)],
}


@pytest.mark.parametrize(("task", "part"), SCRIPTS)
def test_scripts_reach_their_end_as_often_as_their_noise_lets_them(task, part):
    for noise, (least, most) in zip((0, 0.1, 0.3, 0.5), SCRIPTS[task, part], strict=True):
        assert least <= success_rate(task, part, 300, 0, noise=noise) <= most, noise


@pytest.mark.parametrize("task", HORIZONS)
def test_the_halves_fit_together(task):
    """Who plays the prior's half, and then the other one, solves the whole task in its time."""
    rng = np.random.default_rng(0)
    tables = start_tables(task, "prior", 200, rng)
    plans = good_plans(tables, rng)
    halves = Script(task, "prior", plans), Script(task, "task", plans)
    won = np.zeros(200, dtype=bool)
    for _ in range(HORIZONS[task].whole):
        past = (tables.steps >= HORIZONS[task].prior)[:, None]
        first, second = (half.act(tables) for half in halves)
        tables.step(noisy(np.where(past, second, first), 0.1, rng))
        won |= is_success(task, tables)
    assert won.mean() > 0.97
