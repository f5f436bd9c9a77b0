"""The explorers without a browser: what they draw, and that it follows the controls."""

import gc
import io

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import pytest
from explorers import controls, live_picture
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image

from qsft_lite.tabular import bellman_backup, offline, policy_return, q_sft
from qsft_lite.tabular.offline import cloned_policy, empirical_mdp
from qsft_lite.tasks.gridworld import widgets as gridworld
from qsft_lite.tasks.gridworld.widgets import gridworld_explorer
from qsft_lite.viz import explorers as widgets
from qsft_lite.viz import simplex

EXPLORERS = (gridworld_explorer, widgets.simplex_explorer)
DRAWINGS = (gridworld.draw_gridworld, simplex.draw_simplex)
REST = dict(
    beta=20.0, gamma=0.95, episodes=100, leftover="paired", backup="max", score="value", seed=0
)


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


def text_of(figure: Figure) -> str:
    texts = [axes.get_title() for axes in figure.axes]
    return "\n".join(texts + [text.get_text() for text in figure.texts])


# Both explorers


@pytest.mark.parametrize(("explorer", "draw"), list(zip(EXPLORERS, DRAWINGS, strict=True)))
def test_the_static_picture_is_the_live_one_at_rest(explorer, draw, shown, capfd):
    explorer()
    static, widget = shown
    assert static.data == live_picture(widget).value == widgets._png(draw())
    assert static.alt
    assert plt.get_fignums() == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("explorer", EXPLORERS)
def test_every_control_changes_the_picture_and_back(explorer, shown):
    explorer()
    widget = shown[1]
    picture = live_picture(widget)
    at_rest = picture.value
    assert len(controls(widget)) >= 6
    for description, control in controls(widget).items():
        before = control.value
        if isinstance(control, ipywidgets.FloatSlider):
            control.value = control.max if control.value != control.max else control.min
        else:
            values = [o[1] if isinstance(o, tuple) else o for o in control.options]
            control.value = values[0] if values[0] != before else values[1]
        assert not np.array_equal(pixels(picture.value), pixels(at_rest)), description
        control.value = before
        assert picture.value == at_rest, description


@pytest.fixture
def no_collector():
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("explorer", EXPLORERS)
def test_a_redraw_leaves_no_figure_behind(explorer, shown, no_collector):
    explorer()
    gc.collect()
    for value in (1.0, 0.8, 0.9):
        next(iter(controls(shown[1]).values())).value = value
    assert [o for o in gc.get_objects() if type(o) is Figure] == []
    assert not gc.isenabled()


def test_what_a_picture_changes_in_the_controls_draws_nothing_anew(shown):
    control = widgets.choice("count", "count", 1, range(5))
    drawn = []

    def draw(count):
        drawn.append(count)
        control.value = 0  # as a control that is a command goes back to rest
        return Figure(figsize=(1, 1))

    widgets.show_explorer(draw, {"count": control}, "a number")
    control.value = 3
    control.value = 3
    assert drawn == [1, 3, 3]


@pytest.mark.parametrize("explorer", EXPLORERS)
def test_the_controls_are_at_the_start_values(explorer, shown):
    start = {
        gridworld_explorer: dict(
            beta=3, gamma=0.8, episodes=30, leftover="uniform", backup="behavior", score="p"
        ),
        widgets.simplex_explorer: dict(
            behavior=(0.2, 0.5, 0.3), target=(0.1, 0.0, 1.0), leftover="dummy"
        ),
    }[explorer]
    explorer(**start)
    expected = [v for value in start.values() for v in np.ravel(value).tolist()]
    assert [control.value for control in controls(shown[1]).values()] == expected


