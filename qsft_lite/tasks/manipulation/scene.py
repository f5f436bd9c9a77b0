"""A moment of the robot's episode, its value, and the bins of the next action, in one figure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure

from qsft_lite import viz
from qsft_lite.tasks.manipulation.asking import Asked, Bins
from qsft_lite.tasks.manipulation.replay import Moment, in_words
from qsft_lite.tasks.manipulation.table import STEP, TURN
from qsft_lite.viz.plots import HIGHLIGHT

VALUE, VALUE_EDGE = "#e6e6e6", "#888888"  # of q, behind the bars of probabilities
# Of each dimension its name, and what 1 is and its unit, or the names of its two bins.
DIMENSIONS = (
    ("x, to the right", STEP, "table widths"),
    ("y, away", STEP, "table widths"),
    ("z, up", STEP, "table widths"),
    ("a, tilt sideways", TURN, "radians"),
    ("b, tilt forward", TURN, "radians"),
    ("c, turn", TURN, "radians"),
    ("g, gripper", 0, "open", "shut"),
    ("s, stop", 0, "go on", "stop"),
)
WIDTH, HEIGHT, PICTURE = 11.9, 7.0, 2.88  # inches of a scene, and of its picture of 288 pixels
PANELS, PANEL, ACROSS, DOWN = (8.4, 5.95), (2.4, 1.05), 2.68, 1.9  # of all, of one, from one to one


def draw_scene(
    asked: Asked,
    moments: Sequence[Moment],
    step: int,
    *,
    values: np.ndarray | None,
    action: str | None = None,
) -> Figure:
    """A moment of an episode, the values of its moments, and all bins of the next action.

    Args:
        asked: the policy.
        moments: of the episode so far.
        step: the one that is shown, from 0 on.
        values: (len(moments),) of `Asked.values`.
        action: what was done here, "x12 y03 ... s0"; its bins are marked, and each dimension is
            asked given those before. The policy's own choice if None or if it cannot be read.
    """
    now = moments[step]
    taken = None if action is None else asked.env.bins.read(action)
    bins = None
    if not now.over:
        bins = asked.bins(now, asked.own(now) if taken is None else taken)
    with viz.figure((WIDTH, HEIGHT), fixed=True) as figure:
        picture = figure.add_axes(_place(0.2, HEIGHT - 0.95 - PICTURE, PICTURE, PICTURE))
        picture.imshow(now.picture, interpolation="nearest")
        viz.bare(picture)
        _draw_values(figure.add_axes(_place(0.85, 0.65, 2.2, 1.75)), step, values)
        if bins is None:
            axes = figure.add_axes(_place(3.9, 0.6, 7.7, 5.0))
            axes.text(0, 0.9, "The episode is over.", fontsize=14)
            viz.bare(axes)
        else:
            panels = figure.add_axes(_place(3.45, 0.2, *PANELS))
            _draw_bins(panels, asked, bins, "taken" if taken is not None else "its choice")
        title = {"x": 0.2 / WIDTH, "y": 1 - 0.1 / HEIGHT, "ha": "left", "fontsize": 13}
        lines = [f"Asked: {now.instruction}", _step_said(asked, moments, step, action, bins)]
        figure.suptitle("\n".join(lines), parse_math=False, **title)
    return figure


def _place(left: float, bottom: float, width: float, height: float) -> tuple[float, ...]:
    """A rectangle in inches as shares of a scene."""
    return left / WIDTH, bottom / HEIGHT, width / WIDTH, height / HEIGHT


def _step_said(
    asked: Asked, moments: Sequence[Moment], step: int, action: str | None, bins: Bins | None
) -> str:
    """The second line of a title: what has just happened, and what is done next."""
    before = f" ({moments[step].happened})" if moments[step].happened else ""
    said = f"Step {step}{before}"
    if bins is None:
        return said + (": success" if moments[step].success and "success" not in before else "")
    words = in_words(asked.env.bins.decode(bins.chosen[None])[0])
    written = asked.env.bins.write(bins.chosen[None])[0].strip()
    if action is not None and asked.env.bins.read(action) is None:
        return f"{said}. Done: {action.strip()[:40]!r}, which cannot be read; the policy: {words}"
    return f"{said}. {'Done' if action is not None else 'The policy'}: {written} ({words})"


def _draw_values(axes: Axes, step: int, values: np.ndarray | None) -> None:
    """The line of values over the steps, with a mark at the one that is shown."""
    axes.set_xlabel("step", labelpad=2)
    if values is None:
        axes.set_title("the policy has no values", fontsize=12)
        axes.set(xticks=[], yticks=[])
        return
    steps = np.arange(len(values))
    axes.plot(steps, values, color="black", marker="." if len(values) < 3 else None)
    axes.axvline(step, color=HIGHLIGHT, linewidth=1.5)
    axes.plot(step, values[step], "o", color=HIGHLIGHT)
    low, high = np.nanmin([0, *values]), np.nanmax([1, *values])
    axes.set(xlim=(-0.5, max(len(values) - 0.5, 1)), ylim=(low - 0.03, high + 0.05))
    axes.set_yticks(np.linspace(low, high, 3))
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_title("V, value of the state", fontsize=12)
    axes.tick_params(labelsize=11)


def _draw_bins(axes: Axes, asked: Asked, bins: Bins, mark: str) -> None:
    """A panel for each dimension, drawn in one axes of inches: many axes would take longer.

    Of each dimension's bins q is behind, pi and pi_hat side by side, and a mark above the chosen.
    """
    low = min(0, *(q.min() for q in bins.q or [np.zeros(1)]))
    high = max(1, *(q.max() for q in bins.q or [np.zeros(1)]))
    marks, lines = [], []
    bars: dict[str, list[tuple[float, ...]]] = {"q": [], "pi": [], "pi_hat": []}
    small = {"fontsize": 11, "color": "#333333"}
    for place, (name, scale, *units) in enumerate(DIMENSIONS):
        row, column = divmod(place, 3)
        left, bottom, count = 0.5 + ACROSS * column, 4.15 - DOWN * row, len(bins.pi[place])
        wide = PANEL[0] / (count + 0.4)  # of a bin
        middles = left + (np.arange(count) + 0.7) * wide
        base = bottom + PANEL[1] * -low / (high - low)
        for key, side, share in (("q", -0.5, 1.0), ("pi", -0.36, 0.34), ("pi_hat", 0.02, 0.34)):
            numbers = getattr(bins, key)
            heights = PANEL[1] * (numbers[place] if numbers else np.zeros(count)) / (high - low)
            for x, height in zip(middles + side * wide, heights, strict=True):
                bars[key].append((x, base, share * wide, height))
        top = bottom + PANEL[1] + 0.12
        marks.append((middles[bins.chosen[place]], top))
        lines += [[(left, bottom), (left, top)], [(left, base), (left + PANEL[0], base)]]
        unit = f" ({units[0]})" if scale else ""
        axes.text(left + PANEL[0] / 2, top + 0.12, name + unit, ha="center", fontsize=12)
        told = list(units)
        if scale:
            numbers = scale * asked.env.bins.centers[place]
            told = [f"{number:+.2f}".replace("-", "−") for number in numbers]
            told = ["0" if text in ("+0.00", "−0.00") else text for text in told]
        shown = sorted({0, count // 2, count - 1})
        for bin in shown if count > 2 else range(count):
            # The outer numbers begin and end with their bins, or neighbors would meet.
            outer = {0: (-0.4, "left"), count - 1: (0.4, "right")} if count > 2 else {}
            shift, align = outer.get(bin, (0, "center"))
            x = middles[bin] + shift * wide
            axes.text(x, bottom - 0.06, told[bin], ha=align, va="top", **small)
        for share in (0, 0.5, 1) if not column else ():
            number = f"{low + share * (high - low):.2g}"
            y = bottom + share * PANEL[1]
            axes.text(left - 0.08, y, number, ha="right", va="center", **small)
    looks = {
        "q": ("q, value of the bin", VALUE, VALUE_EDGE),
        "pi": ("π, as the data play", viz.method_color("bc"), "none"),
        "pi_hat": ("π̂, as it plays", viz.method_color("q_sft"), "none"),
    }
    for key, (label, face, edge) in looks.items():
        if key == "q" and bins.q is None:
            continue
        corners = [[(x, y), (x, y + h), (x + w, y + h), (x + w, y)] for x, y, w, h in bars[key]]
        axes.add_collection(
            PolyCollection(corners, facecolor=face, edgecolor=edge, lw=0.8, label=label),
            autolim=False,
        )
    axes.add_collection(LineCollection(lines, colors="black", lw=1), autolim=False)
    axes.plot(*zip(*marks, strict=True), "v", color=HIGHLIGHT, markersize=8, label=mark)
    axes.set(xlim=(0, PANELS[0]), ylim=(0, PANELS[1]))
    corner = (0.5 + 2 * ACROSS, 4.15 - 2 * DOWN + PANEL[1] / 2)
    where = {"bbox_to_anchor": corner, "bbox_transform": axes.transData, "loc": "center left"}
    axes.legend(**where, fontsize=12, handlelength=1.2, borderaxespad=0)
    viz.bare(axes)
