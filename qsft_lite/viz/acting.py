"""What a policy does with the clone's probabilities and the values: pi * exp(beta * score)."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import blended_transform_factory

from qsft_lite.tabular import extract_policy
from qsft_lite.viz import plots

ROW = 0.3  # inches
TOP, BOTTOM = 1.05, 0.62  # inches for titles and notes
LONGEST = 34  # characters of an action's text
GREEDY = 2.0**20  # a beta of this or more plays the action of largest score


def acting_policy(
    behavior: np.ndarray, score: np.ndarray, beta: float, support: float
) -> np.ndarray:
    """pi_hat (S, A), of behavior (S, A) and score (S, A): pi * exp(beta * score), normalised.

    Only actions with pi >= support * max_b pi(b) are played. Scores of the others are ignored.
    """
    return extract_policy(np.where(_supported(behavior, support), behavior, 0.0), score, beta)


def _supported(behavior: np.ndarray, support: float) -> np.ndarray:
    """Which actions (..., A) have at least this share of the likeliest one's probability."""
    least = support * behavior.max(axis=-1, keepdims=True)
    return behavior >= least * (1 - 1e-9)  # the likeliest is in, whatever the rounding


def draw_policy(
    behavior: np.ndarray,
    score: np.ndarray,
    actions: Sequence[str],
    *,
    beta: float,
    support: float,
    method: str = "q_sft",
    exact: np.ndarray | None = None,
    exact_name: str = "exact Q",
    most: int = 12,
    title: str = "",
) -> Figure:
    """The probabilities of a state's actions by the clone and by the acting policy, and values.

    behavior, score, exact: (A,), of the actions that there are. The `most` actions that the clone
    or the acting policy plays most have a row each, in the clone's order, the others one together,
    with the largest of their values. Below is what both policies are worth by these values, and by
    the exact ones where they are given. method: key or title of the method whose values they are,
    for its color, as of `color_of`. The figure belongs to no window and needs no closing.
    """
    pi = behavior / behavior.sum()
    pi_hat = acting_policy(pi[None], score[None], beta, support)[0]
    inside = _supported(pi, support)
    order = np.argsort(-pi, kind="stable")
    # Beside the favourite of each, so that both favourites have a row.
    share = np.maximum(pi / pi.max(), pi_hat / pi_hat.max())
    played_most = np.argsort(-share, kind="stable")[:most]
    is_shown = np.isin(order, played_most)
    shown, others = order[is_shown], order[~is_shown]
    count = len(shown) + bool(len(others))
    color, gray = color_of(method), plots.method_color("bc")
    height = TOP + BOTTOM + ROW * max(count, 4)
    with plots.figure((10.5, height), fixed=True) as figure:
        panels = [
            figure.add_axes((left, BOTTOM / height, width, 1 - (TOP + BOTTOM) / height))
            for left, width in ((0.26, 0.38), (0.68, 0.3))
        ]
        rows = np.arange(count)
        sums = [_with_the_rest(each, shown, others) for each in (pi, pi_hat)]
        _draw_probabilities(panels[0], *sums, color, gray)
        if support > 0:
            panels[0].axvline(support * pi.max(), color="black", linewidth=1, linestyle=":")
        said = score if exact is None else np.concatenate([score, exact])
        # Values of a state often lie close together, and their differences decide.
        low, high = np.floor(20 * said.min()) / 20, np.ceil(20 * said.max() + 1e-9) / 20
        _draw_scores(panels[1], score[shown], color, low, max(high, low + 0.05))
        if exact is not None:
            panels[1].plot(exact[shown], rows[: len(shown)], "|k", markersize=12, mew=2)
        texts = [textwrap.shorten(actions[i], LONGEST, placeholder="…") for i in shown]
        if len(others):
            _draw_rest(panels[1], len(shown), score[others], color)
            texts.append(_name_of_the_rest(actions, others, pi_hat))
        for axes in panels:
            axes.set(ylim=(max(count, 4) - 0.45, -0.55))
            axes.grid(axis="y", visible=False)
        played = [*inside[shown], *([inside[others].any()] if len(others) else [])]
        panels[0].set_yticks(rows, texts, fontsize=10, parse_math=False)
        panels[1].set_yticks([])
        for label, there in zip(panels[0].get_yticklabels(), played, strict=True):
            label.set_color("black" if there else "#aaaaaa")
        value_title = "value q" if exact is None else f"value q, and | {exact_name}"
        panels[1].set_title(value_title, fontsize=11, loc="left")
        _write(figure, height, title, beta, support, color, gray)
        worth = _worth("q", pi, pi_hat, score)
        if exact is not None:
            worth += "   " + _worth(exact_name, pi, pi_hat, exact)
        if not inside.all():
            worth += "   Grey names: not played."
        figure.text(0.01, 0.13 / height, worth, fontsize=10, color="#555555")
    return figure


