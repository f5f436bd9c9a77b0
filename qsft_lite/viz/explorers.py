"""Explorers: a picture with sliders under it, redrawn as they move.

Each one first shows its picture at rest as an ordinary image, which stays where no kernel runs, as
on GitHub. They use nothing that ipywidgets 7.7 (Colab) and 8 do not share.
"""

from __future__ import annotations

import contextlib
import gc
import io
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ipywidgets
import matplotlib.pyplot as plt
from IPython.display import Image, display
from matplotlib.figure import Figure

from qsft_lite.viz import plots
from qsft_lite.viz.simplex import draw_simplex

LEFTOVERS = tuple((label, leftover) for leftover, label in plots.FORMS.items())


def simplex_explorer(
    *,
    behavior: tuple[float, float, float] = (0.6, 0.3, 0.1),
    target: tuple[float, float, float] = (0.3, 0.9, 0.6),
    leftover: str = "uniform",
) -> None:
    """Show the loss over the simplex with controls for pi, y and the leftover; see `draw_simplex`.

    The sliders of pi are shares, scaled to sum to 1, of 0.01 or more. The forms with dummies take
    the first two actions, as the third corner is the dummy's.

    Raises ValueError for a start value that its control does not offer.
    """
    controls: dict[str, Any] = {}
    for name, values, prefix, label, low in (
        ("behavior", behavior, "pi", "π({}) ∝", 0.01),
        ("target", target, "y", "y({})", 0),
    ):
        if len(values) != 3:
            raise ValueError(f"{name} must have 3 entries, got {values}")
        for action, value in zip("abc", values, strict=True):
            control = slider(name, label.format(action), value, (low, 1), 0.01, ".2f")
            controls[f"{prefix}_{action}"] = control
    controls["leftover"] = choice("leftover", "leftover", leftover, LEFTOVERS)
    for name in ("pi_c", "y_c"):
        link = (controls["leftover"], "value"), (controls[name], "disabled")
        ipywidgets.dlink(*link, lambda leftover: leftover != "uniform")

    def draw(leftover: str, **values: float) -> Figure:
        actions = "abc" if leftover == "uniform" else "ab"
        total = sum(values[f"pi_{action}"] for action in actions)
        return draw_simplex(
            behavior=tuple(values[f"pi_{action}"] / total for action in actions),
            target=tuple(values[f"y_{action}"] for action in actions),
            leftover=leftover,
        )

    show_explorer(
        draw,
        controls,
        "Left, contours of the expected loss over the triangle of all probabilities of three "
        "tokens, with its minimum marked; right, bars of the targets and of the values Q.",
    )


def step_through(
    draw: Callable[..., Figure],
    controls: dict[str, Any],
    alt: str,
    *,
    lengths: Sequence[int],
    game: int = 1,
    turn: int = 1,
    first: int = 1,
) -> None:
    """Show games turn by turn: `show_explorer` with a control for the game and one for the turn.

    `draw` is a function of the game, from 1 on, of its turn, and of the values of the other
    `controls`. `lengths` has the last turn of each game, which stands for all later ones, and
    `first` is the first turn of every game; `game` and `turn` are shown at the start.

    Raises ValueError for no games, one without turns, or a start that no game has.
    """
    if not lengths or min(lengths) < first:
        raise ValueError("there must be at least one game, each with a turn or more")
    numbers, turns = range(1, len(lengths) + 1), range(first, max(lengths) + 1)
    stepping = {
        "game": choice("game", "game", game, numbers, ipywidgets.SelectionSlider),
        "turn": choice("turn", "turn", turn, turns, ipywidgets.SelectionSlider),
    }

    def draw_turn(game: int, turn: int, **others: Any) -> Figure:
        return draw(game=game, turn=min(turn, lengths[game - 1]), **others)

    show_explorer(draw_turn, stepping | controls, alt)


def show_explorer(draw: Callable[..., Figure], controls: dict[str, Any], alt: str) -> None:
    """Display draw(**values of the controls), then the controls with a copy that follows them.

    draw may change the controls, such as what they offer; that alone draws nothing anew.
    """
    drawing = False

    def picture() -> bytes:
        return _png(draw(**{name: control.value for name, control in controls.items()}))

    def redraw(_change: object) -> None:
        nonlocal drawing
        if drawing:
            return
        drawing = True
        try:
            with _young_garbage_only():
                live.value = picture()
        finally:
            drawing = False

    at_rest = picture()
    live = ipywidgets.Image(value=at_rest, format="png", layout={"max_width": "100%"})
    for control in controls.values():
        control.observe(redraw, names="value")
    # Three columns, filled from top to bottom.
    rows = -(-len(controls) // 3)
    everything = list(controls.values())
    columns = [ipywidgets.VBox(everything[i : i + rows]) for i in range(0, len(everything), rows)]
    grid = ipywidgets.HBox(columns, layout={"flex_flow": "row wrap"})
    display(Image(data=at_rest, alt=alt))
    display(ipywidgets.VBox([grid, live]))


@contextlib.contextmanager
def _young_garbage_only() -> Iterator[None]:
    """Collect what the block leaves behind by itself, at once.

    A figure is full of reference cycles. Left to itself, the collector goes through every object of
    the session at each fifth redraw or so, which takes as long as the redraw.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.collect(1)
        if was_enabled:
            gc.enable()


def _png(figure: Figure) -> bytes:
    """The figure as PNG, the same bytes for the same figure."""
    buffer = io.BytesIO()
    with plt.rc_context(plots.STYLE):  # matplotlib makes tick labels only now
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def slider(
    name: str,
    description: str,
    value: float,
    limits: tuple[float, float],
    step: float,
    readout: str,
) -> ipywidgets.FloatSlider:
    """A control for a number within limits; ValueError for a start value outside them."""
    low, high = limits
    if not low <= value <= high:
        raise ValueError(f"{name} must lie in [{low}, {high}], got {value}")
    # Redrawing while it is dragged does not pile up: the browser holds back a change until the
    # kernel has answered the one before, and then sends the latest only.
    return ipywidgets.FloatSlider(
        value=value,
        min=low,
        max=high,
        step=step,
        description=description,
        readout_format=readout,
        continuous_update=True,
        style={"description_width": "105px"},
    )


def choice(
    name: str,
    description: str,
    value: Any,
    options: Sequence[Any],
    control: type = ipywidgets.Dropdown,
) -> Any:
    """A control for one of several values or (label, value); ValueError for another start value."""
    offered = [option[1] if isinstance(option, tuple) else option for option in options]
    if value not in offered:
        raise ValueError(f"{name} must be one of {', '.join(map(str, offered))}, got {value!r}")
    return control(
        options=options,
        value=value,
        description=description,
        style={"description_width": "105px"},
    )
