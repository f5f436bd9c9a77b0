r"""Scripts that play the tasks, well and badly, on many tables at once.

A script sees the table itself, and its next action depends on that alone, not on what it did
before. Its actions get Gaussian noise and are cut to [-LARGEST, LARGEST], as COG's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from qsft_lite.tasks.checks import check_choice
from qsft_lite.tasks.manipulation.bins import ActionBins
from qsft_lite.tasks.manipulation.starts import (
    BLOCKS,
    HORIZONS,
    IS_OPEN,
    is_success,
    start_tables,
)
from qsft_lite.tasks.manipulation.table import (
    BOARD,
    FRONT,
    HANDLE_X,
    HANDLE_Z,
    LOWER,
    LOWER_HANDLE,
    OPEN,
    STEP,
    TRAY_HIGH,
    TRAY_LOW,
    TURN,
    UPPER,
    Tables,
)
from qsft_lite.tasks.manipulation.text import read_states

NOISE, LARGEST = 0.1, 0.9
HOVER = 0.43  # the height at which it travels
LET_GO = np.array([0.0, 0, 0, 0, 0, 0, -1, -1])  # before it moves on, or the drawer would follow
CLEAR = 0.22  # above it, it pushes no lower drawer
NEAR = 0.03  # so near along x and y it goes down

# How the data are played: to the end, with a wrong block, letting go on the way, a little beside
# what it wants, or from one place to another for no reason.
BEHAVIOR = {"good": 0.6, "wrong": 0.1, "early": 0.1, "sloppy": 0.1, "wander": 0.1}


@dataclass
class Plans:
    """What the scripts of B tables are about to do.

    Attributes:
        block: (B,) int64, the block that it wants.
        beside: (B, 2) float64, how far from things it thinks them to be.
        gives_up: (B,) int64, the step from which it wanders, with an open gripper.
        places: (B, 2) float64, where on the tray it puts a block.
        goals: (B, K, 3) float64, where it wanders, one after another.
    """

    block: np.ndarray
    beside: np.ndarray
    gives_up: np.ndarray
    places: np.ndarray
    goals: np.ndarray


def good_plans(tables: Tables, rng: np.random.Generator) -> Plans:
    """Plans of which none goes wrong."""
    n = len(tables)
    return Plans(
        block=tables.named.copy(),
        beside=np.zeros((n, 2)),
        gives_up=np.full(n, 10_000),
        places=rng.uniform(TRAY_LOW + 0.06, TRAY_HIGH - 0.06, (n, 2)),
        goals=rng.uniform([0.05, 0.05, 0.1], [0.95, 0.65, 0.45], (n, 10, 3)),
    )


def draw_plans(
    task: str, part: str, tables: Tables, behavior: Mapping[str, float], rng: np.random.Generator
) -> Plans:
    """Plans of kinds that are drawn with the weights of behavior, see BEHAVIOR."""
    plans = good_plans(tables, rng)
    n, longest = len(tables), getattr(HORIZONS[task], part)
    kind = np.array(list(behavior))[rng.choice(len(behavior), n, p=list(behavior.values()))]
    other = (plans.block + rng.integers(1, BLOCKS, n)) % BLOCKS
    plans.block = np.where(kind == "wrong", other, plans.block)
    sloppy = rng.normal(0, 0.04, (n, 2))
    plans.beside = np.where((kind == "sloppy")[:, None], sloppy, plans.beside)
    early = rng.integers(3, longest, n)
    plans.gives_up = np.select([kind == "early", kind == "wander"], [early, 0], plans.gives_up)
    return plans


class Script:
    """Plays a part of a task: "prior", "task", or "whole", from the prior's start to the goal."""

    def __init__(self, task: str, part: str, plans: Plans):
        self.task, self.part, self.plans = task, part, plans

    def act(self, tables: Tables) -> np.ndarray:
        """(B, 8) actions without noise, for the tables that the plans are of."""
        plans = self.plans
        if self.task == "tray":
            actions = self._tray(tables)
        else:
            actions = self._drawer(tables)
        goal = plans.goals[np.arange(len(tables)), (tables.steps // 6) % plans.goals.shape[1]]
        wanders = tables.steps >= plans.gives_up
        actions = np.where(wanders[:, None], _towards(tables, goal, -1.0), actions)
        actions[:, 3:6] = (-tables.angles / TURN).clip(-1, 1)
        return actions

    def _tray(self, tables: Tables) -> np.ndarray:
        has = tables.holding == self.plans.block
        goal = np.column_stack([self.plans.places + self.plans.beside, np.full(len(tables), 0.2)])
        if self.part == "prior":  # lift it, and wait
            over = np.where(has, np.minimum(tables.position[:, 2] + 0.1, 0.35), 0)
            goal = np.column_stack([tables.position[:, :2], over])
        there = _gap(tables, goal) < NEAR
        lets_go = there & (self.part != "prior") & (tables.position[:, 2] < 0.25)
        carry = _towards(tables, goal, np.where(lets_go, -1.0, 1.0))
        if self.part == "task":  # what it has let go stays where it is
            return np.where(has[:, None], carry, _rest(tables))
        return np.where(has[:, None], carry, self._pick(tables))

    def _drawer(self, tables: Tables) -> np.ndarray:
        upper, lower = tables.drawers[:, UPPER], tables.drawers[:, LOWER]
        has = tables.holding == self.plans.block
        up = np.column_stack([tables.position[:, :2], np.full(len(tables), HOVER)])
        last = np.where(has[:, None], _towards(tables, up, 1.0), self._pick(tables))
        if self.part == "task":
            return last
        pulls = (tables.holding == LOWER_HANDLE) & (lower < OPEN - 0.02)
        shuts = (upper > 0.02) & ~pulls
        opens = pulls | (lower < IS_OPEN)
        last = _rest(tables) if self.part == "prior" else last
        last = np.where((tables.holding >= LOWER_HANDLE)[:, None], LET_GO, last)
        last = np.where(opens[:, None], self._pull(tables), last)
        return np.where(shuts[:, None], self._push(tables), last)

    def _pick(self, tables: Tables) -> np.ndarray:
        goal = tables.blocks[np.arange(len(tables)), self.plans.block].copy()
        goal[:, :2] += self.plans.beside
        return _fetch(tables, goal)

    def _pull(self, tables: Tables) -> np.ndarray:
        """Take the lower handle, and pull."""
        goal = tables.handle(LOWER)
        goal[:, :2] += self.plans.beside * [1, 0.5]
        pulls = np.tile([0.0, -1, 0, 0, 0, 0, 1, -1], (len(tables), 1))
        holds = tables.holding == LOWER_HANDLE
        return np.where(holds[:, None], pulls, _fetch(tables, goal))

    def _push(self, tables: Tables) -> np.ndarray:
        """Go in front of the upper drawer, and push."""
        x, y, z = tables.position.T
        front = FRONT - BOARD - tables.drawers[:, UPPER]
        goal = np.column_stack([np.full_like(x, HANDLE_X), front - 0.08, np.full_like(x, 0)])
        goal[:, :2] += self.plans.beside
        goal[:, 2] = HANDLE_Z[UPPER]
        level = (
            (np.abs(z - goal[:, 2]) < 0.05) & (y <= front + BOARD) & (np.abs(x - HANDLE_X) < 0.15)
        )
        pushes = np.tile([0.0, 1, 0, 0, 0, 0, -1, -1], (len(x), 1))
        return np.where(level[:, None], pushes, _towards(tables, goal, -1.0))


def _fetch(tables: Tables, goal: np.ndarray) -> np.ndarray:
    """Go down to a goal (B, 3) with an open gripper, and shut it there."""
    near = (_gap(tables, goal) < NEAR) & (np.abs(tables.position[:, 2] - goal[:, 2]) < 0.03)
    return _towards(tables, goal, np.where(near & ~tables.shut, 1.0, -1.0))


def _rest(tables: Tables) -> np.ndarray:
    """Stop, with the gripper as it is."""
    actions = np.tile([0.0, 0, 0, 0, 0, 0, -1, 1], (len(tables), 1))
    actions[:, 6] = np.where(tables.shut, 1, -1)
    return actions


def _gap(tables: Tables, goal: np.ndarray) -> np.ndarray:
    """(B,) the larger distance to a goal along x and y."""
    return np.abs(goal - tables.position)[:, :2].max(1)


def _towards(tables: Tables, goal: np.ndarray, grip: np.ndarray | float) -> np.ndarray:
    """(B, 8) actions towards a goal (B, 3): up, over the things, and down where it is near."""
    gap = _gap(tables, goal)
    height = np.select([gap < NEAR, gap < 0.1], [goal[:, 2], tables.position[:, 2]], HOVER)
    height = np.maximum(height, goal[:, 2])
    way = np.column_stack([goal[:, :2], height]) - tables.position
    way[:, :2] *= ((gap < 0.1) | (tables.position[:, 2] > CLEAR))[:, None]
    actions = np.zeros((len(tables), 8))
    actions[:, :3] = (way / STEP).clip(-1, 1)
    actions[:, 6], actions[:, 7] = grip, -1
    return actions


def noisy(actions: np.ndarray, noise: float, rng: np.random.Generator) -> np.ndarray:
    """Actions with Gaussian noise of this deviation, cut to [-LARGEST, LARGEST]."""
    return (actions + noise * rng.standard_normal(actions.shape)).clip(-LARGEST, LARGEST)


def log_chance_of_bins(
    actions: np.ndarray, noise: float, bins: ActionBins, chosen: np.ndarray
) -> np.ndarray:
    """(B,) log of the probability that noisy(actions) falls into the bins chosen (B, 8)."""
    found = np.zeros(len(actions))
    for mean, edges, bin in zip(actions.T, bins.edges, chosen.T, strict=True):
        way = edges[:, None] - mean
        below = norm.cdf(way / noise) if noise else (way >= 0).astype(float)  # up to each edge
        below[edges >= LARGEST], below[edges < -LARGEST] = 1, 0
        below = np.vstack([np.zeros_like(mean), below, np.ones_like(mean)])
        rows = np.arange(len(mean))
        with np.errstate(divide="ignore"):
            found += np.log(below[bin + 1, rows] - below[bin, rows])
    return found


class StatePlayer:
    """Plays a whole task by the texts of the format "state", without faults.

    What it does not see exactly, it takes to be in the middle of its bin.
    """

    def __init__(
        self, task: str, seed: int = 0, noise: float = 0.0, bins: ActionBins | None = None
    ):
        check_choice(task, HORIZONS, "task")
        self.task, self.noise, self.bins = task, noise, bins or ActionBins.uniform()
        self.reset(seed)

    def reset(self, seed: int) -> None:
        """Begin anew."""
        self.rng = np.random.default_rng(seed)

    def act(self, histories: Sequence[str]) -> list[str]:
        """The next action text of each transcript, of which only the last line counts."""
        tables = read_states(histories)
        plans = good_plans(tables, self.rng)
        plans.places[:] = (TRAY_LOW + TRAY_HIGH) / 2  # the same at each step
        actions = noisy(Script(self.task, "whole", plans).act(tables), self.noise, self.rng)
        return self.bins.write(self.bins.encode(actions))


def success_rate(task: str, part: str, n: int, seed: int, *, noise: float = NOISE) -> float:
    """Share of n episodes that a script without faults brings to an end, noise apart.

    For "prior" the end is the half way: the named block is held, or the lower drawer is open. Whole
    tasks at noise 0, .1 and .3: 1; at .5: tray .72, drawer .72, shut_drawer .46. (COG's
    own simulator, at .1: pick to tray 4 of 4, drawer 4 of 5.)
    """
    rng = np.random.default_rng(seed)
    tables = start_tables(task, "task" if part == "task" else "prior", n, rng)
    script = Script(task, part, good_plans(tables, rng))
    done = np.zeros(n, dtype=bool)
    for _ in range(getattr(HORIZONS[task], part)):
        tables.step(noisy(script.act(tables), noise, rng))
        done |= is_success(task, tables)
    if part == "prior":
        done = is_half_way(task, tables)
    return float(done.mean())


def is_half_way(task: str, tables: Tables) -> np.ndarray:
    """(B,) bool: where the data of the prior should end."""
    if task == "tray":
        return tables.holding == tables.named
    return (tables.drawers[:, LOWER] >= IS_OPEN) & (tables.drawers[:, UPPER] <= 0.05)
