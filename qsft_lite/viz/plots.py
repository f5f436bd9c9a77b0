"""Static figures. A method looks the same in every chapter, as the registry of methods says."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Image, display
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, to_rgba
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.layout_engine import PlaceHolderLayoutEngine

from qsft_lite.baselines.registry import find_method
from qsft_lite.tabular.mdps import ACTION_STEPS, Maze

VALUE_COLORS: Colormap = plt.get_cmap("cividis")
HIGHLIGHT = "#D55E00"  # a trap, or the move that was played
PATH_COLORS = ("#0072B2", "#000000", "#56B4E9", "#C2185B")  # of recorded trajectories
FORMS = {  # what a leftover is called
    "paired": "paired dummies (ours)",
    "dummy": "one dummy",
    "uniform": "Eq. 3 (paper)",
}
# Hatched, since every plain grey is also the color of some value.
WALL = {"facecolor": "#e6e6e6", "edgecolor": "#999999", "hatch": "////", "linewidth": 0}


# Readable at half size, no frame clutter.
STYLE = {
    "figure.dpi": 90,
    "figure.constrained_layout.use": True,
    "font.size": 12,
    "axes.titlesize": 13,
    "axes.labelsize": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "lines.linewidth": 2,
    "lines.markersize": 7,
    "legend.frameon": False,
}


def use_style() -> None:
    """Set matplotlib's defaults for this project."""
    plt.rcParams.update(STYLE)


@contextlib.contextmanager
def figure(size: tuple[float, float], *, fixed: bool = False) -> Iterator[Figure]:
    """A new figure of (width, height) inches, to be drawn inside the block, in the project's style.

    It belongs to no window and needs no closing. fixed: axes stay where they are added, which is
    faster than an automatic layout, and nothing jumps between redraws.
    """
    options = {}
    if fixed:
        # A layout of "none" would fall back to rcParams once the figure was saved.
        layout = PlaceHolderLayoutEngine(adjust_compatible=True, colorbar_gridspec=True)
        options = {"dpi": 100, "layout": layout}
    with plt.rc_context(STYLE):
        yield Figure(figsize=size, **options)


def show(figure: Figure, alt: str) -> None:
    """Display a figure as a picture with a text for those who do not see it, and close it.

    alt: what is drawn and what it shows, in one to three sentences.
    """
    picture = io.BytesIO()
    figure.savefig(picture, format="png", bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)
    display(Image(data=picture.getvalue(), alt=alt))


def bare(axes: Axes) -> None:
    """Leave nothing of the axes but what is drawn in them and the title."""
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    axes.spines[:].set_visible(False)


def method_style(method: str, **changes: Any) -> dict[str, Any]:
    """How `Axes.plot` and `Axes.errorbar` draw a method, given by its key or title; see SHOWN.

    changes: of single entries, as a line style for one of several lines of the same method.
    """
    shown = find_method(method)
    style = {"color": shown.color, "marker": shown.marker, "linestyle": shown.line}
    return style | {"label": shown.title} | changes


def method_color(method: str) -> str:
    """The color of a method, given by its key or title, for bars, dots and bands."""
    return find_method(method).color