def color_of(method: str) -> str:
    """The color of a method by its key or title, also of "title: more" and "title, more".

    Any other name has the color of the policy of Q-SFT.
    """
    for name in (method, method.partition(":")[0], method.partition(",")[0]):
        try:
            return plots.method_color(name)
        except KeyError:
            continue
    return plots.method_color("q_sft")


def beta_text(beta: float) -> str:
    """A beta as a text; a very large one is "greedy"."""
    return "greedy" if beta >= GREEDY else f"{beta:g}"


def _with_the_rest(shares: np.ndarray, shown: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The shares of the shown actions, and of all others together if there are any."""
    return np.append(shares[shown], shares[others].sum() if len(others) else [])


def _draw_probabilities(
    axes: Axes, pi: np.ndarray, pi_hat: np.ndarray, color: str, gray: str
) -> None:
    rows = np.arange(len(pi))
    for shares, shift, fill in ((pi, -0.2, gray), (pi_hat, 0.2, color)):
        axes.barh(rows + shift, shares, 0.36, color=fill)
        for row in np.flatnonzero(shares >= 0.005):
            style = {"va": "center", "fontsize": 8, "color": "#444444"}
            axes.text(shares[row] + 0.01, row + shift, f"{shares[row]:.0%}", **style)
    axes.set(xlim=(0, 1.12))
    axes.set_xticks([0, 0.5, 1], ["0", ".5", "1"], fontsize=10)


def _name_of_the_rest(actions: Sequence[str], others: np.ndarray, pi_hat: np.ndarray) -> str:
    """How many they are, and the one that is played most, if any is."""
    text = "1 other" if len(others) == 1 else f"{len(others)} others"
    if pi_hat[others].sum() >= 0.005:
        text += f", most {actions[others[pi_hat[others].argmax()]]}"
    return textwrap.shorten(text, LONGEST, placeholder="…")


def _draw_scores(axes: Axes, score: np.ndarray, color: str, low: float, high: float) -> None:
    axes.hlines(np.arange(len(score)), low, high, color="#dddddd", linewidth=1)
    axes.plot(score, np.arange(len(score)), "o", color=color, markersize=6)
    for row, value in enumerate(score):
        _write_at_the_edge(axes, row, f"{value:.3f}")
    edge = 0.04 * (high - low)
    axes.set_xlim(low - edge, high + 5 * edge)  # numbers stand where no dot is
    ticks = np.linspace(low, high, 3)
    axes.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks], fontsize=10)


def _write_at_the_edge(axes: Axes, row: int, text: str) -> None:
    """Write a number to the right of all dots."""
    place = blended_transform_factory(axes.transAxes, axes.transData)
    axes.text(0.89, row, text, va="center", ha="left", fontsize=9, transform=place)


def _draw_rest(axes: Axes, row: int, score: np.ndarray, color: str) -> None:
    style = {"color": color, "markersize": 6, "markerfacecolor": "white"}
    axes.plot(score.max(), row, "o", **style)
    _write_at_the_edge(axes, row, f"≤ {score.max():.3f}")


def _write(
    figure: Figure,
    height: float,
    title: str,
    beta: float,
    support: float,
    color: str,
    gray: str,
) -> None:
    shown = textwrap.shorten(title, 110, placeholder="…")
    figure.text(0.01, 1 - 0.3 / height, shown, fontsize=12, weight="bold", parse_math=False)
    line = 1 - 0.72 / height
    figure.text(0.26, line, "clone π", fontsize=11, color="#777777", weight="bold")
    text = f"acting π̂ ∝ π exp(β q),  β {beta_text(beta)},  support {support:g}"
    figure.text(0.35, line, text, fontsize=11, color=color, weight="bold")


def _worth(name: str, pi: np.ndarray, pi_hat: np.ndarray, values: np.ndarray) -> str:
    """What both policies are worth by these values."""
    return f"Mean {name} of what is played: clone {pi @ values:.3f}, acting {pi_hat @ values:.3f}."
