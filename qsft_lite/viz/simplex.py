"""The loss of Q-SFT over the probability simplex of three tokens, and where its minimum lies.

With leftover="uniform" (Eq. 3) the three tokens are the actions a, b and c. With leftover="dummy"
they are the actions a and b, and the dummy. With leftover="paired" (ours) a and b have a dummy
each, p(d_a) = pi(a) (1 - q(a)), and the third corner stands for both: p(d) = p(d_a) + p(d_b). As q
lies in [0, 1], p(a) = pi(a) q(a) is at most pi(a), so that only a part of the triangle is reached.
"""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure
from matplotlib.tri import Triangulation

from qsft_lite.loss import paired_q_sft_loss, q_sft_loss
from qsft_lite.tabular import Leftover, q_sft_probabilities
from qsft_lite.viz import plots

CORNERS = np.array([(0.0, 0.0), (1.0, 0.0), (0.5, np.sqrt(0.75))])
LEVELS = (0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)  # of the loss above its minimum, in nats
GRID = 70  # steps of the grid along an edge
METHOD_COLORS = {
    "paired": plots.method_color("q_sft"),
    "dummy": plots.method_color("q_sft_dummy"),
    "uniform": plots.method_color("q_sft_paper"),
}
TALLEST_BAR = 3.0  # a larger value is cut off: its bar is broken, with its number on top


def expected_loss(
    p: np.ndarray, behavior: np.ndarray, target: np.ndarray, leftover: Leftover
) -> np.ndarray:
    """E over a ~ behavior of the Q-SFT loss at action a with weight target(a), in nats.

    p: (N, V) probabilities of all tokens, positive. behavior, target: (A,) of the actions, which
    come first among the tokens; the dummy, where there is one, is the last. For "paired" that is
    all dummies together, and p(a) < pi(a) for every action. Returns (N,).
    """
    n, n_actions = len(p), len(behavior)
    actions = torch.arange(n_actions).expand(n, n_actions)
    targets = torch.tensor(target, dtype=torch.float64).expand(n, n_actions)

    def at_each_action(logits: np.ndarray) -> torch.Tensor:
        return torch.tensor(logits)[:, None].expand(n, n_actions, -1)

    if leftover == "paired":
        # pi (1 - q) from pi - p: near q = 1 that keeps its digits.
        logits = at_each_action(np.log(p[:, :-1]) - np.log(behavior - p[:, :-1]))
        behavior_logits = torch.zeros_like(logits)  # with prior 1/2, logits are those of q
        losses = paired_q_sft_loss(logits, behavior_logits, actions, targets, reduction="none")
    else:
        rest = p.shape[1] - 1 if leftover == "dummy" else "uniform"
        logits = at_each_action(np.log(p))
        losses = q_sft_loss(logits, actions, targets, leftover=rest, reduction="none")
    return losses.numpy() @ behavior


def minimiser(behavior: np.ndarray, target: np.ndarray, leftover: Leftover) -> np.ndarray:
    """The probabilities of least expected loss, of all tokens, from the closed form."""
    p, dummy = q_sft_probabilities(behavior[None], target[None], leftover)
    return p[0] if leftover == "uniform" else np.append(p[0], dummy)


def draw_simplex(
    *,
    behavior: tuple[float, ...] = (0.6, 0.3, 0.1),
    target: tuple[float, ...] = (0.3, 0.9, 0.6),
    leftover: Leftover = "uniform",
) -> Figure:
    """Left the loss over the simplex; right bars of the value Q that is read back.

    Q is q(a) of the paired form, and p(a)/pi(a) of the others; a black line shows the target y.
    behavior, target: pi and y of the actions, three for "uniform" and two for the forms with
    dummies. The figure belongs to no window and needs no closing.

    Raises ValueError for an unknown leftover, the wrong number of actions, a behavior that is not
    positive or does not sum to 1, or a target outside [0, 1].
    """
    if leftover not in plots.FORMS:
        raise ValueError(f"leftover must be one of {', '.join(plots.FORMS)}, got {leftover!r}")
    pi, y = np.asarray(behavior, dtype=float), np.asarray(target, dtype=float)
    n_actions = 3 if leftover == "uniform" else 2
    if not pi.shape == y.shape == (n_actions,):
        raise ValueError(f"behavior and target must have {n_actions} entries, got {pi} and {y}")
    if not (pi > 0).all() or abs(pi.sum() - 1) > 1e-8:
        raise ValueError(f"behavior must be positive and sum to 1, got {behavior}")
    if not ((y >= 0) & (y <= 1)).all():
        raise ValueError(f"target must lie in [0, 1], got {target}")
    names = ["a", "b", {"paired": "dummies", "dummy": "dummy", "uniform": "c"}[leftover]]
    with plots.figure((10.5, 4.4), fixed=True) as figure:
        left = figure.add_axes((0.01, 0.06, 0.44, 0.82))
        bar = figure.add_axes((0.465, 0.16, 0.013, 0.6))
        right = figure.add_axes((0.635, 0.14, 0.355, 0.72))
        contours = _draw_loss(left, pi, y, leftover)
        figure.colorbar(contours, cax=bar, ticks=LEVELS, format="{x:g}")
        bar.set_ylabel("loss above its minimum (nats)", labelpad=10)
        _draw_points(left, pi, y, leftover, names)
        left.set_title(f"Expected loss, {plots.FORMS[leftover]}")
        _draw_values(right, pi, y, leftover, names)
    return figure


