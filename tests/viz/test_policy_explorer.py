"""The explorer of what a policy does with recorded values."""

import io

import matplotlib.pyplot as plt
import numpy as np
import pytest
from explorers import controls, live_picture
from PIL import Image

from qsft_lite.viz import acting, explorers
from qsft_lite.viz.plots import method_color

STATES = ("r0c0\n", "r0c1\n", "r1c0\n")
ACTIONS = ("up\n", "right\n", "down\n")
PI = np.array([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.6, np.nan, 0.4]])
VALUES = {
    "Q-SFT (ours)": np.array([[0.2, 0.9, 0.4], [0.5, 0.1, 0.3], [0.1, np.nan, 0.3]]),
    "CQL": np.array([[0.9, 0.1, 0.1], [0.2, 0.2, 0.2], [0.5, np.nan, -0.1]]),
}


def explore(**changes):
    given = {"behavior": PI, "values": VALUES, "states": STATES, "actions": ACTIONS} | changes
    explorers.policy_explorer(**given)


def bars(figure):
    """Widths of the bars: by the clone, by the acting policy."""
    widths = [bar.get_width() for bar in figure.axes[0].patches]
    half = len(widths) // 2
    return np.array(widths[:half]), np.array(widths[half:])


def drawn(monkeypatch):
    """The figures that the explorer draws from now on, in order."""
    figures = []
    png = explorers._png

    def note(figure):
        figures.append(figure)
        return png(figure)

    monkeypatch.setattr(explorers, "_png", note)
    return figures


def test_the_policy_is_the_formula():
    pi, q = np.array([[0.5, 0.3, 0.2]]), np.array([[0.2, 0.9, 0.4]])
    weights = [0.5 * np.exp(3 * 0.2), 0.3 * np.exp(3 * 0.9), 0.2 * np.exp(3 * 0.4)]
    found = acting.acting_policy(pi, q, 3.0, 0.0)
    np.testing.assert_allclose(found[0], np.array(weights) / sum(weights))
    np.testing.assert_allclose(acting.acting_policy(pi, q, 0.0, 0.0), pi)
    # The share is of the likeliest one's; what is at the edge is in.
    np.testing.assert_allclose(acting.acting_policy(pi, q, 0.0, 0.6), [[0.625, 0.375, 0]])
    np.testing.assert_allclose(acting.acting_policy(pi, q, 2.0**20, 0.0), [[0, 1, 0]])
    np.testing.assert_allclose(acting.acting_policy(pi, q, 2.0**20, 1.0), [[1, 0, 0]])


def test_it_is_the_policy_that_plays():
    torch = pytest.importorskip("torch")
    from qsft_lite.policy.cached import outside_support

    rng = np.random.default_rng(0)
    pi, q = rng.dirichlet(np.ones(6), size=20), rng.random((20, 6))
    log_pi = torch.tensor(pi).log()
    weights = (log_pi + 8 * torch.tensor(q)).masked_fill(outside_support(log_pi, 0.2), -np.inf)
    np.testing.assert_allclose(acting.acting_policy(pi, q, 8.0, 0.2), weights.softmax(-1))


@pytest.mark.parametrize(("beta", "support"), [(0.0, 0.0), (8.0, 0.0), (8.0, 0.5), (2.0**20, 1.0)])
def test_the_bars_are_both_policies(beta, support):
    pi, q = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.9, 0.4])
    figure = acting.draw_policy(pi, q, ACTIONS, beta=beta, support=support)
    clone, act = bars(figure)
    np.testing.assert_allclose(clone, pi)
    np.testing.assert_allclose(act, acting.acting_policy(pi[None], q[None], beta, support)[0])
    gray = [label.get_color() == "#aaaaaa" for label in figure.axes[0].get_yticklabels()]
    assert gray == (pi < support * 0.5).tolist()
    text = "".join(each.get_text() for each in figure.texts)
    assert ("not played" in text) == any(gray)
    assert f"clone {pi @ q:.3f}, acting {act @ q:.3f}" in text
    assert "greedy" in text if beta > 8 else f"β {beta:g}" in text


