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
from matplotlib.colors import Colormap, ListedColormap, to_rgba
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.layout_engine import PlaceHolderLayoutEngine
from matplotlib.patheffects import withStroke

from qsft_lite.baselines.registry import find_method
from qsft_lite.tabular.mdps import ACTION_STEPS, Maze

VALUE_COLORS: Colormap = plt.get_cmap("cividis")
COUNT_COLORS = ListedColormap(plt.get_cmap("Greens")(np.linspace(0.05, 0.65, 256)))
HIGHLIGHT = "#D55E00"  # the move that was played
PATH_COLORS = ("#0072B2", "#000000", "#56B4E9", "#C2185B")  # of recorded trajectories
FORMS = {  # what a leftover is called, as in docs/notation.md
    "paired": "Q-SFT (ours)",
    "dummy": "Q-SFT, one dummy",
    "uniform": "Q-SFT (paper)",
}
# Hatched, crossed or framed, since every plain color is also that of some value.
WALL = {"facecolor": "#e6e6e6", "edgecolor": "#999999", "hatch": "////", "linewidth": 0}
TRAP = {"facecolor": "#222222", "linewidth": 0}
GOAL = {"facecolor": "white", "linewidth": 0}


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
    colors: Colormap = VALUE_COLORS,
    title: str = "",
) -> AxesImage:
    """A maze with state values (S,) as colors and a policy (S, 4) as arrows.

    An arrow's length and darkness grow with the action's probability. `numbers` writes the values
    into corners that the arrows leave free; a cell whose value is nan stays blank. `limits` are the
    values at the two ends of the color scale, and `colors` is the scale: COUNT_COLORS for numbers
    of visits. Walls are hatched, a trap is black with a white cross, the goal is framed and says G,
    a start says S. Returns the image, for a color bar.
    """
    n_rows, n_columns = len(maze.layout), len(maze.layout[0])
    grid = np.full((n_rows, n_columns), np.nan)
    if values is not None:
        grid[tuple(zip(*maze.cells, strict=True))] = values
    image = axes.imshow(grid, cmap=colors, vmin=limits[0], vmax=limits[1], aspect="equal")
    for row, line in enumerate(maze.layout):
        for column, letter in enumerate(line):
            _draw_cell(axes, row, column, letter, on_value=values is not None)
    inks = [[ink(value, limits, colors) for value in line] for line in grid]
    if policy is not None:
        _draw_arrows(axes, maze, policy, inks, shift=-0.07 if numbers else 0.0)
    if numbers:
        for row, column in zip(*np.nonzero(~np.isnan(grid)), strict=True):
            style = {"ha": "right", "va": "center", "fontsize": 8, "color": inks[row][column]}
            axes.text(column + 0.48, row + 0.37, f"{grid[row, column]:.2f}", **style)
    axes.set_title(title)
    bare(axes)
    # Lines of our own, not a grid: its many ticks would take longer than all arrows.
    edges = {"color": "white", "linewidth": 1, "zorder": 1.5}
    axes.hlines(np.arange(n_rows + 1) - 0.5, -0.5, n_columns - 0.5, **edges)
    axes.vlines(np.arange(n_columns + 1) - 0.5, -0.5, n_rows - 0.5, **edges)
    return image


def draw_pieces(axes: Axes, maze: Maze, pieces: list[list[tuple[int, int]]]) -> None:
    """Recorded pieces, each a list of (state, action), as arrows with the numbers 1, 2, ...

    Drawn on `draw_maze`. Pieces that share a cell run beside each other; each ends just inside the
    cell that its last action leads to.
    """
    for number, (piece, color) in enumerate(zip(pieces, PATH_COLORS, strict=False)):
        cells = np.array([maze.cells[state] for state, _ in piece], dtype=float)
        end = cells[-1] + 0.7 * np.array(ACTION_STEPS[piece[-1][1]])
        x = np.append(cells[:, 1], end[1]) + 0.08 * (1.5 - number)
        y = np.append(cells[:, 0], end[0]) + 0.16 * (number % 2 - 0.5)
        rim = [withStroke(linewidth=7, foreground="white")]  # or black would vanish in a trap
        arrow = {"arrowstyle": "-|>,head_width=0.35", "color": color, "lw": 4, "path_effects": rim}
        arrow |= {"shrinkA": 0, "shrinkB": 0, "mutation_scale": 14}
        axes.annotate("", (x[-1], y[-1]), (x[-2], y[-2]), arrowprops=arrow, zorder=1.8)
        x[-1], y[-1] = 0.6 * x[-1] + 0.4 * x[-2], 0.6 * y[-1] + 0.4 * y[-2]  # to the arrow's head
        axes.plot(x, y, color=color, linewidth=4, solid_joinstyle="round")
        axes.plot(x[0], y[0], "o", color=color, markersize=17, markeredgecolor="white")
        style = {"ha": "center", "va": "center_baseline", "weight": "bold", "color": "white"}
        axes.text(x[0], y[0], f"{number + 1}", fontsize=11, **style)


def _draw_cell(axes: Axes, row: int, column: int, letter: str, *, on_value: bool) -> None:
    floor = None if on_value else {"color": "#eeeeee"}
    fill = {"#": WALL, "G": GOAL, "T": TRAP}.get(letter, floor)
    if fill:
        axes.add_patch(plt.Rectangle((column - 0.5, row - 0.5), 1, 1, **fill))
    if letter == "S":
        box = {"boxstyle": "round,pad=0.1", "color": "white", "alpha": 0.8}
        style = {"ha": "left", "va": "top", "fontsize": 9, "weight": "bold"}
        axes.text(column - 0.43, row - 0.41, "S", bbox=box, **style)
    elif letter == "G":
        frame = {"fill": False, "edgecolor": "black", "linewidth": 2}
        axes.add_patch(plt.Rectangle((column - 0.43, row - 0.43), 0.86, 0.86, **frame))
        axes.text(column, row, "G", weight="bold", ha="center", va="center")
    elif letter == "T":
        for slope in (-0.2, 0.2):
            ends = [column - 0.2, column + 0.2], [row - slope, row + slope]
            axes.plot(*ends, color="white", linewidth=2.5, solid_capstyle="round")


def _draw_arrows(
    axes: Axes,
    maze: Maze,
    policy: np.ndarray,
    inks: list[list[str]],
    shift: float,
) -> None:
    arrows, colors = [], []
    for (row, column), probabilities in zip(maze.cells, policy, strict=True):
        for (down, right), probability in zip(ACTION_STEPS, probabilities, strict=True):
            if probability >= 0.02:
                length = 0.12 + 0.3 * probability
                arrows.append((column + shift, row, length * right, length * down))
                colors.append(to_rgba(inks[row][column], 0.25 + 0.75 * probability))
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


def ink(
    value: float,
    limits: tuple[float, float] = (0.0, 1.0),
    colors: Colormap = VALUE_COLORS,
) -> str:
    """The color of text on a value's color: black on light ones and on none, white on dark ones."""
    low, high = limits
    red, green, blue, opacity = colors((value - low) / (high - low))
    brightness = 0.299 * red + 0.587 * green + 0.114 * blue
    return "white" if opacity and brightness < 0.483 else "black"


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