@pytest.mark.parametrize(
    ("explorer", "start", "message"),
    [
        (gridworld_explorer, {"beta": 101}, r"beta must lie in \[0, 100\], got 101"),
        (gridworld_explorer, {"beta": float("nan")}, "beta must lie in"),
        (gridworld_explorer, {"gamma": 1.0}, r"gamma must lie in \[0.5, 0.99\], got 1.0"),
        (
            gridworld_explorer,
            {"episodes": 7},
            "episodes must be one of 1, 3, 10.*, got 7",
        ),
        (gridworld_explorer, {"leftover": "none"}, "leftover must be one of paired, dummy, uni"),
        (gridworld_explorer, {"score": "q"}, "score must be one of value, p, got 'q'"),
        (widgets.simplex_explorer, {"target": (0.1, 0.2, 1.2)}, r"target must lie in \[0, 1\]"),
        (widgets.simplex_explorer, {"target": (0.1, 0.2)}, "target must have 3 entries"),
        (widgets.simplex_explorer, {"behavior": (1.0, 0.0, 0.0)}, r"behavior must lie in \[0.01"),
        (gridworld.draw_gridworld, {"beta": np.inf}, "beta must be finite, got inf"),
        (gridworld.draw_gridworld, {"episodes": 0}, "episodes must be at least 1, got 0"),
        (gridworld.draw_gridworld, {"gamma": 1.0}, "gamma must be in"),
        (gridworld.draw_gridworld, {"backup": "min"}, "backup must be one of"),
        (gridworld.draw_gridworld, {"backup": "min", "leftover": "dummy"}, "unknown backup 'min'"),
        (gridworld.draw_gridworld, {"leftover": "none"}, "unknown leftover 'none'"),
        (gridworld.draw_gridworld, {"score": "q"}, "unknown score 'q'"),
        (simplex.draw_simplex, {"leftover": "none"}, "leftover must be one of paired, dummy, uni"),
        (simplex.draw_simplex, {"leftover": "dummy"}, "behavior and target must have 2 entries"),
        (simplex.draw_simplex, {"leftover": "paired"}, "behavior and target must have 2 entries"),
        (simplex.draw_simplex, {"behavior": (0.6, 0.3, 0.2)}, "must be positive and sum to 1"),
        (simplex.draw_simplex, {"behavior": (0.6, 0.4, 0.0)}, "must be positive and sum to 1"),
        (simplex.draw_simplex, {"target": (0.6, 0.4, np.nan)}, r"target must lie in \[0, 1\]"),
    ],
)
def test_bad_start_values_are_named(explorer, start, message, shown):
    with pytest.raises(ValueError, match=message):
        explorer(**start)
    assert shown == []


# The gridworld


def test_a_seed_fixes_the_picture():
    draw = gridworld.draw_gridworld
    gridworld._recorded.cache_clear()
    first = widgets._png(draw(episodes=10, seed=1))
    gridworld._recorded.cache_clear()
    assert widgets._png(draw(episodes=10, seed=1)) == first
    assert widgets._png(draw(episodes=10, seed=2)) != first


@pytest.mark.parametrize("draw", DRAWINGS)
def test_a_figure_can_be_saved_again(draw, recwarn):
    figure = draw()
    assert widgets._png(figure) == widgets._png(figure)
    assert len(recwarn) == 0


def test_the_picture_ignores_the_settings_of_the_session():
    first = widgets._png(gridworld.draw_gridworld())
    with plt.rc_context({"font.size": 20, "axes.grid": True, "figure.autolayout": True}):
        assert widgets._png(gridworld.draw_gridworld()) == first


@pytest.mark.parametrize("leftover", ["paired", "dummy", "uniform"])
def test_beta_zero_is_cloning(leftover):
    cloned = gridworld.run_gridworld(**REST | {"beta": 0.0, "leftover": leftover})
    assert cloned.policy_share == pytest.approx(cloned.cloning_share)


def test_the_paired_form_reaches_the_optimum():
    sharp = gridworld.run_gridworld(**REST | {"beta": 1e4})
    assert sharp.policy_share == pytest.approx(1)
    assert np.allclose(sharp.values, sharp.q_star.max(axis=1))


def test_what_the_explorer_is_there_to_show():
    ours = gridworld.run_gridworld(**REST)
    paper = gridworld.run_gridworld(**REST | {"leftover": "uniform"})
    little = gridworld.run_gridworld(**REST | {"episodes": 3})
    assert ours.policy_share > 10 * ours.cloning_share > 0
    assert np.nanmax(ours.values) <= 1 < np.nanmin(paper.values)
    assert little.policy_share < ours.policy_share
    assert np.isnan(little.values).any() and not np.isnan(ours.values).any()


@pytest.mark.parametrize("seed", range(3))
def test_a_maximum_picks_the_noise_of_one_dummys_quotient(seed):
    paired = gridworld.run_gridworld(**REST | {"seed": seed})
    one = gridworld.run_gridworld(**REST | {"seed": seed, "leftover": "dummy"})
    best = paired.q_star.max(axis=1)
    assert np.abs(paired.values - best).max() < 1e-9
    assert (one.values > 1).all() and one.policy_share < 0.5 * paired.policy_share


