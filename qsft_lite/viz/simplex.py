"""The loss of Q-SFT over the probability simplex of three tokens, and where its minimum lies.

With leftover="uniform" (Eq. 3) the three tokens are the actions a, b and c. With leftover="dummy"
they are the actions a and b, and the dummy.
"""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure
from matplotlib.tri import Triangulation

from qsft_lite.loss import q_sft_loss
from qsft_lite.tabular import Leftover, q_sft_probabilities
from qsft_lite.viz import plots

CORNERS = np.array([(0.0, 0.0), (1.0, 0.0), (0.5, np.sqrt(0.75))])
LEVELS = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)  # of the loss above its minimum, in nats
GRID = 70  # steps of the grid along an edge
METHOD_COLORS = {"dummy": plots.method_color("q_sft"), "uniform": plots.method_color("q_sft_paper")}
TALLEST_BAR = 2.0  # a larger p/pi is cut off, with its number on top


def expected_loss(
    p: np.ndarray, behavior: np.ndarray, target: np.ndarray, leftover: Leftover
) -> np.ndarray:
    """E over a ~ behavior of the Q-SFT loss at action a with weight target(a), in nats.

    p: (N, V) probabilities of all tokens, positive. behavior, target: (A,) of the actions, which
    come first among the tokens; the dummy, where there is one, is the last. Returns (N,).
    """
    n, n_actions = len(p), len(behavior)
    losses = q_sft_loss(
        torch.tensor(np.log(p))[:, None].expand(n, n_actions, -1),
        torch.arange(n_actions).expand(n, n_actions),
        torch.tensor(target, dtype=torch.float64).expand(n, n_actions),
        leftover=p.shape[1] - 1 if leftover == "dummy" else "uniform",
        reduction="none",
    )
    return losses.numpy() @ behavior


def minimiser(behavior: np.ndarray, target: np.ndarray, leftover: Leftover) -> np.ndarray:
    """The probabilities of least expected loss, of all tokens, from the closed form."""
    p, dummy = q_sft_probabilities(behavior[None], target[None], leftover)
    return np.append(p[0], dummy) if leftover == "dummy" else p[0]


def draw_simplex(
    *,
    behavior: tuple[float, ...] = (0.6, 0.3, 0.1),
    target: tuple[float, ...] = (0.3, 0.9, 0.6),
    leftover: Leftover = "uniform",
) -> Figure:
    """Left the loss over the simplex, right p/pi, the value read back, beside the target y.

    behavior, target: pi and y of the actions, three for "uniform" and two for "dummy". The figure
    belongs to no window and needs no closing.

    Raises ValueError for an unknown leftover, the wrong number of actions, a behavior that is not
    positive or does not sum to 1, or a target outside [0, 1].
    """
    if leftover not in plots.FORMS:
        raise ValueError(f"leftover must be one of {', '.join(plots.FORMS)}, got {leftover!r}")
    pi, y = np.asarray(behavior, dtype=float), np.asarray(target, dtype=float)
    n_actions = 2 if leftover == "dummy" else 3
    if not pi.shape == y.shape == (n_actions,):
        raise ValueError(f"behavior and target must have {n_actions} entries, got {pi} and {y}")
    if not (pi > 0).all() or abs(pi.sum() - 1) > 1e-8:
        raise ValueError(f"behavior must be positive and sum to 1, got {behavior}")
    if not ((y >= 0) & (y <= 1)).all():
        raise ValueError(f"target must lie in [0, 1], got {target}")
    names = ["a", "b", "dummy" if leftover == "dummy" else "c"]
    with plots.figure((10.5, 4.4), fixed=True) as figure:
        left = figure.add_axes((0.01, 0.06, 0.44, 0.82))
        bar = figure.add_axes((0.465, 0.16, 0.013, 0.6))
        right = figure.add_axes((0.635, 0.14, 0.355, 0.72))
        contours = _draw_loss(left, pi, y, leftover)
        figure.colorbar(contours, cax=bar, ticks=LEVELS, format="{x:g}")
        bar.set_ylabel("loss above its minimum (nats)", labelpad=10)
        _draw_points(left, pi, y, leftover, names)
        left.set_title(f"Expected loss, {plots.FORMS[leftover]}")
        _draw_ratios(right, pi, y, leftover, names)
    return figure


