r"""The table, without a physics engine: many tables are stepped at once.

Lengths are in widths of the table. x runs to the right, y away from the viewer, z up. A cabinet
with two drawers, one above the other, stands at the back; a drawer opens towards the viewer. The
gripper is a point, the middle between its fingertips. What holds:

- It moves by at most STEP along each axis, and turns by at most TURN. It stays above what it is
  over, and does not pass through the sides of the cabinet and of the drawers: there it only rises
  or sinks. Blocks do not touch each other.
- When it shuts, it grasps the nearest block within REACH along each axis, with the chance
  1.3 - (distance / REACH + the larger tilt / 2), cut to [0, 1]; or else a handle, for sure.
- A block that it lets go falls to what is below. A handle that it holds goes with it along y, with
  the drawer and the blocks therein; an open drawer can also be pushed shut from the front.
- Under the open upper drawer the lower one can be neither grasped nor reached into.

Chances are numbers of the table itself (its seed and its step), so a table goes the same way
alone and among others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

STEP, TURN = 0.07, 0.2
LOW, HIGH = np.array([0.03, 0.03, 0.05]), np.array([0.97, 0.97, 0.5])  # where the gripper can be
HALF = 0.05  # of a block's side, and the least height of the gripper above what it is over
REACH = 0.06
NEUTRAL = np.array([0.5, 0.3, 0.4])

FRONT, BOARD, OPEN = 0.72, 0.03, 0.28  # the cabinet's front, a drawer's thickness there, its way
DRAWER_X = (0.06, 0.48)  # left and right side
HANDLE_X, HANDLE_REACH = 0.27, np.array([0.1, 0.05, 0.05])
BOTTOM = np.array([0.0, 0.15])  # of the lower and the upper drawer
TOP = BOTTOM + 0.15
FLOOR = BOTTOM + 0.02
HANDLE_Z = BOTTOM + 0.08
CABINET_TOP = 0.32
TRAY_LOW, TRAY_HIGH = np.array([0.62, 0.38]), np.array([0.94, 0.68])

LOWER, UPPER = 0, 1  # drawers
ON_TABLE, IN_LOWER, IN_UPPER, ON_CABINET, ON_LOWER, ON_UPPER = range(6)  # ON_: top of a board
NOTHING, LOWER_HANDLE, UPPER_HANDLE = -1, 100, 101  # what is held, if not block 0, 1, ...


@dataclass
class Tables:
    """B tables, which `step` changes.

    Attributes:
        position: (B, 3) float64, x, y and z of the gripper.
        angles: (B, 3) float64 in [-1, 1], its tilt sideways and forward, and its turn, in radians.
        shut: (B,) bool, whether the gripper is shut (around what it holds).
        holding: (B,) int64, a block's index, LOWER_HANDLE, UPPER_HANDLE or NOTHING.
        blocks: (B, N, 3) float64, middles of the blocks.
        inside: (B, N) int64, the drawer that a block lies in, or NOTHING.
        colors: (B, N) int64, of the blocks: indices of `text.COLORS`.
        named: (B,) int64, index of the block that the instruction names.
        drawers: (B, 2) float64, how far the lower and the upper drawer are open, 0 to OPEN.
        seed: (B,) uint64, of the chances.
        steps: (B,) int64, steps taken.
    """

    position: np.ndarray
    angles: np.ndarray
    shut: np.ndarray
    holding: np.ndarray
    blocks: np.ndarray
    inside: np.ndarray
    colors: np.ndarray
    named: np.ndarray
    drawers: np.ndarray
    seed: np.ndarray
    steps: np.ndarray

    def __len__(self) -> int:
        return len(self.position)

    def take(self, rows: np.ndarray | Sequence[int]) -> Tables:
        """Copies of these tables; rows: indices or a mask."""
        return Tables(*(getattr(self, field.name)[np.asarray(rows)] for field in fields(self)))

    @classmethod
    def joined(cls, parts: Sequence[Tables]) -> Tables:
        """The tables of all parts, one after another."""
        names = [field.name for field in fields(cls)]
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))

    def state(self) -> np.ndarray:
        """(B, 10) float64, what the robot feels of itself.

        0-2 position; 3-5 angles; 6-7 how far the left and the right finger are from the middle, 0
        (shut on nothing) to 1 (open), 0.5 on a block and 0.25 on a handle; 8 the command, 1 open
        and 0 shut; 9 whether it feels something between its fingers, 1 or 0.
        """
        width = np.where(self.holding >= 0, np.where(self.holding >= LOWER_HANDLE, 0.25, 0.5), 0)
        width = np.where(self.shut, width, 1.0)[:, None]
        command, feels = ~self.shut[:, None], (self.holding != NOTHING)[:, None]
        return np.hstack([self.position, self.angles, width, width, command, feels])

    def step(self, actions: np.ndarray) -> None:
        """Take one step on every table.

        actions: (B, 8) numbers, cut to [-1, 1]: 0-2 the way along x, y, z in STEPs; 3-5 the change
        of the angles in TURNs; 6 the gripper, above 0 shut, else open; 7 stop: above 0 the arm
        leaves off and goes back towards NEUTRAL and angles 0 instead, with its gripper as it is.

        Raises ValueError for another shape, and for a number that is not finite.
        """
        actions = check_actions(actions, len(self))
        stop = actions[:, 7] > 0
        way = np.where(stop[:, None], NEUTRAL - self.position, STEP * actions[:, :3])
        way = way.clip(-STEP, STEP)
        turn = np.where(stop[:, None], -self.angles, TURN * actions[:, 3:6]).clip(-TURN, TURN)
        self.angles = (self.angles + turn).clip(-1, 1)
        self._move(way)
        shut = np.where(stop, self.shut, actions[:, 6] > 0)
        self._release(self.shut & ~shut)
        self._grasp(~self.shut & shut)
        self.shut = shut
        self.steps = self.steps + 1

    def _move(self, way: np.ndarray) -> None:
        """Move the gripper by way (B, 3), and what it holds or pushes."""
        old = self.position
        new = (old + way).clip(LOW, HIGH)
        for drawer in (UPPER, LOWER):
            held = self.holding == LOWER_HANDLE + drawer
            front = FRONT - BOARD - self.drawers[:, drawer]
            before = (old[:, 1] <= front) & _between(old[:, 0], *DRAWER_X)
            level = _between(old[:, 2], BOTTOM[drawer], TOP[drawer])
            pushed = before & level & (new[:, 1] > front) & (self.holding < LOWER_HANDLE)
            opened = self.drawers[:, drawer] - np.where(held, way[:, 1], 0)
            opened = np.where(pushed, FRONT - BOARD - new[:, 1], opened).clip(0, OPEN)
            pulled = self.drawers[:, drawer] - opened  # along y
            self.drawers[:, drawer] = opened
            self.blocks[:, :, 1] += np.where(self.inside == drawer, pulled[:, None], 0)
            new[:, 1] = np.where(pushed, FRONT - BOARD - opened, new[:, 1])
            along = old + pulled[:, None] * [0.0, 1.0, 0.0]
            new = np.where(held[:, None], along, new)
        place, _, wall = self.below(old)
        new_place, _, new_wall = self.below(new)
        over = np.maximum(wall, new_wall) + HALF
        blocked = (place != new_place) & (np.maximum(old[:, 2], new[:, 2]) < over - 1e-9)
        blocked &= self.holding < LOWER_HANDLE
        new[:, :2] = np.where(blocked[:, None], old[:, :2], new[:, :2])
        floor = self.below(new)[1] + HALF
        new[:, 2] = np.where(self.holding < LOWER_HANDLE, np.maximum(new[:, 2], floor), new[:, 2])
        self.position = new
        rows, held = self.held_blocks()
        self.blocks[rows, held] = new[rows]

    def held_blocks(self, among: np.ndarray | bool = True) -> tuple[np.ndarray, np.ndarray]:
        """The tables where a block is held, and which."""
        rows = np.flatnonzero((self.holding >= 0) & (self.holding < LOWER_HANDLE) & among)
        return rows, self.holding[rows]

    def _release(self, opens: np.ndarray) -> None:
        """Let go; a block falls."""
        rows, held = self.held_blocks(opens)
        place, floor, _ = (part[rows] for part in self.below(self.position))
        self.blocks[rows, held, 2] = floor + HALF
        drawer = np.select([place == IN_LOWER, place == IN_UPPER], [LOWER, UPPER], NOTHING)
        self.inside[rows, held] = drawer
        self.holding = np.where(opens, NOTHING, self.holding)

    def _grasp(self, shuts: np.ndarray) -> None:
        """Take a block, or else a handle, where the gripper shuts."""
        gap = np.abs(self.blocks - self.position[:, None])  # (B, N, 3)
        distance = np.hypot(gap[..., 0], gap[..., 1])
        distance = np.where((gap <= REACH).all(-1), distance, np.inf)
        every = np.arange(len(self))
        nearest = distance.argmin(1)
        tilt = np.abs(self.angles[:, :2]).max(1)
        chance = 1.3 - (distance[every, nearest] / REACH + tilt / 2)
        near = distance[every, nearest] < np.inf
        rows = np.flatnonzero(shuts & near & (uniform(self.seed, self.steps) < chance))
        self.holding[rows] = nearest[rows]
        self.inside[rows, nearest[rows]] = NOTHING
        self.blocks[rows, nearest[rows]] = self.position[rows]
        for drawer in (UPPER, LOWER):
            gap = np.abs(self.position - self.handle(drawer))
            can = shuts & ~near & (self.holding == NOTHING) & (gap <= HANDLE_REACH).all(1)
            self.holding[can] = LOWER_HANDLE + drawer

    def handle(self, drawer: int) -> np.ndarray:
        """(B, 3) the middle of a drawer's handle."""
        y = FRONT - BOARD - self.drawers[:, drawer] - 0.02
        return np.stack([np.full_like(y, HANDLE_X), y, np.full_like(y, HANDLE_Z[drawer])], 1)

    def below(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What is below points (B, 3): the place, its floor, and its wall, all (B,).

        The wall is the height that one must be above to come in or to leave.
        """
        x, y = points[:, 0], points[:, 1]
        within = _between(x, *DRAWER_X)
        places, floors, walls = [within & (y >= FRONT)], [CABINET_TOP], [CABINET_TOP]
        codes = [ON_CABINET]
        for drawer in (UPPER, LOWER):  # the upper one covers the lower one
            front = FRONT - BOARD - self.drawers[:, drawer]
            places += [within & (y > front + 1e-9) & (y <= front + BOARD), within & (y > front)]
            places[-1] &= y > front + BOARD
            codes += [ON_LOWER + drawer, IN_LOWER + drawer]
            floors += [TOP[drawer], FLOOR[drawer]]
            walls += [TOP[drawer], TOP[drawer]]
        return np.select(places, codes), np.select(places, floors), np.select(places, walls)


def _between(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return (values >= low) & (values < high)


def check_actions(actions: np.ndarray, count: int | None = None) -> np.ndarray:
    """Actions as (count, 8) float64 cut to [-1, 1]; ValueError says what is wrong with them."""
    actions = np.asarray(actions, dtype=np.float64)
    if actions.ndim != 2 or actions.shape[1] != 8 or count not in (None, len(actions)):
        raise ValueError(f"actions must have the shape ({count or 'B'}, 8), got {actions.shape}")
    if not np.isfinite(actions).all():
        row, column = np.argwhere(~np.isfinite(actions))[0]
        raise ValueError(f"action {row} has {actions[row, column]} in place {column}, no number")
    return actions.clip(-1, 1)


def uniform(seed: np.ndarray, step: np.ndarray) -> np.ndarray:
    """(B,) float64 in [0, 1), of seeds (B,) uint64 and steps (B,): SplitMix64 (Steele, 2014)."""
    mixed = seed + (step.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((mixed ^ (mixed >> np.uint64(31))) >> np.uint64(11)) * 2.0**-53
