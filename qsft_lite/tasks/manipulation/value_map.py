"""The value of a state over where the gripper could be, drawn on the picture of the table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from qsft_lite import viz
from qsft_lite.policy.cached import CachedPolicy
from qsft_lite.policy.last_line import LastLine
from qsft_lite.tasks.manipulation.asking import Asked
from qsft_lite.tasks.manipulation.env import Manipulation, OneTable
from qsft_lite.tasks.manipulation.picture import DEPTH, MARGIN, VIEW, render
from qsft_lite.tasks.manipulation.replay import SHOWN, Player
from qsft_lite.tasks.manipulation.table import HALF, HIGH, LOW, LOWER_HANDLE, NOTHING, Tables
from qsft_lite.tasks.manipulation.text import image_texts, state_texts
from qsft_lite.viz.plots import HIGHLIGHT, VALUE_COLORS, value_bar

SIZE = (8.3, 4.4)  # inches
SIDE = 2.88  # of a picture of 288 pixels
ALPHA = 0.75  # of the colors
LEAST = 0.02  # of a color scale, or what is rounding would look like something


def gripper_values(asked: Asked, tables: Tables, grid: int = 12) -> tuple[np.ndarray, ...]:
    """The value of one table with its gripper elsewhere, at the same height, all else equal.

    A block that it holds goes with it; a handle does not, and is let go.

    Args:
        asked: the policy, which must have values.
        tables: one table.
        grid: places along x, and along y.

    Returns x (grid,) and y (grid,), where the gripper is, and values (grid, grid) float64, y first:
    V(s) of `Asked.values`; nan inside of the cabinet and the drawers, where it cannot be. The
    policy reads all places in one batch.
    """
    if grid < 2:
        raise ValueError(f"grid must be at least 2 places, got {grid}")
    x, y = (np.linspace(LOW[axis], HIGH[axis], grid) for axis in (0, 1))
    places = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
    moved = tables.take(np.zeros(len(places), dtype=np.int64))
    moved.position[:, :2] = places
    holding = np.where(moved.holding >= LOWER_HANDLE, NOTHING, moved.holding)
    moved = replace(moved, holding=holding)
    rows, held = moved.held_blocks()
    moved.blocks[rows, held] = moved.position[rows]
    # A hair of tolerance: a gripper that lies on something is there.
    can = moved.position[:, 2] >= moved.below(moved.position)[1] + HALF - 1e-9
    env = asked.env
    texts = (image_texts if env.format == "image" else state_texts)(env.task, moved)
    images = render(moved, env.size) if env.images else None
    values = asked.values_of(texts, images)
    if values is None:
        raise ValueError("the policy has no values, of which there could be a map")
    return x, y, np.where(can, values, np.nan).reshape(grid, grid)


def value_map(
    policy: CachedPolicy | LastLine,
    env: Manipulation,
    start: Mapping[str, Any],
    game: Mapping[str, Any] | None = None,
    step: int = 0,
    *,
    grid: int = 12,
) -> Figure:
    """Left a moment of an episode, right the value over where the gripper could be then.

    A color lies on the table below the gripper, where its shadow is; the cross is where it is. The
    value is V(s) = sum_a pi(a|s) q(a|s) over the first dimension of the action, see `Asked.values`.
    The scale goes from the least value to the largest. The label of the figure is its alternative
    text.

    Args:
        policy: one with values.
        env: of our own simulator; it is left as it is.
        start: arguments of its reset, see `replay.starts_of`.
        game: a row of transcripts; not needed for step 0.
        step: the moment, from 0 on.
        grid: places along x, and along y.

    Raises ValueError for another simulator, a policy without values, or a step that the episode
    does not have.
    """
    if not isinstance(env.table, OneTable):
        raise ValueError("a map needs the simulator 'numpy', whose gripper can be put anywhere")
    actions = [] if game is None else game["text"][1::2]
    if not 0 <= step <= len(actions):
        raise ValueError(f"the episode has {len(actions)} steps, got step {step}")
    player = Player(env, start)
    for action in actions[:step]:
        player.step(action)
    now, tables = player.moments[-1], player.env.table.tables
    x, y, values = gripper_values(Asked(policy, env), tables, grid)
    low, high = np.nanmin(values), np.nanmax(values)
    middle, half = (low + high) / 2, max((high - low) / 2, LEAST / 2)
    limits = middle - half, middle + half
    with viz.figure(SIZE, fixed=True) as figure:
        left = figure.add_axes(_place(0.2, 0.65, SIDE, SIDE))
        left.imshow(now.picture, interpolation="nearest")
        viz.bare(left)
        right = figure.add_axes(_place(4.0, 0.65, SIDE, SIDE))
        # Light, so that colors on it are those of the scale.
        gray = 255 - 0.6 * (255 - now.picture.mean(-1))
        right.imshow(gray, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        edges = [
            np.array([-0.5, len(axis) - 0.5]) * (axis[1] - axis[0]) + axis[0] for axis in (x, y)
        ]
        colors = {"cmap": VALUE_COLORS, "vmin": limits[0], "vmax": limits[1], "alpha": ALPHA}
        extent = (*_across(edges[0]), *_down(edges[1]))
        right.imshow(values, extent=extent, origin="lower", interpolation="nearest", **colors)
        at = _across(tables.position[0, 0]), _down(tables.position[0, 1])
        right.plot(*at, "P", color=HIGHLIGHT, markeredgecolor="white", markersize=13)
        right.set(xlim=(-0.5, SHOWN - 0.5), ylim=(SHOWN - 0.5, -0.5))
        ticks = np.array([0, 0.5, 1.0])
        right.set_xticks(_across(ticks), ["0", ".5", "1"])
        right.set_yticks(_down(ticks), ["0", ".5", "1"])
        right.set(xlabel="x, to the right (table widths)", ylabel="y, away (table widths)")
        right.grid(visible=False)
        bar = figure.add_axes(_place(7.15, 0.65, 0.18, SIDE))
        value_bar(figure, None, "V, with the gripper there", limits, cax=bar, alpha=ALPHA)
        height = f"{tables.position[0, 2]:.2f}".removeprefix("0")
        title = f"Asked: {now.instruction}\nStep {step}, the gripper {height} table widths high"
        above = {"x": 0.2 / SIZE[0], "y": 1 - 0.1 / SIZE[1], "ha": "left", "fontsize": 13}
        figure.suptitle(title, parse_math=False, **above)
        best = np.unravel_index(np.nanargmax(values), values.shape)
        figure.set_label(
            "Left, a picture of the table; right, the same in grey under a heat map of the state's "
            f"value over {grid} x {grid} places of the gripper, from {low:.2f} to {high:.2f}, the "
            f"largest at x = {x[best[1]]:.2f}, y = {y[best[0]]:.2f}."
        )
    return figure


def _place(left: float, bottom: float, width: float, height: float) -> tuple[float, ...]:
    """A rectangle in inches as shares of the figure."""
    return left / SIZE[0], bottom / SIZE[1], width / SIZE[0], height / SIZE[1]


def _across(x: np.ndarray) -> np.ndarray:
    """The column of a picture of SHOWN pixels where x is."""
    return (x + MARGIN) * SHOWN / VIEW - 0.5


def _down(y: np.ndarray) -> np.ndarray:
    """The row where y is, on the table."""
    return SHOWN - (DEPTH * y + MARGIN) * SHOWN / VIEW - 0.5
