"""Explorers: a picture with sliders under it, redrawn as they move.

Each one first shows its picture at rest as an ordinary image, which stays where no kernel runs, as
on GitHub. They use nothing that ipywidgets 7.7 (Colab) and 8 do not share.
"""

from __future__ import annotations

import contextlib
import gc
import io
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Image, display
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from qsft_lite.viz import plots
from qsft_lite.viz.acting import beta_text, draw_policy
from qsft_lite.viz.simplex import draw_simplex

BETAS = (0.0, *(2.0**power for power in range(14)))
SUPPORTS = (0.0, 0.001, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 0.9)
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
        "tokens, with its minimum marked; right, bars of the values Q, and the targets as lines.",
    )


def policy_explorer(
    behavior: np.ndarray,
    values: Mapping[str, np.ndarray],
    states: Sequence[str],
    actions: Sequence[str] | Sequence[Sequence[str]],
    *,
    exact: np.ndarray | None = None,
    exact_name: str = "exact Q",
    state: int = 0,
    method: str | None = None,
    beta: float = 16.0,
    support: float = 0.0,
    most: int = 12,
) -> None:
    """What beta, the support at play and the score make of recorded values; see `draw_policy`.

    Controls: the state; the method whose values pi * exp(beta * q) takes, where there are several;
    beta; and the support, a share of the likeliest action's probability.

    Args:
        behavior: (S, A) probabilities by the clone; nan or 0 where the state has no such action.
        values: by title of the method, (S, A) values q, which count only where there is an action.
        states: their S texts.
        actions: the A texts of all states, or those of each state.
        exact: (S, A) of the same actions, to be shown beside, under the name exact_name.
        state: index of the state at the start; method, beta, support: as they are at the start.
        most: so many actions have a row each, and all others one row.

    Raises ValueError for arrays that do not fit, a state without actions, a value that is no number
    where there is an action, or a start value that its control cannot take.
    """
    pi = np.nan_to_num(np.asarray(behavior, dtype=float))
    if pi.ndim != 2 or pi.size == 0:
        raise ValueError(f"behavior must be (states, actions), got the shape {pi.shape}")
    if (pi < 0).any() or not (pi.sum(axis=1) > 0).all():
        raise ValueError("behavior must be probabilities, with an action in every state")
    if not values:
        raise ValueError("policy_explorer needs the values of at least one method")
    tables = {title: np.asarray(table, dtype=float) for title, table in values.items()}
    for name, table in tables.items() if exact is None else [*tables.items(), ("exact", exact)]:
        if np.shape(table) != pi.shape:
            raise ValueError(f"{name} has the shape {np.shape(table)}, behavior {pi.shape}")
        if not np.isfinite(np.asarray(table)[pi > 0]).all():
            raise ValueError(f"{name} is not a number somewhere where behavior has an action")
    names = [actions] * len(pi) if isinstance(actions[0], str) else actions
    if len(states) != len(pi) or len(names) != len(pi) or {*map(len, names)} != {pi.shape[1]}:
        raise ValueError("there must be a text for each state, and for each of its actions")
    if not (0 <= beta < np.inf and 0 <= support <= 1):
        raise ValueError(f"beta must be 0 or more and support 0 to 1, got {beta} and {support}")
    texts = [(f"{number}: {text.strip()}", number - 1) for number, text in enumerate(states, 1)]
    betas = [(beta_text(each), each) for each in sorted({*BETAS, float(beta)})]
    supports = [(f"{each:g}", each) for each in sorted({*SUPPORTS, float(support)})]
    method = next(iter(tables)) if method is None else method
    controls = {
        "state": choice("state", "state", state, texts),
        "method": choice("method", "values of", method, list(tables)),
        "beta": choice("beta", "β (sharpness)", float(beta), betas, ipywidgets.SelectionSlider),
        "support": choice(
            "support", "support at play", float(support), supports, ipywidgets.SelectionSlider
        ),
    }
    if len(tables) == 1:
        del controls["method"]

    def draw(state: int, beta: float, support: float, method: str = method) -> Figure:
        there = np.flatnonzero(pi[state])
        return draw_policy(
            pi[state, there],
            tables[method][state, there],
            [names[state][i].strip() for i in there],
            beta=beta,
            support=support,
            method=method,
            exact=None if exact is None else np.asarray(exact, dtype=float)[state, there],
            exact_name=exact_name,
            most=most,
            title=texts[state][0],
        )

    alt = "Bars of the probabilities of a state's actions, by the clone in grey and by the acting "
    alt += "policy in color; beside them, dots at the learned values of the actions"
    alt += "." if exact is None else f", and black marks at {exact_name}."
    show_explorer(draw, controls, alt)


def step_through(
    draw: Callable[..., Figure],
    controls: dict[str, Any],
    alt: str,
    *,
    lengths: Sequence[int],
    game: int = 1,
    turn: int = 1,
    first: int = 1,
    jump: tuple[str, Callable[[int], int]] | None = None,
) -> None:
    """Show games turn by turn: `show_explorer` with a control for the game and one for the turn.

    `draw` is a function of the game, from 1 on, of its turn, and of the values of the other
    `controls`. `lengths` has the last turn of each game, which stands for all later ones, and
    `first` is the first turn of every game; `game` and `turn` are shown at the start. `jump`: the
    text of a button, and a function from a game to the turn that the button goes to.

    Raises ValueError for no games, one without turns, or a start that no game has.
    """
    if not lengths or min(lengths) < first:
        raise ValueError("there must be at least one game, each with a turn or more")
    numbers, turns = range(1, len(lengths) + 1), range(first, max(lengths) + 1)
    stepping = {
        "game": choice("game", "game", game, numbers, ipywidgets.SelectionSlider),
        "turn": choice("turn", "turn", turn, turns, ipywidgets.SelectionSlider),
    }

    if jump is not None:
        controls = controls | {"jump": command(jump[0])}

    def draw_turn(game: int, turn: int, **others: Any) -> Figure:
        if others.pop("jump", False):
            turn = stepping["turn"].value = jump[1](game)
            controls["jump"].value = False
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
        # Figure.savefig would draw all of it twice, the first time for the layout alone.
        FigureCanvasAgg(figure).print_png(buffer, metadata={"Software": None})
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


def command(description: str, **options: Any) -> ipywidgets.ToggleButton:
    """A button: its value is True while the picture is drawn for it, which sets it back."""
    return ipywidgets.ToggleButton(value=False, description=description, **options)


def text_box(description: str, value: str = "", placeholder: str = "") -> ipywidgets.Text:
    """A box for a text, which counts when one presses Enter or leaves the box."""
    return ipywidgets.Text(
        value=value,
        description=description,
        placeholder=placeholder,
        continuous_update=False,
        style={"description_width": "105px"},
    )


def write_below(figure: Figure, note: str) -> None:
    """A text below a figure with an automatic layout, in lines that fit; nothing for ""."""
    if note:
        text = "\n".join(textwrap.wrap(note, int(11 * figure.get_size_inches()[0])))
        figure.supxlabel(text, x=0.01, ha="left", fontsize=11, color="#444444", parse_math=False)
