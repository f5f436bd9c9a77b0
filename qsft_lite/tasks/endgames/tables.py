"""Endgames solved exactly: how many moves White needs to mate the bare king, from anywhere.

Retrograde analysis, one move of White a round: a position with Black to move is lost in n if every
reply leads to one that White wins in at most n, and one with White to move is won in n + 1 if some
move leads there. Whole tables are worked out in seconds and kept in a cache folder.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import zipfile
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from qsft_lite.files import replace_file
from qsft_lite.tasks.endgames.space import EndgameSpace, space

DRAW = 255  # the distance to mate of a position that White cannot win
# Of the two tables' bytes, so that a cached file, or an edited solver, cannot be wrong unnoticed.
SHA256 = {
    "Q": "e04bb68cf9e220fcd5b1e5a65b28da8910ea29b3ca039aa06f2314fc18147227",
    "R": "bf8309298ed1ccf08cf2eeb5e50ca388e566689effff57e6ad540483e1c99869",
    "QR": "143c9a81eeeb3c2a76d9538722c67c0461756009884d16b23b46c36b69f9d53a",
    "RR": "e105ceae7522af429fadef3819f2e34838f49c14a5e26b866200d45e6ff3530a",
}

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class EndgameTable:
    """Distances to mate of one material, over the positions of `space(material)`.

    white: (N,) uint8, moves that White, to move, needs against any defence: 1 is mate in one.
    black: (N,) uint8, moves that White needs once Black has replied; 0 is mate on the board. Both
    are DRAW where White cannot win, and where a position is not legal.
    """

    material: str
    white: np.ndarray
    black: np.ndarray

    @property
    def sha256(self) -> str:
        """Hash of the two arrays."""
        return hashlib.sha256(self.white.tobytes() + self.black.tobytes()).hexdigest()

    def white_distance(self, squares: np.ndarray) -> np.ndarray:
        """(N,) of positions (N, k) with White to move."""
        return self.white[space(self.material).index(squares)]

    def black_distance(self, squares: np.ndarray) -> np.ndarray:
        """(N,) of positions (N, k) with Black to move."""
        return self.black[space(self.material).index(squares)]


def solve(material: str, smaller: dict[str, np.ndarray]) -> EndgameTable:
    """Work out a table. smaller: the `white` arrays of the materials after a capture."""
    positions = space(material)
    after = [smaller[taken] for taken in positions.smaller]
    after.append(np.array([DRAW], dtype=np.uint8))  # bare kings
    replies = positions.replies
    has_reply = (replies >= 0).any(axis=1)
    mate = positions.legal & positions.check & ~has_reply
    can_move = positions.legal & has_reply
    white = np.full(positions.size, DRAW, dtype=np.uint8)
    while True:
        black = lost_in(positions, np.concatenate([white, *after]), mate, can_move)
        before = white
        white = positions.least_over_white_moves(black, DRAW)
        white[white < DRAW] += 1
        white[~positions.ready] = DRAW
        if np.array_equal(before, white):
            return EndgameTable(material, white, black)


def lost_in(
    positions: EndgameSpace, white: np.ndarray, mate: np.ndarray, can_move: np.ndarray
) -> np.ndarray:
    """(N,) uint8 the longest of Black's replies; 0 where it is mate and DRAW at a stalemate."""
    worst = np.where(can_move, 0, DRAW).astype(np.uint8)
    for reply in positions.replies.T:
        np.maximum(worst, white[reply] * (reply >= 0), out=worst)
    worst[mate] = 0
    return worst


@cache
def table(material: str) -> EndgameTable:
    """The table of a material: from the cache folder, or worked out (seconds) and put there.

    A file whose content is not the expected one is replaced; a folder that cannot be written to is
    left alone.
    """
    space(material)  # an unknown material fails here
    path = cache_folder() / f"endgame-{material}-{SHA256[material][:12]}.npz"
    found = _load(path, material)
    if found:
        return found
    solved = solve(material, {m: table(m).white for m in space(material).smaller})
    if solved.sha256 != SHA256[material]:
        raise RuntimeError(f"the table of {material} came out wrong: {solved.sha256}")
    content = io.BytesIO()
    np.savez_compressed(content, white=solved.white, black=solved.black)
    try:
        replace_file(path, content.getvalue())
    except OSError as error:
        log.warning("The endgame table is not kept: %s", error)
    return solved


def cache_folder() -> Path:
    """Where tables are kept: $QSFT_LITE_CACHE, else qsft_lite in the user's cache folder."""
    if os.environ.get("QSFT_LITE_CACHE"):
        return Path(os.environ["QSFT_LITE_CACHE"])
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qsft_lite"


def _load(path: Path, material: str) -> EndgameTable | None:
    """The table in a file; None where there is none, or another one than expected."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = EndgameTable(material, arrays["white"], arrays["black"])
    except FileNotFoundError:
        return None
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        log.warning("%s is damaged (%s): made anew", path, error)
        return None
    if found.sha256 == SHA256[material]:
        return found
    log.warning("%s is not the expected table: made anew", path)
    return None
