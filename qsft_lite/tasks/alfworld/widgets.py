"""A room of ALFWorld beside a policy: what the agent knows, and what each command is worth."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from qsft_lite.policy.cached import CachedPolicy
from qsft_lite.tasks.agent_widgets import (
    GREY,
    TOO_LONG,
    draw_beside,
    next_actions,
    play_explorer,
    replay,
    short,
)
from qsft_lite.tasks.alfworld.env import ALFWorld
from qsft_lite.tasks.alfworld.floor import WIDTH, Box, floor_plan, leads_to, visited
from qsft_lite.tasks.alfworld.memory import Memory, read_history
from qsft_lite.viz.plots import HIGHLIGHT, PATH_COLORS, VALUE_COLORS, ink

LINE, LETTER = 0.165, 0.086  # of text of size 10, in inches
WAY, HERE, CLOSED = PATH_COLORS[0], HIGHLIGHT, "#cfcfcf"
MOST_WALKS = 12  # arrows of the path


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
    turns = len(texts) // 2
    turn = turns if turn is None else turn
    now = replay(env.clone(), start, texts, turn)
    memory, _ = read_history("".join(now.texts))
    table = None
    if not now.over:
        commands, taken = list(now.info["admissible_commands"]), ""
        if turn < turns:
            taken = texts[1 + 2 * turn].strip()
            after = replay(env.clone(), start, texts, turn + 1)
            commands += [taken] * after.info["valid"]  # such as "put", for "move"
        table = next_actions(policy, now.texts, commands, taken)
    boxes, height = floor_plan(memory.receptacles)

    def draw(axes: Axes) -> None:
        _draw_way(axes, boxes, visited(now.texts))
        shades = _shades(table, memory)
        for name, box in boxes.items():
            _draw_receptacle(axes, name, box, memory, shades.get(name))

    last, held = "in the middle of the room", memory.held or "nothing"
    if turn:
        did = "which did nothing" if memory.failed else now.texts[-1].strip()
        last = short(f"{now.texts[-2].strip()} → {did}", 100)
    held += " (treated)" * (held in memory.treated)
    return draw_beside(
        (WIDTH, height),
        draw,
        table,
        f"Task: {now.info['task']}.   Carried: {held}\nTurn {turn} of {turns}: {last}",
        end=("the task is done" if now.reward else "the task is not done")
        if now.over
        else TOO_LONG,
    )


def _shades(table: pd.DataFrame | None, memory: Memory) -> dict[str, float]:
    """Of each receptacle the best shade of a valid command that leads to it."""
    shades: dict[str, float] = {}
    if table is None:
        return shades
    for command, shade in table.loc[table["valid"], ["action", "shade"]].values:
        for name in leads_to(command, memory):
            shades[name] = max(shade, shades.get(name, 0.0))
    return shades


def _draw_receptacle(axes: Axes, name: str, box: Box, memory: Memory, shade: float | None) -> None:
    left, bottom, wide, deep, _ = box
    letters, head = int((wide - 0.1) / LETTER), 2 * LINE + 0.07
    here, top = name in memory.here, bottom + deep
    rim = {"edgecolor": HERE, "lw": 3.5} if here else {"edgecolor": "#888888", "lw": 1}
    rim["zorder"] = 3 if here else 2
    inner = CLOSED if name in memory.closed else "white"
    axes.add_patch(plt.Rectangle((left, bottom), wide, deep, facecolor=inner, **rim))
    fill = "#eeeeee" if shade is None else VALUE_COLORS(shade)
    axes.add_patch(plt.Rectangle((left, top - head), wide, head, facecolor=fill, **rim))
    label = name.replace(" ", "")
    if len(label) > letters:
        kind, number = name.split()
        label = f"{kind[: letters - 1 - len(number)]}…{number}"
    if shade is not None:
        label += f"\n{shade:.2f}"
    color = "black" if shade is None else ink(shade)
    style = {"fontsize": 10, "va": "top", "zorder": 5, "linespacing": 1.15}
    axes.text(left + 0.05, top - 0.04, label, color=color, **style)
    lines = int((deep - head - 0.04) / LINE)
    text, look = _inside(name, memory, letters, lines)
    axes.text(left + 0.05, top - head - 0.05, text, color=look, **style)


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
                "color": WAY,
                "alpha": max(1 - 0.12 * age, 0.25),
                "linewidth": 1.8,
                "shrinkA": 7,
                "shrinkB": 7,
            },
        )
    for number, name in enumerate(names, start=1):
        if number == len(names) or name not in names[number:]:
            x, y, _ = fronts[name]
            look = HERE if number == len(names) else WAY
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
