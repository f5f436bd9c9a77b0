r"""How the table is written, and what it is told.

With pictures a state is "<image> put the red block on the tray\n": one picture, and the
instruction. In the format "state" the words say what a picture would show: the gripper's place
(bins of its x, y and z), its tilts and its turn, and whether it is open, shut or full; of each
block its color and place, "hidden" in a drawer out of sight; how far the two drawers are open:

    X12 Y07 Z19 A2 B2 C2 open red X03 Y10 Z02 blue hidden yellow hidden lower00 upper14 take ...

An action is a word a number: a letter for the dimension and the bin, "x12 y03 z07 ... g1 s0\n".
`parts` says that bins of one dimension are near each other where their numbers are.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from qsft_lite.tasks.manipulation.table import (
    DRAWER_X,
    FRONT,
    HALF,
    LOWER_HANDLE,
    NOTHING,
    OPEN,
    TOP,
    UPPER_HANDLE,
    Tables,
)

IMAGE = "<image>"
COLORS = ("red", "yellow", "blue", "green")
LETTERS = "xyzabcgs"  # of the eight numbers of an action
PLACES, ANGLES, OPENINGS = 25, 5, 15  # bins of a place along an axis, of an angle, of a drawer

INSTRUCTIONS = {
    "tray": "put the {} block on the tray",
    "drawer": "take the {} block out of the drawer",
    "shut_drawer": "take the {} block out of the lower drawer",
}

PLACE = r"X\d\d Y\d\d Z\d\d"
BLOCK = rf"({'|'.join(COLORS)}) (hidden|{PLACE})"
STATE = re.compile(
    rf"(?P<hand>{PLACE}) (?P<angles>A\d B\d C\d) (?P<grip>open|shut|full) "
    rf"(?P<blocks>(?:{BLOCK} )+)lower(?P<lower>\d\d) upper(?P<upper>\d\d) "
    rf"(?:put|take) the (?P<named>\w+) block .*"
)


def instructions(task: str, tables: Tables) -> list[str]:
    """What each table's robot is told."""
    colors = tables.colors[np.arange(len(tables)), tables.named].tolist()
    return [INSTRUCTIONS[task].format(COLORS[color]) for color in colors]


def image_texts(task: str, tables: Tables) -> list[str]:
    """The state of each table, which a picture shows."""
    return [f"{IMAGE} {told}\n" for told in instructions(task, tables)]


def state_texts(task: str, tables: Tables) -> list[str]:
    """The state of each table in words."""
    hand, blocks = _places(tables.position), _places(tables.blocks)
    angles = ((tables.angles + 1) / 2 * ANGLES).astype(int).clip(0, ANGLES - 1).tolist()
    opened = np.rint(tables.drawers / OPEN * (OPENINGS - 1)).astype(int).tolist()
    hidden = is_hidden(tables).tolist()
    grips = np.where(tables.shut, np.where(tables.holding >= 0, "full", "shut"), "open").tolist()
    texts = []
    for i, told in enumerate(instructions(task, tables)):
        words = [_place(hand[i]), *(f"{k}{n}" for k, n in zip("ABC", angles[i], strict=True))]
        words.append(grips[i])
        for block, color in enumerate(tables.colors[i].tolist()):
            words.append(COLORS[color])
            words.append("hidden" if hidden[i][block] else _place(blocks[i][block]))
        texts.append(" ".join([*words, "lower{:02d} upper{:02d}".format(*opened[i]), told]) + "\n")
    return texts


