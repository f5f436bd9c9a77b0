r"""Pictures of tables, many at once: from the front and above, near edge at the bottom.

Parallel lines stay parallel: a point (x, y, z) is drawn at x to the right and DEPTH y + RISE z up,
so of every box one sees the front and the top. All is rectangles with smooth edges, painted from
the back to the front. Colors are those of Okabe and Ito, which the color-blind tell apart, and
differ in lightness; a block's front is darker than its top. Under the gripper and what it carries
lies a shadow, on whatever is below: the higher, the wider apart.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from qsft_lite.tasks.manipulation.table import (
    BOARD,
    BOTTOM,
    CABINET_TOP,
    DRAWER_X,
    FLOOR,
    FRONT,
    HALF,
    HANDLE_X,
    HANDLE_Z,
    LOWER,
    LOWER_HANDLE,
    TOP,
    TRAY_HIGH,
    TRAY_LOW,
    UPPER,
    Tables,
)
from qsft_lite.tasks.manipulation.text import is_hidden

SIZE = 48
DEPTH, RISE = 0.72, 0.62  # of a unit along y and along z, in units along x
VIEW = 1.04  # units from the left to the right of a picture, and from its bottom to its top
MARGIN = 0.02  # left of the table, and below its near edge
ROOM = 0.15  # of a picture's size, around it, where what is cut off is painted

# The tops of blocks, in the order of text.COLORS.
BLOCK_COLORS = np.array([[213, 60, 20], [246, 232, 60], [40, 110, 220], [0, 190, 130]], dtype=float)
WALL, TABLE, EDGE = (232, 232, 236), (196, 190, 182), (150, 143, 134)
TRAY_RIM, TRAY = (84, 70, 96), (150, 134, 166)
WOOD, FACE, FACE_UPPER = (120, 84, 56), (166, 120, 80), (186, 140, 98)
INSIDE, RAIL, BLACK = (66, 44, 30), (140, 100, 68), (0, 0, 0)
BAR, BAR_HELD = (40, 40, 44), (250, 250, 250)
STEEL, FINGER, GRIP = (96, 100, 110), (24, 24, 28), (255, 255, 255)


class Canvas:
    """Pictures that are painted, (B, size, size, 3) with room around them, in float32."""

    def __init__(self, count: int, size: int, background: np.ndarray | tuple = WALL):
        self.size, self.room = size, int(ROOM * size)
        width = size + 2 * self.room
        self.pixels = np.empty((count, width, width, 3), dtype=np.float32)
        self.pixels[:] = background

    def paint(self, rows, x0, x1, y0, y1, color, alpha=1.0) -> None:
        """A rectangle on each of the pictures rows (n,): x from left to right, y from the bottom.

        In units of the picture's width; corners are numbers or (n,), color (3,) or (n, 3).
        """
        if not len(rows):
            return
        scale, room = self.size / VIEW, self.room
        across, xs = _cover(np.add(x0, MARGIN) * scale + room, np.add(x1, MARGIN) * scale + room)
        top, bottom = self.size - np.add(y1, MARGIN) * scale, self.size - np.add(y0, MARGIN) * scale
        down, ys = _cover(top + room, bottom + room)
        last = self.pixels.shape[1] - 1
        ys, xs = (np.minimum(np.maximum(pixels, 0), last) for pixels in (ys, xs))
        at = rows[:, None, None], ys[:, :, None], xs[:, None, :]
        cover = (down[:, :, None] * across[:, None, :])[..., None] * np.float32(alpha)
        old = self.pixels[at]
        color = np.atleast_2d(np.asarray(color, dtype=np.float32))[:, None, None]
        self.pixels[at] = old + cover * (color - old)

    def box(self, rows, low, high, top, front) -> None:
        """A box from low (n, 3) to high (n, 3): its front, and its top."""
        (x0, y0, z0), (x1, y1, z1) = np.transpose(low), np.transpose(high)
        edge = DEPTH * y0 + RISE * z1
        self.paint(rows, x0, x1, DEPTH * y0 + RISE * z0, edge, front)
        self.paint(rows, x0, x1, edge, DEPTH * y1 + RISE * z1, top)

    def image(self) -> np.ndarray:
        """(B, size, size, 3) uint8."""
        inner = slice(self.room, self.room + self.size)
        return (self.pixels[:, inner, inner] + 0.5).astype(np.uint8)


def _cover(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How much of each pixel lies between low and high (n,), and which pixels: both (n, width)."""
    low, high = np.reshape(low, (-1, 1)), np.reshape(high, (-1, 1))
    first = np.floor(low).astype(np.int64)
    pixels = first + np.arange(max(int((np.ceil(high) - first).max()), 1))
    cover = np.minimum(high, pixels + 1) - np.maximum(low, pixels)
    return np.maximum(cover, 0).astype(np.float32), pixels


@lru_cache(maxsize=8)
def background(size: int) -> np.ndarray:
    """What never moves: the table, the tray and the cabinet, with room around."""
    canvas = Canvas(1, size)
    row = np.zeros(1, dtype=np.int64)
    canvas.paint(row, -1, 2, -1, DEPTH, EDGE)
    canvas.paint(row, 0, 1, 0, DEPTH, TABLE)
    for rim, color in ((0.02, TRAY_RIM), (-0.015, TRAY)):
        (x0, y0), (x1, y1) = TRAY_LOW - rim, TRAY_HIGH + rim
        canvas.paint(row, x0, x1, DEPTH * y0, DEPTH * y1, color)
    left, right = DRAWER_X[0] - 0.02, DRAWER_X[1] + 0.02
    canvas.box(row, [[left, FRONT, 0]], np.array([[right, 1, CABINET_TOP]]), WOOD, INSIDE)
    return canvas.pixels[0]