def draw_maze(
    axes: Axes,
    maze: Maze,
    *,
    values: np.ndarray | None = None,
    policy: np.ndarray | None = None,
    numbers: bool = False,
    limits: tuple[float, float] = (0.0, 1.0),
    title: str = "",
) -> AxesImage:
    """A maze with state values (S,) as colors and a policy (S, 4) as arrows.

    An arrow's length and darkness grow with the action's probability. `numbers` writes the values
    into corners that the arrows leave free; a cell whose value is nan stays blank. `limits` are the
    values at the two ends of the color scale. Walls are grey, G is the goal, T a trap, S a start.
    Returns the image, for a color bar.
    """
    n_rows, n_columns = len(maze.layout), len(maze.layout[0])
    grid = np.full((n_rows, n_columns), np.nan)
    if values is not None:
        grid[tuple(zip(*maze.cells, strict=True))] = values
    image = axes.imshow(grid, cmap=VALUE_COLORS, vmin=limits[0], vmax=limits[1], aspect="equal")
    for row, line in enumerate(maze.layout):
        for column, letter in enumerate(line):
            _draw_cell(axes, row, column, letter, on_value=values is not None)
    if policy is not None:
        _draw_arrows(axes, maze, policy, grid, limits, shift=-0.07 if numbers else 0.0)
    if numbers:
        for row, column in zip(*np.nonzero(~np.isnan(grid)), strict=True):
            value = grid[row, column]
            style = {"ha": "right", "va": "center", "fontsize": 8, "color": ink(value, limits)}
            axes.text(column + 0.48, row + 0.37, f"{value:.2f}", **style)
    axes.set_title(title)
    bare(axes)
    # Lines of our own, not a grid: its many ticks would take longer than all arrows.
    edges = {"color": "white", "linewidth": 1, "zorder": 1.5}
    axes.hlines(np.arange(n_rows + 1) - 0.5, -0.5, n_columns - 0.5, **edges)
    axes.vlines(np.arange(n_columns + 1) - 0.5, -0.5, n_rows - 0.5, **edges)
    return image


def _draw_cell(axes: Axes, row: int, column: int, letter: str, *, on_value: bool) -> None:
    floor = None if on_value else {"color": "#eeeeee"}
    kinds = {"#": WALL, "G": {"color": VALUE_COLORS(1.0)}, "T": {"color": HIGHLIGHT, "alpha": 0.7}}
    fill = kinds.get(letter, floor)
    if fill:
        axes.add_patch(plt.Rectangle((column - 0.5, row - 0.5), 1, 1, **fill))
    style = {"ha": "center", "va": "center"}
    if letter == "S":
        box = {"boxstyle": "round,pad=0.1", "color": "white", "alpha": 0.8}
        axes.text(column - 0.33, row - 0.3, "S", fontsize=8, bbox=box, **style)
    elif letter in "GT":
        color = "white" if letter == "T" else "black"
        axes.text(column, row, letter, weight="bold", color=color, **style)


def _draw_arrows(
    axes: Axes,
    maze: Maze,
    policy: np.ndarray,
    grid: np.ndarray,
    limits: tuple[float, float],
    shift: float,
) -> None:
    arrows, colors = [], []
    for (row, column), probabilities in zip(maze.cells, policy, strict=True):
        for (down, right), probability in zip(ACTION_STEPS, probabilities, strict=True):
            if probability >= 0.02:
                length = 0.12 + 0.3 * probability
                arrows.append((column + shift, row, length * right, length * down))
                colors.append(to_rgba(ink(grid[row, column], limits), 0.25 + 0.75 * probability))
    # One collection for all: a hundred separate arrows would take longer than the rest together.
    axes.quiver(
        *np.array(arrows).reshape(-1, 4).T,
        color=colors,
        angles="xy",
        units="xy",
        scale_units="xy",
        scale=1,
        width=0.04,
        headwidth=5,
        headlength=4,
        headaxislength=4,
        minshaft=1.9,  # heads of short arrows shrink, or they would cover each other
        zorder=2,
    )


def ink(value: float, limits: tuple[float, float] = (0.0, 1.0)) -> str:
    """The color of text on a value's color: black on light ones, white on dark ones."""
    low, high = limits
    return "white" if (value - low) / (high - low) < 0.5 else "black"


def value_bar(
    figure: Figure,
    axes: Any,
    label: str,
    limits: tuple[float, float] = (0.0, 1.0),
    **options: Any,
) -> None:
    """A bar beside the axes for colors of values within limits; options are `colorbar`'s."""
    scale = plt.cm.ScalarMappable(plt.Normalize(*limits), VALUE_COLORS)
    figure.colorbar(scale, ax=axes, label=label, **options)
