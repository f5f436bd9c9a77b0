r"""How the table is written, and what it is told.

A state begins with what a robot knows of itself: the gripper's place (bins of its x, y and z), its
tilts and its turn, and whether it is open, shut or full. With pictures the instruction and one
picture follow, whose tokens so can look for what is asked:

    X12 Y07 Z19 A+1 B-2 C+0 open put the red block on the tray <image>

In the format "state" words say what a picture would show: of each block its color and the way from
the gripper to it, or "hidden" in a drawer out of sight; how far the two drawers are open. The block
that the instruction names comes first:

    X12 Y07 Z19 A+1 B-2 C+0 open red u-5 v+3 w-9 blue hidden yellow hidden lower00 upper14 take ...

A way or an angle is a signed number of steps, small ones near 0, where they matter; see SIGNED.
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
PLACES, OPENINGS = 25, 15  # bins of a place along an axis, and of a drawer
# Where a signed number, a way in table widths or an angle, passes from one step to the next.
SIGNED = np.array([0.007, 0.021, 0.035, 0.05, 0.07, 0.1, 0.14, 0.2, 0.28, 0.38, 0.5, 0.65, 0.8])

INSTRUCTIONS = {
    "tray": "put the {} block on the tray",
    "drawer": "take the {} block out of the drawer",
    "shut_drawer": "take the {} block out of the lower drawer",
}

PLACE = r"X\d\d Y\d\d Z\d\d"
WAY = r"u[+-]\d+ v[+-]\d+ w[+-]\d+"
BLOCK = rf"({'|'.join(COLORS)}) (hidden|{WAY})"
GRIPPER_WORDS = 7
SCENE_WORD = rf"{'|'.join(COLORS)}|hidden|[uvw][+-]\d+|(lower|upper)\d\d"
STATE = re.compile(
    rf"(?P<hand>{PLACE}) (?P<angles>A[+-]\d+ B[+-]\d+ C[+-]\d+) (?P<grip>open|shut|full) "
    rf"(?P<blocks>(?:{BLOCK} )+)lower(?P<lower>\d\d) upper(?P<upper>\d\d) "
    rf"(?:put|take) the (?P<named>\w+) block .*"
)


def instructions(task: str, tables: Tables) -> list[str]:
    """What each table's robot is told."""
    colors = tables.colors[np.arange(len(tables)), tables.named].tolist()
    return [INSTRUCTIONS[task].format(COLORS[color]) for color in colors]


def gripper_texts(tables: Tables) -> list[str]:
    """What each table's robot knows of its gripper without a picture."""
    places = (tables.position * [PLACES, PLACES, 2 * PLACES]).astype(int).clip(0, PLACES - 1)
    angles = signed_steps(tables.angles).tolist()
    grips = np.where(tables.shut, np.where(tables.holding >= 0, "full", "shut"), "open").tolist()
    return [
        "X{:02d} Y{:02d} Z{:02d} A{:+d} B{:+d} C{:+d} {}".format(*place, *angle, grip)
        for place, angle, grip in zip(places.tolist(), angles, grips, strict=True)
    ]


def place_words(point: np.ndarray, low: np.ndarray, high: np.ndarray) -> str:
    """A place (3,) between low and high in words, "X12 Y07 Z19"; for other simulators than ours."""
    share = (point - np.asarray(low)) / np.subtract(high, low)
    return "X{:02d} Y{:02d} Z{:02d}".format(*(share * PLACES).astype(int).clip(0, PLACES - 1))


def image_texts(task: str, tables: Tables) -> list[str]:
    """The state of each table, whose blocks and drawers a picture shows."""
    told = zip(gripper_texts(tables), instructions(task, tables), strict=True)
    return [f"{gripper} {instruction} {IMAGE}\n" for gripper, instruction in told]


def state_texts(task: str, tables: Tables) -> list[str]:
    """The state of each table in words."""
    told = gripper_texts(tables), scene_texts(tables), instructions(task, tables)
    return [f"{' '.join(parts)}\n" for parts in zip(*told, strict=True)]


def scene_texts(tables: Tables) -> list[str]:
    """What a picture of each table would show: blocks, the named one first, and drawers."""
    ways = signed_steps(tables.blocks - tables.position[:, None]).tolist()
    opened = np.rint(tables.drawers / OPEN * (OPENINGS - 1)).astype(int).tolist()
    hidden, named, colors = (
        is_hidden(tables).tolist(),
        tables.named.tolist(),
        tables.colors.tolist(),
    )
    texts = []
    for i in range(len(tables)):
        words = []
        for block in sorted(range(len(colors[i])), key=lambda block: block != named[i]):
            way = "u{:+d} v{:+d} w{:+d}".format(*ways[i][block])
            words += [COLORS[colors[i][block]], "hidden" if hidden[i][block] else way]
        texts.append(" ".join([*words, "lower{:02d} upper{:02d}".format(*opened[i])]))
    return texts