@pytest.mark.parametrize("leftover", ["paired", "dummy"])
@pytest.mark.parametrize("backup", ["max", "support", "behavior"])
def test_q_is_what_the_records_say(leftover, backup):
    """By plain counting, record by record, given the values of the states that follow."""
    result = gridworld.run_gridworld(**REST | {"leftover": leftover, "backup": backup})
    data, other = gridworld._recorded(100, 0), gridworld._recorded(100, gridworld.OTHER_EPISODES)
    outcomes, visits, other_moves, other_visits = {}, {}, {}, {}
    for state, action, reward, successor in zip(
        data.states, data.actions, data.rewards, data.next_states, strict=True
    ):
        following = 0.0 if successor == offline.ENDED else result.values[successor]
        outcomes.setdefault((state, action), []).append(reward + 0.95 * following)
        visits[state] = visits.get(state, 0) + 1
    for state, action in zip(other.states, other.actions, strict=True):
        other_moves[state, action] = other_moves.get((state, action), 0) + 1
        other_visits[state] = other_visits.get(state, 0) + 1
    for (state, action), ys in outcomes.items():
        q = min(np.mean(ys), 1)
        if leftover == "dummy":
            pi = other_moves.get((state, action), 0) / other_visits[state]
            q = min(len(ys) / visits[state] * q / pi, 1) if pi else -np.inf
        assert result.q[state, action] == pytest.approx(q, abs=1e-9)


@pytest.mark.parametrize("leftover", ["paired", "uniform"])
@pytest.mark.parametrize("backup", ["max", "support", "behavior"])
def test_the_values_shown_are_those_the_target_is_made_of(leftover, backup):
    settings = REST | {"leftover": leftover, "backup": backup, "episodes": 300}
    values = gridworld.run_gridworld(**settings).values
    data = gridworld._recorded(300, 0)
    mdp, behavior = empirical_mdp(data, 0.95), cloned_policy(data)
    fixed_point = q_sft(mdp, behavior, leftover=leftover, backup=backup, support=gridworld.SUPPORT)
    assert np.allclose(bellman_backup(mdp, values).clip(0, 1), fixed_point.target)


@pytest.mark.parametrize("backup", ["max", "support", "behavior"])
def test_one_dummy_whose_noise_cancels_has_the_values_of_the_paired_form(backup):
    data = gridworld._recorded(300, 0)
    mdp, behavior = empirical_mdp(data, 0.95), cloned_policy(data)
    p, residual = gridworld.settle_one_dummy(mdp, behavior, behavior, backup)
    found = q_sft(mdp, behavior, leftover="paired", backup=backup, support=gridworld.SUPPORT)
    assert residual <= 1e-12
    assert np.allclose(p, found.p, atol=1e-10)


def test_shares_are_returns_from_the_start():
    result = gridworld.run_gridworld(**REST)
    mdp = result.maze.mdp
    steps = 9  # counted in the drawing: from S to G along the shortest way
    best = 0.95**steps
    assert result.q_star.max(axis=1) @ mdp.initial == pytest.approx(best)
    assert result.policy_share == pytest.approx(policy_return(mdp, result.policy) / best)


def test_equally_good_actions_share_the_optimal_policy():
    policy = gridworld.optimal_policy(np.array([[0.5, 0.5, 0.1], [0.0, 0.2, 0.1]]))
    assert policy.tolist() == [[0.5, 0.5, 0], [0, 1, 0]]


def test_the_notes_say_what_is_unusual(recwarn):
    def note(**changes):
        return text_of(gridworld.draw_gridworld(**changes))

    assert "White" not in note() and "above 1" not in note() and "settled" not in note()
    assert "White: never visited" in note(episodes=3)
    assert "mean of y" in note() and "π counted in other episodes" in note(leftover="dummy")
    assert "leaked mass" in note(leftover="uniform") and "noise of π" in note(leftover="dummy")
    unsettled = dict(leftover="uniform", backup="support", episodes=10)
    residual = gridworld.run_gridworld(**REST | unsettled).residual
    assert residual > 1e-10, "q_sft now settles here: look for another case"
    assert f"Not settled: targets still move by {residual:.0e}" in note(**unsettled)
    assert len(recwarn) == 0


# The simplex


def brute_force_minimum(pi, y, leftover):
    """Lowest expected loss over a fine grid, in plain Python numbers, and where it lies."""
    steps = 120
    i, j = np.meshgrid(np.arange(1, steps), np.arange(1, steps))
    inside = i + j < steps
    p = np.stack([i[inside], j[inside], steps - i[inside] - j[inside]], axis=1) / steps
    log_p = np.log(p)
    total = 0
    for a, (share, weight) in enumerate(zip(pi, y, strict=True)):
        if leftover == "paired":
            value = p[:, a] / share
            with np.errstate(invalid="ignore", divide="ignore"):
                total = total - share * (weight * np.log(value) + (1 - weight) * np.log(1 - value))
            continue
        if leftover == "dummy":
            rest = log_p[:, 2]
        else:
            rest = sum(log_p[:, b] for b in range(3) if b != a) / 2
        total = total - share * (weight * log_p[:, a] + (1 - weight) * rest)
    reached = np.isfinite(total)
    total, p = total[reached], p[reached]
    return p[total.argmin()], total, p