def read_states(texts: Sequence[str]) -> Tables:
    """Tables as the last lines of texts tell of them, in the middles of bins.

    What a state does not say is left at 0, and a hidden block lies in the middle of its drawer.
    Raises ValueError for a line that is no state in words.
    """
    lines = [text.removesuffix("\n").rpartition("\n")[2] for text in texts]
    found = [STATE.fullmatch(line) for line in lines]
    for line, match in zip(lines, found, strict=True):
        if match is None:
            raise ValueError(f"{line!r:.200} is no state in words")
    n = len(texts)
    hand = np.array([_point(match["hand"]) for match in found]).reshape(n, 3)
    angles = [[int(word[1:]) for word in match["angles"].split()] for match in found]
    seen = [re.findall(BLOCK, match["blocks"]) for match in found]
    blocks = np.array([[_point(place) for _, place in some] for some in seen])
    colors = np.array([[COLORS.index(color) for color, _ in some] for some in seen])
    named = [match["named"] for match in found]
    opened = [[int(match["lower"]), int(match["upper"])] for match in found]
    full = np.array([match["grip"] == "full" for match in found])
    at_hand = (np.abs(blocks - hand[:, None]) < 1e-9).all(-1)
    handle = np.where(hand[:, 2] < TOP[0], LOWER_HANDLE, UPPER_HANDLE)
    held = np.where(at_hand.any(1), at_hand.argmax(1), handle)
    return Tables(
        position=hand,
        angles=(np.array(angles) + 0.5) / ANGLES * 2 - 1,
        shut=np.array([match["grip"] != "open" for match in found]),
        holding=np.where(full, held, NOTHING),
        blocks=blocks,
        inside=np.full(colors.shape, NOTHING),
        colors=colors,
        named=(colors == [[COLORS.index(color)] for color in named]).argmax(1),
        drawers=np.array(opened) / (OPENINGS - 1) * OPEN,
        seed=np.zeros(n, dtype=np.uint64),
        steps=np.zeros(n, dtype=np.int64),
    )


def is_hidden(tables: Tables) -> np.ndarray:
    """(B, N) bool: the blocks in a drawer that are behind its cabinet's front or under the other.

    Those are out of sight, and out of reach.
    """
    under = FRONT - tables.drawers[:, 1, None] <= tables.blocks[..., 1]
    inside = tables.inside >= 0
    return inside & ((tables.blocks[..., 1] > FRONT) | ((tables.inside == 0) & under))


def state_words() -> tuple[str, ...]:
    """Every word of a state, with the space or newline that ends it."""
    words = [f"{letter}{number:02d}" for letter in "XYZ" for number in range(PLACES)]
    words += [f"{letter}{number}" for letter in "ABC" for number in range(ANGLES)]
    words += [f"{name}{number:02d}" for name in ("lower", "upper") for number in range(OPENINGS)]
    words += ["open", "shut", "full", "hidden", *COLORS]
    return tuple(word + " " for word in words)


def instruction_words() -> tuple[str, ...]:
    """Texts with every word of an instruction and its place in a state."""
    told = [text.format(color) for text in INSTRUCTIONS.values() for color in COLORS]
    return tuple(f"{text}\n" for text in told)


def parts(word: str) -> list[tuple[str, str, int]]:
    """What a word has in common with others: its dimension, and its bins in steps of 1, 2 and 4."""
    name = word.strip().rstrip("0123456789")
    digits = word.strip()[len(name) :]
    own = [(name, word[-1:], 0)]
    if digits:
        own += [(name, f"bin/{width}", int(digits) // width) for width in (1, 2, 4)]
    return own


def _places(points: np.ndarray) -> list:
    """Bins of points (..., 3), from 0 to 1 along x and y and to .5 along z."""
    return (points * [PLACES, PLACES, 2 * PLACES]).astype(int).clip(0, PLACES - 1).tolist()


def _place(bins: list[int]) -> str:
    return "X{:02d} Y{:02d} Z{:02d}".format(*bins)


def _point(place: str) -> list[float]:
    """The middle of a place in words."""
    if place == "hidden":
        return [sum(DRAWER_X) / 2, FRONT + 0.14, HALF]
    x, y, z = (int(word[1:]) + 0.5 for word in place.split())
    return [x / PLACES, y / PLACES, z / PLACES / 2]