def described_line(line: str, scene: str) -> str:
    """The line of a state in words, of the line of one with a picture and what that shows.

    Words of the scene that no scene has are left out.
    """
    words = line.removesuffix(f" {IMAGE}\n").split()
    return " ".join([*words[:GRIPPER_WORDS], *known_words(scene), *words[GRIPPER_WORDS:]]) + "\n"


def known_words(scene: str) -> list[str]:
    """The words of a description, without those that none has."""
    return [word for word in scene.split() if re.fullmatch(SCENE_WORD, word)]


def signed_steps(numbers: np.ndarray) -> np.ndarray:
    """Numbers from -1 to 1 as whole steps with a sign, see SIGNED; 0 is less than .007 from 0."""
    steps = np.digitize(np.abs(numbers), SIGNED)
    return np.where(numbers < 0, -steps, steps)


def signed_numbers(steps: np.ndarray) -> np.ndarray:
    """The number in the middle of each step of `signed_steps`; 0 for step 0."""
    ends = np.concatenate([[0.0], SIGNED, [1.0]])
    middles = np.concatenate([[0.0], (ends[1:-1] + ends[2:]) / 2])
    return np.sign(steps) * middles[np.abs(steps)]


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
    bins = np.array([_numbers(match["hand"]) for match in found]).reshape(n, 3)
    hand = (bins + 0.5) / [PLACES, PLACES, 2 * PLACES]
    angles = np.array([_numbers(match["angles"]) for match in found]).reshape(n, 3)
    seen = [re.findall(BLOCK, match["blocks"]) for match in found]
    inside = np.array([sum(DRAWER_X) / 2, FRONT + 0.14, HALF])
    blocks = np.array(
        [
            [
                inside if way == "hidden" else hand[i] + signed_numbers(np.array(_numbers(way)))
                for _, way in some
            ]
            for i, some in enumerate(seen)
        ]
    )
    colors = np.array([[COLORS.index(color) for color, _ in some] for some in seen])
    named = [match["named"] for match in found]
    opened = [[int(match["lower"]), int(match["upper"])] for match in found]
    full = np.array([match["grip"] == "full" for match in found])
    at_hand = (np.abs(blocks - hand[:, None]) < 1e-9).all(-1)
    handle = np.where(hand[:, 2] < TOP[0], LOWER_HANDLE, UPPER_HANDLE)
    held = np.where(at_hand.any(1), at_hand.argmax(1), handle)
    return Tables(
        position=hand,
        angles=signed_numbers(angles),
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


def state_words(format: str) -> tuple[str, ...]:
    """Every word of a state but the instruction's, with the space that ends it."""
    words = [f"{letter}{number:02d}" for letter in "XYZ" for number in range(PLACES)]
    words += [*_signed_words("ABC"), "open", "shut", "full"]
    return tuple(word + " " for word in words) + (scene_words() if format == "state" else ())


def scene_words() -> tuple[str, ...]:
    """Every word of what a picture shows, with the space that ends it."""
    drawers = [f"{name}{number:02d}" for name in ("lower", "upper") for number in range(OPENINGS)]
    return tuple(word + " " for word in (*_signed_words("uvw"), *drawers, "hidden", *COLORS))


def _signed_words(letters: str) -> list[str]:
    """Words of these letters with every step of `signed_steps`."""
    steps = [0, *(sign * step for step in range(1, len(SIGNED) + 1) for sign in (1, -1))]
    return [f"{letter}{step:+d}" for letter in letters for step in steps]


def instruction_words() -> tuple[str, ...]:
    """Texts with every word of an instruction and its place in a state."""
    told = [text.format(color) for text in INSTRUCTIONS.values() for color in COLORS]
    return tuple(f"{text}\n" for text in told)


def parts(word: str) -> list[tuple[str, str, int]]:
    """What a word has in common with others: its dimension, and its bins in steps of 1, 2 and 4."""
    name = word.strip().rstrip("0123456789")
    digits = word.strip()[len(name) :]
    own = [(name.rstrip("+-"), word[-1:], 0)]
    if digits:
        number = -int(digits) if name.endswith("-") else int(digits)
        own += [(name.rstrip("+-"), f"bin/{width}", number // width) for width in (1, 2, 4)]
    return own


def _numbers(words: str) -> list[int]:
    """The numbers at the ends of words."""
    return [int(word[1:]) for word in words.split()]