def _draw_loss(axes: Axes, pi: np.ndarray, y: np.ndarray, leftover: Leftover) -> ContourSet:
    best = expected_loss(_inside(minimiser(pi, y, leftover), pi, leftover)[None], pi, y, leftover)
    grid = _grid(pi, leftover)
    excess = np.maximum(expected_loss(grid, pi, y, leftover) - best, 0)
    return axes.tricontourf(
        Triangulation(*(grid @ CORNERS).T),
        excess,
        levels=LEVELS,
        cmap="Blues",
        norm=BoundaryNorm(LEVELS, 256),
        extend="max",
    )


def _inside(p: np.ndarray, pi: np.ndarray, leftover: Leftover) -> np.ndarray:
    """p, a hair away from where a logarithm of the loss is infinite."""
    p = np.maximum(p, 1e-12)
    if leftover == "paired":
        p[:-1] = np.minimum(p[:-1], pi * (1 - 1e-12))
    return p


def _grid(pi: np.ndarray, leftover: Leftover) -> np.ndarray:
    """Points of the simplex that the form reaches, with positive probabilities only.  (N, 3)."""
    i, j = np.meshgrid(np.arange(GRID + 1), np.arange(GRID + 1))
    if leftover == "paired":
        q = (np.stack([i.ravel(), j.ravel()], axis=1) + 1e-3) / (GRID + 2e-3)
        return np.column_stack([pi * q, 1 - (pi * q).sum(axis=1)])
    inside = i + j <= GRID
    steps = np.stack([i[inside], j[inside], GRID - i[inside] - j[inside]], axis=1)
    return (steps + 1e-3) / (GRID + 3e-3)


def _draw_points(
    axes: Axes, pi: np.ndarray, y: np.ndarray, leftover: Leftover, names: list[str]
) -> None:
    p = minimiser(pi, y, leftover)
    axes.plot(*CORNERS[[0, 1, 2, 0]].T, color="black", linewidth=1)
    if leftover == "paired":
        axes.fill(
            *CORNERS.T, color="#dddddd", linewidth=0, zorder=0, label="p above π: not reached"
        )
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


def _draw_values(
    axes: Axes, pi: np.ndarray, y: np.ndarray, leftover: Leftover, names: list[str]
) -> None:
    values = minimiser(pi, y, leftover)[: len(pi)] / pi
    read = "Q = q" if leftover == "paired" else "Q = p/π"
    places = np.arange(len(pi))
    shown = np.minimum(values, TALLEST_BAR)
    bars = axes.bar(places, shown, 0.5, color=METHOD_COLORS[leftover], label=read)
    style = {"padding": 4, "fontsize": 11, "bbox": {"color": "white", "pad": 0.5}}
    axes.bar_label(bars, [f"{value:.2f}" for value in values], **style)
    broken = places[values > TALLEST_BAR]
    axes.plot(broken, np.full(len(broken), 0.9 * TALLEST_BAR), "w_", markersize=60, mew=5)
    axes.hlines(y, places - 0.35, places + 0.35, color="black", linewidth=3, label="target y")
    for place, target in zip(places, y, strict=True):
        axes.text(place + 0.38, target, f"{target:.2f}", va="center", fontsize=10)
    axes.axhline(1, color="black", linewidth=1, linestyle="--", zorder=0, label="highest return")
    axes.set_xticks(
        places, [f"{name}\nπ = {share:.2f}" for name, share in zip(names, pi, strict=False)]
    )
    axes.set_yticks([0, 0.5, 1, 1.5, 2, 2.5, 3])
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
