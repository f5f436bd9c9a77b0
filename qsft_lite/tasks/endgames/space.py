"""All positions of an endgame up to symmetry, and one move backwards over all of them at once.

Turning or mirroring the board changes nothing (there are no pawns), so it is enough to hold the
black king on the ten squares of the triangle a1-d1-d4. An array over positions has the shape
(10, 64, 64) or (10, 64, 64, 64): black king, white king, pieces. White's moves keep the black king
where it is, so a sweep over them slides along one axis; Black's are looked up in a list of replies.
"""

from __future__ import annotations

from functools import cache, cached_property, reduce

import numpy as np

from qsft_lite.tasks.checks import check_choice
from qsft_lite.tasks.endgames.moves import (
    DIRECTIONS,
    KING_STEPS,
    MATERIALS,
    STEP,
    black_moves,
    in_check,
    is_legal,
    left,
)

TRIANGLE = np.array([0, 1, 2, 3, 9, 10, 11, 18, 19, 27])  # a1-d1-d4


def _symmetries() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(8, 64) where each symmetry moves a square; for each square one into the triangle, and where.

    A mirror image maps a game to a game, so any of several symmetries will do.
    """
    file, rank = np.arange(64) % 8, np.arange(64) // 8
    maps = []
    for flip_file in (file, 7 - file):
        for flip_rank in (rank, 7 - rank):
            maps += (flip_rank * 8 + flip_file, flip_file * 8 + flip_rank)
    maps = np.array(maps)
    inside = np.isin(maps, TRIANGLE)
    chosen = inside.argmax(axis=0)
    return maps, chosen, np.searchsorted(TRIANGLE, maps[chosen, np.arange(64)])


SYMMETRIES, _CHOSEN, _KING_PLACE = _symmetries()


def view_of(material: str, squares: np.ndarray) -> np.ndarray:
    """(N,) the symmetry that puts positions (N, k) in their standard view, the same for all images.

    The black king is in the triangle; where that leaves a choice, the other squares are the lowest.
    """
    images = SYMMETRIES[:, squares]
    if material == "RR":
        images[..., 1:3].sort(axis=-1)
    code = images[..., -1].astype(np.int64)
    for column in range(images.shape[-1] - 1):
        code = code * 64 + images[..., column]
    # Squares in the triangle do not have the lowest numbers.
    code[~np.isin(images[..., -1], TRIANGLE)] = np.iinfo(np.int64).max
    return code.argmin(axis=0)


class EndgameSpace:
    """The positions of one material, as flat indices into arrays of `shape`.

    legal: (N,) bool, with Black to move. ready: (N,) bool, with White to move: legal and Black is
    not in check. An array of values with Black to move holds what White's moves lead to.
    """

    def __init__(self, material: str) -> None:
        check_choice(material, MATERIALS, "material")
        self.material = material
        self.shape = (10,) + (64,) * (1 + len(material))
        self.size = int(np.prod(self.shape))
        after = dict.fromkeys(left(material, piece) for piece in range(len(material)))
        self.smaller = tuple(filter(None, after))  # the materials after a capture

    def index(self, squares: np.ndarray) -> np.ndarray:
        """(N,) int64 flat index of positions (N, k)."""
        enemy = squares[:, -1]
        moved = SYMMETRIES[_CHOSEN[enemy][:, None], squares[:, :-1]]
        index = _KING_PLACE[enemy]
        for column in moved.T:
            index = index * 64 + column
        return index

    def squares(self, index: np.ndarray) -> np.ndarray:
        """(N, k) the positions of flat indices, black king in the triangle."""
        enemy, *others = np.unravel_index(index, self.shape)
        return np.stack([*others, TRIANGLE[enemy]], axis=1)

    @cached_property
    def legal(self) -> np.ndarray:
        """(N,) bool, see the class."""
        return np.concatenate([is_legal(self.material, part) for part in self._parts()])

    @cached_property
    def check(self) -> np.ndarray:
        """(N,) bool: Black is in check (with no meaning where a position is not legal)."""
        return np.concatenate([in_check(self.material, part) for part in self._parts()])

    @cached_property
    def ready(self) -> np.ndarray:
        """(N,) bool, see the class."""
        return self.legal & ~self.check

    @cached_property
    def replies(self) -> np.ndarray:
        """(N, 8) int32: where each of Black's king steps leads, -1 where it is not legal.

        A number below N is a position of this space with White to move. Then follow the positions
        of `smaller`, after a capture, and the last number is that of bare kings.
        """
        return np.concatenate([self._replies(part) for part in self._parts()])

    def _parts(self) -> list[np.ndarray]:
        """All positions, for one place of the black king after the other."""
        part = self.size // 10
        return [self.squares(np.arange(i * part, (i + 1) * part)) for i in range(10)]

    def _replies(self, squares: np.ndarray) -> np.ndarray:
        sizes = [self.size, *(space(material).size for material in self.smaller)]
        starts = dict(zip((*self.smaller, ""), np.cumsum(sizes), strict=True))
        targets, legal, taken = black_moves(self.material, squares)
        legal &= is_legal(self.material, squares)[:, None]
        replies = np.full(targets.shape, -1, dtype=np.int32)
        for slot in range(8):
            for piece in range(-1, len(self.material)):
                rows = np.flatnonzero(legal[:, slot] & (taken[:, slot] == piece))
                after = squares[rows]
                after[:, -1] = targets[rows, slot]
                if piece < 0:
                    replies[rows, slot] = self.index(after)
                    continue
                smaller = left(self.material, piece)
                after = np.delete(after, 1 + piece, axis=1)
                place = space(smaller).index(after) if smaller else 0
                replies[rows, slot] = starts[smaller] + place
        return replies

    def least_over_white_moves(self, values: np.ndarray, none: int) -> np.ndarray:
        """(N,): the least of values (N,), with Black to move, over all moves of White.

        none: the largest value, and the result without moves. Where a position is not `ready` the
        result has no meaning.
        """
        values = np.where(self.legal, values, values.dtype.type(none)).reshape(self.shape)
        result = np.full_like(values, none)
        for axis in range(1, len(self.shape)):
            moved = np.ascontiguousarray(np.moveaxis(values, axis, 0))
            if axis == 1:
                least = _over_steps(moved, none)
            else:
                lines = DIRECTIONS[self.material[axis - 2]]
                least = _over_lines(moved, self._blocked(axis), lines, none)
            np.minimum(result, np.moveaxis(least, 0, axis), out=result)
        return result.reshape(-1)

    def _blocked(self, axis: int) -> np.ndarray:
        """(64, ...) bool: a man other than the axis's stands on that square."""
        others = np.indices(self.shape[:axis] + self.shape[axis + 1 :], dtype=np.int8, sparse=True)
        square = np.arange(64).reshape(64, *[1] * len(others))
        stands = (square == place for place in (TRIANGLE[others[0]], *others[1:]))
        return reduce(np.logical_or, stands)


def _over_steps(values: np.ndarray, none: int) -> np.ndarray:
    """The least that a king reaches from each square (first axis)."""
    least = np.full_like(values, none)
    for square in range(64):
        for target in STEP[square][STEP[square] >= 0]:
            np.minimum(least[square], values[target], out=least[square])
    return least


def _over_lines(
    values: np.ndarray, blocked: np.ndarray, directions: tuple[tuple[int, int], ...], none: int
) -> np.ndarray:
    """The least that a piece reaches in these directions from each square (first axis).

    From a square it reaches the next one, and all that it reaches from there if that is free.
    """
    least = np.full_like(values, none)
    for file, rank in directions:
        slot = KING_STEPS.index((file, rank))
        reached = np.full_like(values, none)
        for square in sorted(range(64), key=lambda s: -(s % 8 * file + s // 8 * rank)):
            following = STEP[square, slot]
            if following >= 0:
                np.minimum(values[following], reached[following], out=reached[square])
                reached[square][blocked[following]] = none
        np.minimum(least, reached, out=least)
    return least


@cache
def space(material: str) -> EndgameSpace:
    """The space of a material, made once."""
    return EndgameSpace(material)
