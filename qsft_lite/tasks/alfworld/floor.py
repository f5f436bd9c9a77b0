"""A floor plan for what the agent knows: where receptacles are drawn, and how it has walked."""

from __future__ import annotations

from collections.abc import Sequence

from qsft_lite.tasks.alfworld.memory import Memory, read_history
from qsft_lite.tasks.alfworld.short import long_command
from qsft_lite.tasks.alfworld.text import read_command

# In inches: the plan is as wide for every room, and as high as its rows need.
WIDTH, COLUMNS, GAP = 8.6, 7, 0.07

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