def test_what_has_no_row_is_counted_together():
    pi, q = np.arange(20, 0, -1) / 210, np.linspace(0, 1, 20)
    names = [f"w{i}" for i in range(20)]
    figure = acting.draw_policy(pi, q, names, beta=32, support=0.0, most=5)
    clone, act = bars(figure)
    assert len(clone) == len(act) == 6
    assert clone.sum() == pytest.approx(1) and act.sum() == pytest.approx(1)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    pi_hat = acting.acting_policy(pi[None], q[None], 32, 0.0)[0]
    share = [max(pi[i] / pi[0], pi_hat[i] / max(pi_hat)) for i in range(20)]
    rows = sorted(sorted(range(20), key=lambda i: -share[i])[:5])  # in pi's order
    assert labels[:5] == [names[i] for i in rows]
    most = max(set(range(20)) - set(rows), key=lambda i: pi_hat[i])
    assert labels[5] == f"15 others, most w{most}"
    none = acting.draw_policy(pi, q, names, beta=32, support=0.9, most=19)
    assert none.axes[0].get_yticklabels()[-1].get_text() == "1 other"


@pytest.mark.parametrize("beta", [0, 8, 64])
def test_who_plays_an_action_most_has_a_row(beta):
    pi, q = np.arange(20, 0, -1) / 210, np.linspace(0, 1, 20)
    names = [f"w{i}" for i in range(20)]
    figure = acting.draw_policy(pi, q, names, beta=beta, support=0.0, most=5)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    best = int(acting.acting_policy(pi[None], q[None], beta, 0.0).argmax())
    assert (best == 0) == (beta == 0)
    assert "w0" in labels[:5] and f"w{best}" in labels[:5]


def test_exact_values_stand_beside():
    pi, q, exact = np.array([0.5, 0.5]), np.array([0.2, 0.9]), np.array([0.3, 0.6])
    figure = acting.draw_policy(pi, q, "ab", beta=0, support=0, exact=exact, exact_name="Q*")
    marks = [line for line in figure.axes[1].lines if line.get_marker() == "|"]
    np.testing.assert_allclose(marks[0].get_xdata(), exact)
    assert "Q*" in figure.axes[1].get_title(loc="left")
    assert "Mean Q* of what is played: clone 0.450, acting 0.450" in figure.texts[-1].get_text()


def test_a_method_has_its_color():
    assert acting.color_of("CQL") == acting.color_of("cql") == method_color("cql")
    assert acting.color_of("Q-SFT (paper), p") == method_color("q_sft_paper")
    assert acting.color_of("Q-SFT, one dummy: p/π") == method_color("q_sft_dummy")
    assert acting.color_of("anything") == method_color("q_sft")


def test_the_static_picture_is_the_live_one_at_rest(shown, capfd):
    explore(beta=8, support=0.2)
    static, widget = shown
    expected = acting.draw_policy(
        PI[0],
        VALUES["Q-SFT (ours)"][0],
        ["up", "right", "down"],
        beta=8.0,
        support=0.2,
        method="Q-SFT (ours)",
        title="1: r0c0",
    )
    assert static.data == live_picture(widget).value == explorers._png(expected)
    assert len(static.alt) > 60
    assert plt.get_fignums() == [] and capfd.readouterr() == ("", "")


def test_every_control_changes_the_picture_and_back(shown):
    explore(exact=VALUES["CQL"], beta=3, support=0.15)
    widget = shown[1]
    at_rest = live_picture(widget).value
    assert {*controls(widget)} == {"state", "values of", "β (sharpness)", "support at play"}
    for description, control in controls(widget).items():
        before = control.value
        values = [o[1] if isinstance(o, tuple) else o for o in control.options]
        assert before in values, description
        control.value = values[-1]
        assert live_picture(widget).value != at_rest, description
        control.value = before
        assert live_picture(widget).value == at_rest, description
    for value in controls(widget)["state"].options:
        controls(widget)["state"].value = value[1]


def test_an_action_that_is_not_there_has_no_row(shown, monkeypatch):
    figures = drawn(monkeypatch)
    explore(state=2, beta=0)
    labels = [label.get_text() for label in figures[-1].axes[0].get_yticklabels()]
    assert labels == ["up", "down"]
    np.testing.assert_allclose(bars(figures[-1])[0], [0.6, 0.4])