def render(tables: Tables, size: int = SIZE) -> np.ndarray:
    """Pictures (B, size, size, 3) uint8; ValueError for a size below 16."""
    check_size(size)
    canvas = Canvas(len(tables), size, background(size))
    loose = np.ones(tables.inside.shape, dtype=bool)
    rows, held = tables.held_blocks()
    loose[rows, held] = False
    loose &= ~is_hidden(tables)
    for drawer in (LOWER, UPPER):
        _draw_shadow(canvas, tables, drawer)
    for drawer in (LOWER, UPPER):
        _draw_inside(canvas, tables, drawer)
        _draw_blocks(canvas, tables, loose & (tables.inside == drawer))
        _draw_board(canvas, tables, drawer)
    _draw_blocks(canvas, tables, loose & (tables.inside < 0))
    _draw_gripper(canvas, tables)
    return canvas.image()


def check_size(size: int) -> None:
    """ValueError for a picture's size below 16."""
    if size < 16:
        raise ValueError(f"size must be at least 16, got {size}")


def _draw_shadow(canvas: Canvas, tables: Tables, drawer: int) -> None:
    """An open drawer's shadow on the table."""
    rows = np.flatnonzero(tables.drawers[:, drawer] > 0)
    y = FRONT - BOARD - tables.drawers[rows, drawer]
    right = DRAWER_X[1] + 0.02
    canvas.paint(rows, DRAWER_X[0], right, DEPTH * y - 0.02, DEPTH * FRONT, BLACK, 0.35)


def _draw_inside(canvas: Canvas, tables: Tables, drawer: int) -> None:
    """An open drawer's sides, and what one sees of its bottom."""
    rows = np.flatnonzero(tables.drawers[:, drawer] > 0)
    y, (x0, x1) = FRONT - tables.drawers[rows, drawer], DRAWER_X
    near, far = DEPTH * y + RISE * FLOOR[drawer], DEPTH * FRONT + RISE * TOP[drawer]
    canvas.paint(rows, x0, x1, near, far, RAIL)
    canvas.paint(rows, x0 + 0.02, x1 - 0.02, near, far, INSIDE)


def _draw_board(canvas: Canvas, tables: Tables, drawer: int) -> None:
    rows = np.arange(len(tables))
    y = FRONT - BOARD - tables.drawers[:, drawer]
    low = np.stack(np.broadcast_arrays(DRAWER_X[0], y, BOTTOM[drawer] + 0.01), -1)
    high = np.stack(np.broadcast_arrays(DRAWER_X[1], y + BOARD, TOP[drawer]), -1)
    canvas.box(rows, low, high, RAIL, FACE_UPPER if drawer == UPPER else FACE)
    held = (tables.holding == LOWER_HANDLE + drawer)[:, None]
    middle = DEPTH * y + RISE * HANDLE_Z[drawer]
    color = np.where(held, BAR_HELD, BAR)
    canvas.paint(rows, HANDLE_X - 0.08, HANDLE_X + 0.08, middle - 0.012, middle + 0.018, color)


def _draw_blocks(canvas: Canvas, tables: Tables, shown: np.ndarray) -> None:
    """The shown blocks (B, N), those at the back first."""
    order = np.argsort(-tables.blocks[..., 1], axis=1, kind="stable")
    for place in range(order.shape[1]):
        rows = np.flatnonzero(shown[np.arange(len(tables)), order[:, place]])
        _draw_block(canvas, tables, rows, order[rows, place])


def _draw_block(canvas: Canvas, tables: Tables, rows: np.ndarray, block: np.ndarray) -> None:
    middle = tables.blocks[rows, block]
    color = BLOCK_COLORS[tables.colors[rows, block]]
    x, y, z = middle.T
    below = DEPTH * (y - HALF) + RISE * (z - HALF)
    canvas.paint(rows, x - HALF - 0.012, x + HALF + 0.012, below - 0.012, below + 0.1, BLACK, 0.25)
    canvas.box(rows, middle - HALF, middle + HALF, color, 0.62 * color)


def _draw_gripper(canvas: Canvas, tables: Tables) -> None:
    """Its shadow, what it holds, two fingers, the hand, and the arm, from above."""
    rows = np.arange(len(tables))
    x, y, z = tables.position.T
    floor = tables.below(tables.position)[1]
    ground = DEPTH * y + RISE * floor
    canvas.paint(rows, x - 0.06, x + 0.06, ground - 0.03, ground + 0.03, BLACK, 0.45)
    held, block = tables.held_blocks()
    _draw_block(canvas, tables, held, block)
    tilt, pitch, turn = tables.angles.T
    gap = 0.05 * np.where(tables.shut, np.where(tables.holding >= 0, 1.15, 0.35), 1.7)
    aside, ahead = gap * np.cos(turn), gap * np.sin(turn) * DEPTH
    tip = DEPTH * y + RISE * z
    wrist_x, wrist_y = x - 0.04 * tilt, tip + RISE * 0.16 - 0.04 * pitch
    canvas.paint(rows, wrist_x - 0.022, wrist_x + 0.022, wrist_y, 1.1, STEEL)
    for side in (-1, 1):
        middle, foot = x + side * aside, tip - 0.03 + side * ahead
        canvas.paint(rows, middle - 0.018, middle + 0.018, foot, wrist_y + 0.02, FINGER)
    wide = np.maximum(aside, 0.03) + 0.025
    color = np.where(tables.shut[:, None], GRIP, STEEL)
    canvas.paint(rows, wrist_x - wide, wrist_x + wide, wrist_y - 0.005, wrist_y + 0.055, FINGER)
    inner = wrist_y + 0.01, wrist_y + 0.04
    canvas.paint(rows, wrist_x - wide + 0.015, wrist_x + wide - 0.015, *inner, color)
