"""A room of ALFWorld beside a policy: what the agent knows of it, and what each command is worth."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from qsft_lite import viz
from qsft_lite.policy.cached import CachedPolicy
from qsft_lite.tasks.agent_widgets import (
    GREY,
    Played,
    draw_actions,
    next_actions,
    play_explorer,
    replay,
    shade_name,
)
from qsft_lite.tasks.alfworld.env import ALFWorld
from qsft_lite.tasks.alfworld.memory import Memory, read_history
from qsft_lite.tasks.alfworld.short import long_command
from qsft_lite.tasks.alfworld.text import read_command
from qsft_lite.viz.plots import HIGHLIGHT, PATH_COLORS, VALUE_COLORS, WALL, ink, value_bar

# In inches: the map is as wide for every room, and as high as its rows need.
WIDTH, PANEL, COLUMNS = 8.6, 3.7, 7
LINE, LETTER, GAP = 0.165, 0.086, 0.07  # of text of size 10
NEW, HERE = PATH_COLORS[0], HIGHLIGHT
MOST_WALKS = 12  # arrows of the path

Box = tuple[float, float, float, float, bool]  # left, bottom, width, height; front is at the bottom


def floor_plan(names: Sequence[str]) -> tuple[dict[str, Box], float]:
    """Where a room's receptacles are drawn, and how high the room is, in inches.

    They stand in rows, sorted by name and number, with aisles between the rows, where the agent
    walks: two rows along the walls of a small room, more in a large one. The places are ours.
    """
    names = sorted(names, key=lambda name: (name.partition(" ")[0], int(name.partition(" ")[2])))
    rows = max(2, -(-len(names) // COLUMNS))
    columns = max(1, -(-len(names) // rows))
    aisle = 1.2 if rows == 2 else 0.5 if rows == 3 else 0.32
    deep = max(0.8, (5.2 - (rows - 1) * aisle) / rows)
    height = rows * deep + (rows - 1) * aisle
    wide = WIDTH / columns
    boxes = {}
    for number, name in enumerate(names):
        row, column = divmod(number, columns)
        bottom = height - deep - row * (deep + aisle)
        boxes[name] = (column * wide, bottom, wide - GAP, deep, row < rows - 1)
    return boxes, height


def leads_to(command: str, memory: Memory) -> list[str]:
    """The receptacles that a command, in either form, has to do with, as far as the agent knows."""
    _, first, second = read_command(long_command(command))
    named = [name for name in (second, first) if name in memory.receptacles]
    return named[:1] or [name for name in memory.here if first in memory.contents.get(name, ())]


def visited(texts: Sequence[str]) -> list[str]:
    """The receptacles that the agent went to, in order: those that answered."""
    found, memory = [], None
    for end in range(1, len(texts) + 1, 2):
        memory, _ = read_history("".join(texts[:end]))
        verb, first, _ = read_command(memory.last)
        if verb == "go" and not memory.failed:
            found.append(first)
    return found


def draw_room(
    policy: CachedPolicy,
    env: ALFWorld,
    start: dict[str, Any],
    texts: Sequence[str],
    turn: int | None = None,
) -> Figure:
    """A room as the agent knows it after some turns, colored by the values of what it may do next.

    Each receptacle is a box, its head colored by the best value of a command that leads to it, or
    by pi if the policy has no values; beneath it what was last seen in it. Arrows are the agent's
    way, and the orange box is where it stands. Right, the ten best commands, and the one taken.

    Args:
        policy: with values or without.
        env: the environment that the transcript is of; it is left as it is.
        start: reset's options of the game.
        texts: its transcript: the first text, a command, its answer, ...
        turn: commands given at the moment that is shown; all if None.

    Raises:
        ValueError: a turn that the transcript does not have, or a transcript of another game.
    """
    turn = len(texts) // 2 if turn is None else turn
    now = replay(env.clone(), start, texts, turn)
    shown = list(texts[: 1 + 2 * turn])
    memory, _ = read_history("".join(shown))
    table = None
    if not now.over:
        taken = texts[1 + 2 * turn].strip() if turn < len(texts) // 2 else None
        table = next_actions(policy, shown, now.info["admissible_commands"], taken)
    boxes, height = floor_plan(memory.receptacles)
    size = WIDTH + PANEL + 0.35, height + 0.95
    with viz.figure(size, fixed=True) as figure:
        room = figure.add_axes((0.1 / size[0], 0.1 / size[1], WIDTH / size[0], height / size[1]))
        room.set(xlim=(-0.02, WIDTH), ylim=(-0.02, height + 0.02))
        _draw_way(room, boxes, visited(shown))
        shades = _shades(table, memory)
        for name, box in boxes.items():
            _draw_receptacle(room, name, box, memory, shades.get(name))
        viz.bare(room)
        room.patch.set_facecolor("#f7f4ee")
        left = (WIDTH + 0.3) / size[0]
        wide, high = PANEL / size[0], (height - 0.75) / size[1]
        panel = figure.add_axes((left, 0.85 / size[1], wide, high))
        if table is None:
            panel.set_title("the task is done" if now.reward else "not done")
            viz.bare(panel)
        else:
            panel.set_title(f"{min(len(table), 10)} best of {len(table)} commands", fontsize=12)
            draw_actions(panel, table)
            bar = figure.add_axes((left, 0.52 / size[1], 0.9 * wide, 0.14 / size[1]))
            value_bar(figure, None, shade_name(table), cax=bar, orientation="horizontal")
        place = {"x": 0.1 / size[0], "ha": "left"}
        figure.suptitle(_title(now, memory, texts, turn), fontsize=13, y=1 - 0.08 / size[1], **place)
    return figure


def _title(now: Played, memory: Memory, texts: Sequence[str], turn: int) -> str:
    """The task, what was done last, and what is carried."""
    last = "in the middle of the room"
    if turn:
        did = "which did nothing" if memory.failed else now.texts[-1].strip()
        last = f"{now.texts[-2].strip()} → {did}"
    held = memory.held or "nothing"
    if memory.held in memory.treated:
        held += " (treated)"
    first = f"Task: {now.info['task']}.   Carried: {held}"
    return f"{first}\nTurn {turn} of {len(texts) // 2}: {textwrap.shorten(last, 80)}"


def _shades(table: pd.DataFrame | None, memory: Memory) -> dict[str, float]:
    """Of each receptacle the best shade of a valid command that leads to it."""
    shades: dict[str, float] = {}
    if table is None:
        return shades
    for command, shade in table.loc[table["valid"], ["action", "shade"]].values:
        for name in leads_to(command, memory):
            shades[name] = max(shade, shades.get(name, 0.0))
    return shades


def _draw_receptacle(
    axes: Axes, name: str, box: Box, memory: Memory, shade: float | None
) -> None:
    left, bottom, wide, deep, _ = box
    letters, head = int((wide - 0.1) / LETTER), 2 * LINE + 0.07
    here, top = name in memory.here, bottom + deep
    rim = {"edgecolor": HERE, "lw": 3.5} if here else {"edgecolor": "#888888", "lw": 1}
    closed = name in memory.closed
    inner = {**WALL, "edgecolor": "#bbbbbb"} if closed else {"facecolor": "white", "lw": 0}
    axes.add_patch(plt.Rectangle((left, bottom), wide, deep - head, zorder=2, **inner))
    fill = "#dddddd" if shade is None else VALUE_COLORS(shade)
    color = "black" if shade is None else ink(shade)
    axes.add_patch(plt.Rectangle((left, top - head), wide, head, facecolor=fill, zorder=2))
    frame = plt.Rectangle((left, bottom), wide, deep, fill=False, zorder=4 if here else 3, **rim)
    axes.add_patch(frame)
    style = {"fontsize": 10, "va": "top", "zorder": 5}
    number = "" if shade is None else f"{shade:.2f}".removeprefix("0")
    label = textwrap.shorten(name, letters, placeholder="…") if len(name) <= letters else name
    axes.text(left + 0.05, top - 0.04, label, color=color, weight="bold", **style)
    axes.text(left + wide - 0.05, top - 0.04 - LINE, number, color=color, ha="right", **style)
    lines = int((deep - head - 0.04) / LINE)
    text, look = _inside(name, memory, letters, lines)
    axes.text(left + 0.05, top - head - 0.05, text, linespacing=1.15, color=look, **style)


def _inside(name: str, memory: Memory, letters: int, lines: int) -> tuple[str, str]:
    """What is written into a receptacle's box, of so many lines of so many letters; its color."""
    if name in memory.closed:
        return "closed", "black"
    if name not in memory.contents:
        return "not seen", GREY
    things = [thing.replace(" ", "") for thing in memory.contents[name]]
    if not things:
        return "empty", GREY
    kept = textwrap.wrap(" ".join(things), letters)
    if len(kept) > lines:
        count = len(" ".join(kept[: lines - 1]).split())
        kept = [*kept[: lines - 1], f"+{len(things) - count} more"]
    return "\n".join(kept), "black"