def test_each_state_may_have_actions_of_its_own(shown, monkeypatch):
    figures = drawn(monkeypatch)
    texts = [[f"{state.strip()} {action}" for action in "abc"] for state in STATES]
    explore(actions=texts, state=1)
    labels = {label.get_text() for label in figures[-1].axes[0].get_yticklabels()}
    assert labels == {"r0c1 a", "r0c1 b", "r0c1 c"}


def test_one_method_needs_no_chooser(shown):
    explore(values={"CQL": VALUES["CQL"]})
    assert "values of" not in controls(shown[1])
    controls(shown[1])["state"].value = 1


@pytest.mark.parametrize("q", [(-0.4, 1.7), (0.0, 1.0), (0.52, 0.53), (0.5, 0.5), (0.05, 0.1)])
def test_all_values_are_inside(q):
    q, exact = np.array(q), np.array(q) + 0.01
    figure = acting.draw_policy(np.array([0.5, 0.5]), q, "ab", beta=1, support=0, exact=exact)
    low, high = figure.axes[1].get_xlim()
    assert low < q.min() and exact.max() < high
    ticks = figure.axes[1].get_xticks()
    assert ticks[0] <= q.min() and exact.max() <= ticks[-1] and np.ptp(ticks) < np.ptp(q) + 0.12


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"behavior": PI[0]}, r"must be \(states, actions\), got the shape \(3,\)"),
        ({"behavior": -PI}, "must be probabilities"),
        ({"behavior": np.zeros((3, 3))}, "an action in every state"),
        ({"values": {}}, "at least one method"),
        ({"values": {"CQL": PI[:2]}}, r"CQL has the shape \(2, 3\), behavior \(3, 3\)"),
        ({"values": {"CQL": PI * np.nan}}, "CQL is not a number somewhere"),
        ({"exact": PI[:, :2]}, "exact has the shape"),
        ({"states": STATES[:2]}, "a text for each state"),
        ({"actions": ACTIONS[:2]}, "each of its actions"),
        ({"actions": [ACTIONS] * 2}, "each of its actions"),
        ({"beta": -1}, "beta must be 0 or more"),
        ({"beta": np.inf}, "beta must be 0 or more"),
        ({"support": 1.5}, "support 0 to 1, got 16.0 and 1.5"),
        ({"method": "ILQL"}, "method must be one of Q-SFT .*, CQL, got 'ILQL'"),
        ({"state": 3}, "state must be one of 0, 1, 2, got 3"),
    ],
)
def test_bad_input_is_named(changes, message, shown):
    with pytest.raises(ValueError, match=message):
        explore(**changes)
    assert shown == []


def test_a_redraw_draws_once(shown, monkeypatch):
    """Of the picture alone: `savefig` would draw all of it a second time, for a layout."""
    explore()
    count = []
    draw = acting.Figure.draw
    monkeypatch.setattr(
        acting.Figure, "draw", lambda self, renderer: (count.append(1), draw(self, renderer))
    )
    controls(shown[1])["β (sharpness)"].value = 2.0
    assert len(count) == 1


def test_the_picture_has_no_part_cut_off(shown):
    names = ["a very long question that nobody would ask of an object?"] * 30
    pi, q = np.full((1, 30), 1 / 30), np.linspace(0, 1, 30)[None]
    explorers.policy_explorer(pi, {"CQL": q}, ["s"], names)
    picture = np.asarray(Image.open(io.BytesIO(shown[0].data)).convert("L"))
    edges = picture[:, 0], picture[:, -1], picture[0], picture[-1]
    assert all((edge == 255).all() for edge in edges)


def test_texts_are_shown_as_they_are(shown):
    """What looks like mathematics to matplotlib is none."""
    q = {"CQL": np.array([[0.1, 0.2]])}
    explorers.policy_explorer(np.array([[0.5, 0.5]]), q, [r"$\frac$ x"], [r"$\frac$", "$"])
    assert len(shown) == 2