@st.composite
def problems(draw):
    leftover = draw(st.sampled_from(["uniform", "dummy", "paired"]))
    n_actions = 3 if leftover == "uniform" else 2
    shares = draw(st.lists(st.floats(0.05, 1), min_size=n_actions, max_size=n_actions))
    y = draw(st.lists(st.floats(0.05, 0.95), min_size=n_actions, max_size=n_actions))
    return np.array(shares) / sum(shares), np.array(y), leftover


@settings(max_examples=25)
@given(problems())
def test_the_minimiser_drawn_is_where_the_naive_loss_is_least(problem):
    pi, y, leftover = problem
    best, losses, p = brute_force_minimum(pi, y, leftover)
    assert np.abs(simplex.minimiser(pi, y, leftover) - best).max() < 2 / 120
    assert np.allclose(simplex.expected_loss(p, pi, y, leftover), losses)

    figure = simplex.draw_simplex(behavior=tuple(pi), target=tuple(y), leftover=leftover)
    (star,) = [line for line in figure.axes[0].lines if line.get_marker() == "*"]
    place = best @ simplex.CORNERS
    assert np.abs(star.get_xydata()[0] - place).max() < 2 / 120


def test_the_bars_read_back_the_closed_form():
    pi, y = (0.75, 0.25), (0.25, 0.5)
    for leftover, name in (("paired", "Q = q"), ("dummy", "Q = p/π")):
        axes = simplex.draw_simplex(behavior=pi, target=y, leftover=leftover).axes[2]
        assert np.allclose([bar.get_height() for bar in axes.patches], y)
        (targets,) = [c for c in axes.collections if c.get_label() == "target y"]
        assert np.allclose([ends[:, 1] for ends in targets.get_segments()], [[v, v] for v in y])
        assert name in [text.get_text() for text in axes.get_legend().texts]
    # By hand: p(a) = .5 * .5 + .25 * .5 / 2 + .25 * .5 / 2 = .375, and p(b) = p(c) = .3125.
    bars = simplex.draw_simplex(behavior=(0.5, 0.25, 0.25), target=(0.5, 0.5, 0.5)).axes[2].patches
    assert np.allclose([bar.get_height() for bar in bars], [0.75, 1.25, 1.25])


def test_a_bar_that_is_too_tall_is_broken_and_keeps_its_number():
    def whites_and_top(pi):
        axes = simplex.draw_simplex(behavior=pi, target=(0.3, 0.9, 0.6)).axes[2]
        marks = [line for line in axes.lines if line.get_marker() == "_"]
        assert max(bar.get_height() for bar in axes.patches) <= simplex.TALLEST_BAR
        return sum(len(line.get_xdata()) for line in marks), [t.get_text() for t in axes.texts]

    # p(c) = .1 * .6 + (.6 * .7 + .3 * .1) / 2 = .285: below the cut, no break.
    marks, texts = whites_and_top((0.6, 0.3, 0.1))
    assert marks == 0 and "2.85" in texts
    # p(c) = .05 * .6 + (.6 * .7 + .35 * .1) / 2 = .2575, over .05 is 5.15.
    marks, texts = whites_and_top((0.6, 0.35, 0.05))
    assert marks == 1 and "5.15" in texts


@pytest.mark.parametrize("y", [0.0, 1.0])
@pytest.mark.parametrize("leftover", ["uniform", "dummy", "paired"])
def test_the_edges_of_the_target_can_be_drawn(leftover, y, recwarn):
    n_actions = 3 if leftover == "uniform" else 2
    pi = (0.99, 0.005, 0.005) if leftover == "uniform" else (0.99, 0.01)
    figure = simplex.draw_simplex(behavior=pi, target=(y,) * n_actions, leftover=leftover)
    assert len(widgets._png(figure)) > 10_000
    assert len(recwarn) == 0


def test_the_paired_form_reaches_no_p_above_pi():
    pi = np.array([0.7, 0.3])
    p = simplex._grid(pi, "paired")
    assert np.allclose(p.sum(axis=1), 1) and (p > 0).all()
    assert (p[:, :2] < pi).all() and (p[:, :2].max(axis=0) > 0.99 * pi).all()
    one = simplex.minimiser(pi, np.array([0.3, 0.9]), "dummy")
    assert np.allclose(simplex.minimiser(pi, np.array([0.3, 0.9]), "paired"), one)


@pytest.mark.parametrize("leftover", ["dummy", "paired"])
def test_the_forms_with_dummies_have_no_third_action(leftover, shown):
    widgets.simplex_explorer(leftover=leftover)
    by_name = controls(shown[1])
    picture = live_picture(shown[1])
    third = [by_name["π(c) ∝"], by_name["y(c)"]]
    assert [control.disabled for control in third] == [True, True]
    before = picture.value
    third[0].value = 0.5
    assert picture.value == before
    by_name["leftover"].value = "uniform"
    assert [control.disabled for control in third] == [False, False]