def _draw_way(axes: Axes, boxes: Mapping[str, Box], names: Sequence[str]) -> None:
    """Arrows from front to front, the latest the darkest; a dot has the number of the last call."""
    fronts = {}
    for name, (left, bottom, wide, deep, down) in boxes.items():
        fronts[name] = (left + wide / 2, bottom - 0.13 if down else bottom + deep + 0.13, down)
    walks = list(zip(names, names[1:], strict=False))[-MOST_WALKS:]
    for age, (origin, target) in enumerate(reversed(walks)):
        (x, y, down), (to_x, to_y, _) = fronts[origin], fronts[target]
        bend = 0.08
        if y == to_y and x != to_x:  # in one row: through the aisle before it
            bend = min(0.3, 0.5 / abs(to_x - x)) * (1 if (to_x > x) == down else -1)
        axes.annotate(
            "",
            (to_x, to_y),
            (x, y),
            zorder=1,
            arrowprops={
                "arrowstyle": "-|>,head_width=0.3,head_length=0.5",
                "connectionstyle": f"arc3,rad={bend}",
                "color": NEW,
                "alpha": max(1 - 0.12 * age, 0.25),
                "linewidth": 1.8,
                "shrinkA": 7,
                "shrinkB": 7,
            },
        )
    for number, name in enumerate(names, start=1):
        if number == len(names) or name not in names[number:]:
            x, y, _ = fronts[name]
            look = HERE if number == len(names) else NEW
            axes.plot(x, y, "o", color=look, markersize=13, zorder=6)
            style = {"ha": "center", "va": "center", "color": "white", "fontsize": 9}
            axes.text(x, y - 0.005, str(number), zorder=7, **style)


def room_explorer(
    policy: CachedPolicy,
    env: ALFWorld,
    starts: Sequence[dict[str, Any]],
    transcripts: Sequence[Mapping[str, Any]],
    *,
    game: int = 1,
    turn: int = 3,
) -> None:
    """Step through games, and play on from any turn with the commands that do something there.

    starts: reset's options of each game. transcripts: rows with its text. game, turn: those shown
    first. Raises ValueError for no games, not one transcript for each start, or another start value
    than is on offer.
    """
    own = env.clone()
    play_explorer(
        lambda start, texts, turn: draw_room(policy, own, start, texts, turn),
        lambda start, texts, turn: replay(own, start, texts, turn),
        lambda now: [] if now.over else now.info["admissible_commands"],
        starts,
        transcripts,
        "Left, a room as boxes, one for each receptacle, with what was seen in it, colored by the "
        "value of the command that leads there, and arrows for the agent's way; right, bars of the "
        "best next commands.",
        steps=env.max_steps,
        game=game,
        turn=turn,
    )
