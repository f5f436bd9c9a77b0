"""All positions of an endgame up to symmetry, and one move backwards over all of them at once.

Turning or mirroring the board changes nothing (there are no pawns), so it is enough to hold the
black king on the ten squares of the triangle a1-d1-d4. An array over positions has the shape
(10, 64, 64) or (10, 64, 64, 64): black king, white king, pieces. White's moves keep the black king
where it is, so a sweep over them slides along one axis; Black's are looked up in a list of replies.
"""

from __future__ import annotations

from functools import cache, cached_property

import numpy as np

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
        if material not in MATERIALS:
            raise ValueError(f"material must be one of {', '.join(MATERIALS)}, got {material!r}")
        self.material = material
        self.shape = (10,) + (64,) * (1 + len(material))
        self.size = int(np.prod(self.shape))
        # Where values after a capture are found, behind this space's own; bare kings are last.
        self.smaller = tuple(dict.fromkeys(filter(None, map(self._left, range(len(material))))))

    def _left(self, piece: int) -> str:
        return left(self.material, piece)

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

    @property
    def bare(self) -> int:
        """The number of bare kings in `replies`."""
        return self.size + sum(space(material).size for material in self.smaller)

    def _parts(self) -> list[np.ndarray]:
        """All positions, for one place of the black king after the other."""
        part = self.size // 10
        return [self.squares(np.arange(i * part, (i + 1) * part)) for i in range(10)]

    def _replies(self, squares: np.ndarray) -> np.ndarray:
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
                elif not self._left(piece):
                    replies[rows, slot] = self.bare
                else:
                    smaller, start = self._left(piece), self.size
                    for material in self.smaller[: self.smaller.index(smaller)]:
                        start += space(material).size
                    after = np.delete(after, 1 + piece, axis=1)
                    replies[rows, slot] = start + space(smaller).index(after)
        return replies

    def over_white_moves(self, values: np.ndarray, combine: np.ufunc, empty: float) -> np.ndarray:
        """(N,): combine values (N,), with Black to move, over all moves of White; `empty` for none.

        combine: np.minimum, np.maximum or np.add; empty is its neutral element. Where a position is
        not `ready` the result has no meaning.
        """
        values = np.where(self.legal, values, values.dtype.type(empty)).reshape(self.shape)
        result = np.full_like(values, empty)
        for axis in range(1, len(self.shape)):
            moved = np.ascontiguousarray(np.moveaxis(values, axis, 0))
            if axis == 1:
                total = _over_steps(moved, combine, empty)
            else:
                total = np.full_like(moved, empty)
                for step in DIRECTIONS[self.material[axis - 2]]:
                    self._over_line(moved, self._blocked[axis], step, combine, empty, total)
            combine(result, np.moveaxis(total, 0, axis), out=result)
        return result.reshape(-1)

    @cached_property
    def _blocked(self) -> dict[int, np.ndarray]:
        """For each piece's axis (64, ...): some other man stands on that square."""
        blocked = {}
        for axis in range(2, len(self.shape)):
            others = np.indices(
                self.shape[:axis] + self.shape[axis + 1 :], dtype=np.int8, sparse=True
            )
            mask = np.zeros((64, *(side for i, side in enumerate(self.shape) if i != axis)), bool)
            for square in range(64):
                mask[square] |= TRIANGLE[others[0]] == square
                for other in others[1:]:
                    mask[square] |= other == square
            blocked[axis] = mask
        return blocked

    @staticmethod
    def _over_line(
        values: np.ndarray,
        blocked: np.ndarray,
        step: tuple[int, int],
        combine: np.ufunc,
        empty: float,
        total: np.ndarray,
    ) -> None:
        """Add to `total` what a piece reaches in one direction from each square (first axis).

        From a square it reaches the next one, and all that it reaches from there if that is free.
        """
        slot = KING_STEPS.index(step)
        reached = np.full_like(values, empty)
        edge_first = sorted(range(64), key=lambda s: -(s % 8 * step[0] + s // 8 * step[1]))
        for square in edge_first:
            following = STEP[square, slot]
            if following >= 0:
                combine(values[following], reached[following], out=reached[square])
                reached[square][blocked[following]] = empty
        combine(total, reached, out=total)


def _over_steps(values: np.ndarray, combine: np.ufunc, empty: float) -> np.ndarray:
    """What a king reaches from each square (first axis)."""
    total = np.full_like(values, empty)
    for square in range(64):
        for target in STEP[square][STEP[square] >= 0]:
            combine(total[square], values[target], out=total[square])
    return total


@cache
def space(material: str) -> EndgameSpace:
    """The space of a material, made once."""
    return EndgameSpace(material)