def _draw_loss(axes: Axes, pi: np.ndarray, y: np.ndarray, leftover: Leftover) -> ContourSet:
    grid = _grid()
    best = expected_loss(np.maximum(minimiser(pi, y, leftover), 1e-12)[None], pi, y, leftover)
    excess = np.maximum(expected_loss(grid, pi, y, leftover) - best, 0)
    return axes.tricontourf(
        Triangulation(*(grid @ CORNERS).T),
        excess,
        levels=LEVELS,
        cmap="Blues",
        norm=BoundaryNorm(LEVELS, 256),
        extend="max",
    )


def _grid() -> np.ndarray:
    """Points of the simplex, all with three positive probabilities.  (N, 3)."""
    i, j = np.meshgrid(np.arange(GRID + 1), np.arange(GRID + 1))
    inside = i + j <= GRID
    steps = np.stack([i[inside], j[inside], GRID - i[inside] - j[inside]], axis=1)
    return (steps + 1e-3) / (GRID + 3e-3)


def _draw_points(
    axes: Axes, pi: np.ndarray, y: np.ndarray, leftover: Leftover, names: list[str]
) -> None:
    p = minimiser(pi, y, leftover)
    axes.plot(*CORNERS[[0, 1, 2, 0]].T, color="black", linewidth=1)
    no_dummy = np.zeros(3 - len(pi))
    points = [(np.append(pi, no_dummy), "o", 13, "white", "π, the behavior policy")]
    if y.any():
        weighted = np.append(pi * y / (pi @ y), no_dummy)
        points.append((weighted, "s", 7, "black", "πy, scaled to sum 1"))
        axes.plot(*(np.stack([weighted, p]) @ CORNERS).T, color="black", linewidth=1, linestyle=":")
    points.append((p, "*", 18, METHOD_COLORS[leftover], "minimiser p"))
    for point, marker, size, fill, label in points:
        axes.plot(
            *(point @ CORNERS),
            marker,
            color=fill,
            markeredgecolor="black",
            markersize=size,
            label=label,
            clip_on=False,
        )
    for corner, name, align in zip(CORNERS, names, ("right", "left", "left"), strict=True):
        axes.annotate(
            name,
            corner,
            xytext=(-8 if align == "right" else 8, 0),
            textcoords="offset points",
            ha=align,
            va="center",
            weight="bold",
        )
    axes.set(xlim=(-0.28, 1.12), ylim=(-0.06, 0.9), aspect="equal")
    axes.set_axis_off()
    axes.legend(loc="upper left", bbox_to_anchor=(-0.02, 1.0), fontsize=10, borderaxespad=0)


def _draw_ratios(
    axes: Axes, pi: np.ndarray, y: np.ndarray, leftover: Leftover, names: list[str]
) -> None:
    ratio = minimiser(pi, y, leftover)[: len(pi)] / pi
    places = np.arange(len(pi))
    for shift, heights, fill, label in (
        (-0.2, y, "#999999", "target y"),
        (0.2, ratio, METHOD_COLORS[leftover], "p/π, read back"),
    ):
        shown = np.minimum(heights, TALLEST_BAR)
        bars = axes.bar(places + shift, shown, 0.38, color=fill, label=label)
        style = {"padding": 4, "fontsize": 10, "bbox": {"color": "white", "pad": 0.5}}
        axes.bar_label(bars, [f"{height:.2f}" for height in heights], **style)
    axes.axhline(1, color="black", linewidth=1, linestyle="--", zorder=0, label="highest return")
    axes.set_xticks(
        places, [f"{name}\nπ = {share:.2f}" for name, share in zip(names, pi, strict=False)]
    )
    axes.set_yticks([0, 0.5, 1, 1.5, 2])
    axes.set(xlim=(-0.6, len(pi) - 0.4), ylim=(0, 1.1 * TALLEST_BAR))
    axes.grid(visible=False)
    axes.legend(
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        ncols=3,
        fontsize=10,
        columnspacing=1.2,
        handlelength=1.4,
    )
