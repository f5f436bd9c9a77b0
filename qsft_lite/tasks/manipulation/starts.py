r"""The three tasks: where an episode starts, how long it may be, and what is success.

Each task falls into two halves. The start "prior" is the whole task's; the data that start there
stop half way. The start "task" is half way: the named block is in the gripper already, or the
drawer is open; only data from there reach the goal. No recorded episode does both, so that whoever
solves the whole task has put halves together (COG; Singh et al., 2020).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from qsft_lite.tasks.checks import check_choice
from qsft_lite.tasks.manipulation.table import (
    FLOOR,
    FRONT,
    HALF,
    LOWER,
    NEUTRAL,
    NOTHING,
    OPEN,
    TRAY_HIGH,
    TRAY_LOW,
    UPPER,
    Tables,
)
from qsft_lite.tasks.manipulation.text import COLORS

BLOCKS = 3  # on each table, of three colors
LIFTED = 0.3  # the height at which a block is out of its drawer
IS_OPEN = 0.2  # a drawer that is open as far as this can be reached into


class Horizon(NamedTuple):
    """The most steps of an episode of the whole task and of the data of its halves.

    A whole task has about twice the steps that a script without faults takes: 29, 38 and 41.
    """

    whole: int
    prior: int
    task: int


HORIZONS = {
    "tray": Horizon(60, 20, 20),
    "drawer": Horizon(80, 25, 25),
    "shut_drawer": Horizon(80, 55, 25),
}
STARTS = ("prior", "task")

# Where blocks may stand on the table at first: out of the tray, and of the way of the drawers.
FREE = np.array([(x, y) for y in (0.12, 0.31) for x in (0.12, 0.31, 0.5, 0.69, 0.88)])
BESIDE = np.array([(x, y) for y in (0.12, 0.25) for x in (0.62, 0.78, 0.92)])  # drawers may open


def start_tables(task: str, start: str, n: int, rng: np.random.Generator) -> Tables:
    """n tables at a start of the task, "prior" or "task"; ValueError for an unknown one."""
    check_choice(task, HORIZONS, "task")
    check_choice(start, STARTS, "start")
    colors = rng.permuted(np.tile(np.arange(len(COLORS)), (n, 1)), axis=1)[:, :BLOCKS]
    position = rng.uniform([0.2, 0.1, 0.3], [0.8, 0.5, 0.45], (n, 3))
    tables = Tables(
        position=position,
        angles=rng.uniform(-0.2, 0.2, (n, 3)),
        shut=np.zeros(n, dtype=bool),
        holding=np.full(n, NOTHING),
        blocks=np.full((n, BLOCKS, 3), HALF),
        inside=np.full((n, BLOCKS), NOTHING),
        colors=colors,
        named=np.zeros(n, dtype=np.int64),
        drawers=np.zeros((n, 2)),
        seed=rng.integers(2**64, size=n, dtype=np.uint64),
        steps=np.zeros(n, dtype=np.int64),
    )
    if task == "tray":
        cells = rng.permuted(np.tile(np.arange(len(FREE)), (n, 1)), axis=1)[:, :BLOCKS]
        tables.blocks[..., :2] = FREE[cells] + rng.uniform(-0.03, 0.03, (n, BLOCKS, 2))
        if start == "task":
            tables.shut[:], tables.holding[:] = True, 0
            tables.position[:] = rng.uniform([0.1, 0.1, 0.15], [0.9, 0.5, 0.45], (n, 3))
            tables.blocks[:, 0] = tables.position
    else:
        _fill_drawer(task, start, tables, rng)
    return _shuffled(tables, rng)


def _fill_drawer(task: str, start: str, tables: Tables, rng: np.random.Generator) -> None:
    """Put blocks 0, the named one, and 1 into the lower drawer, and open drawers."""
    n = len(tables)
    left = rng.random(n) < 0.5
    x = np.where(np.stack([left, ~left], 1), 0.17, 0.37) + rng.uniform(-0.03, 0.03, (n, 2))
    deep = rng.uniform(0.1, 0.18, (n, 2))
    height = np.full((n, 2), FLOOR[LOWER] + HALF)
    tables.blocks[:, :2] = np.stack([x, FRONT + deep, height], -1)
    tables.inside[:, :2] = LOWER
    cells = rng.integers(len(BESIDE), size=n)
    tables.blocks[:, 2, :2] = BESIDE[cells] + rng.uniform(-0.03, 0.03, (n, 2))
    opened = rng.uniform(0.24, OPEN, n)
    if start == "task":
        tables.drawers[:, LOWER] = opened
        tables.blocks[:, :2, 1] -= opened[:, None]
    elif task == "shut_drawer":
        tables.drawers[:, UPPER] = opened
        tables.position[:, 2] = tables.position[:, 2].clip(0.36)  # above the open drawer
    if start == "task":
        near = rng.uniform(-1, 1, (n, 3)) * [0.3, 0.2, 0.08]
        tables.position[:] = NEUTRAL + near


def _shuffled(tables: Tables, rng: np.random.Generator) -> Tables:
    """The same with the blocks in another order, which tells nothing of what they are."""
    n = len(tables)
    order = rng.permuted(np.tile(np.arange(BLOCKS), (n, 1)), axis=1)
    rows = np.arange(n)[:, None]
    tables.blocks, tables.inside = tables.blocks[rows, order], tables.inside[rows, order]
    tables.named = order.argmin(1)
    tables.holding = np.where(tables.holding == 0, tables.named, tables.holding)
    return tables


def is_success(task: str, tables: Tables) -> np.ndarray:
    """(B,) bool: the named block lies on the tray, or is held above its drawer."""
    every = np.arange(len(tables))
    block = tables.blocks[every, tables.named]
    held = tables.holding == tables.named
    if task == "tray":
        over = ((block[:, :2] >= TRAY_LOW) & (block[:, :2] <= TRAY_HIGH)).all(1)
        return over & ~held
    return held & (block[:, 2] >= LIFTED)
