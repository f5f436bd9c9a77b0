r"""A network that puts a picture into words, for a policy that reads words (ours, not Q-SFT's).

Which block is the red one? A network that learns actions from pictures is hardly ever told: of
eight words two depend on it, and these but a little. A description asks for that alone. Its text is
that of the format "image", its answer what the format "state" would say of the picture:

    X12 Y07 Z19 A+1 B-2 C+0 open put the red block on the tray <image>
    red u-5 v+3 w-9 blue u+2 v+0 w-9 yellow hidden lower00 upper14

Whatever has learned by words then plays from pictures: a `Reader` describes each picture, and the
policy acts on the description. So begins a pretrained vision-language model, too: it knows what a
picture shows before it sees a robot.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from datasets import Dataset

from qsft_lite.data.recording import Episodes, record
from qsft_lite.evaluate import Policy
from qsft_lite.files import written_aside
from qsft_lite.policy.last_line import last_lines
from qsft_lite.tasks.checks import check_choice
from qsft_lite.tasks.manipulation.data import VERSION, cache_folder
from qsft_lite.tasks.manipulation.env import Manipulation
from qsft_lite.tasks.manipulation.picture import SIZE, check_size, render
from qsft_lite.tasks.manipulation.players import BEHAVIOR, NOISE, Script, draw_plans, noisy
from qsft_lite.tasks.manipulation.starts import HORIZONS, start_tables
from qsft_lite.tasks.manipulation.table import FRONT, HIGH, LOW, NOTHING, Tables
from qsft_lite.tasks.manipulation.text import (
    COLORS,
    described_line,
    image_texts,
    known_words,
    scene_texts,
    scene_words,
)

BLOCK = 2_000  # descriptions of a file
LONGEST_SCENE = 3 * 4 + 2  # words: three blocks and two drawers


def generate_descriptions(
    n: int,
    seed: int,
    *,
    task: str = "tray",
    size: int = SIZE,
    processes: int = 1,
    path: str | Path | None = None,
) -> Dataset:
    """n descriptions of `shown_tables`, each an episode of one turn without reward.

    Blocks that are not named are described in the order of `text.COLORS`, for their own order is
    in no picture. task, size, processes and path are those of `generate_manipulation`.
    """
    check_choice(task, HORIZONS, "task")
    check_size(size)
    settings = {"task": f"manipulation, {task}, described", "size": int(size), "version": VERSION}
    folder = Path(path or cache_folder(f"{task}-described", settings, n, seed, BLOCK)).absolute()
    play = partial(_describe_block, task, size, folder)
    return record(play, n, seed, settings, processes=processes, path=folder, block_size=BLOCK)


def description_texts(task: str) -> tuple[str, ...]:
    """Texts with every word of a description and of its picture's line, for a tokenizer."""
    last = [word[:-1] + "\n" for word in scene_words() if word.startswith("upper")]
    return *Manipulation(task).texts, *scene_words(), *last


def shown_tables(task: str, n: int, rng: np.random.Generator) -> Tables:
    """n tables at some moment of the scripts' play, with another block named, and colors in order.

    Of half of them an empty gripper is put elsewhere: a policy comes to places where no script was.
    """
    counts = {"prior": n - n // 2, "task": n // 2}
    tables = Tables.joined([_played(task, part, count, rng) for part, count in counts.items()])
    every = np.arange(n)
    tables.named = rng.integers(tables.blocks.shape[1], size=n)
    elsewhere = rng.uniform(LOW, [HIGH[0], FRONT, HIGH[2]], (n, 3))
    moved = (tables.holding == NOTHING) & (rng.random(n) < 0.5)
    tables.position = np.where(moved[:, None], elsewhere, tables.position)
    order = tables.colors.argsort(1)
    for name in ("blocks", "inside", "colors"):
        setattr(tables, name, getattr(tables, name)[every[:, None], order])
    place = order.argsort(1)  # where each block is now
    tables.named = place[every, tables.named]
    holds_block = (tables.holding >= 0) & (tables.holding < tables.blocks.shape[1])
    held = place[every, np.where(holds_block, tables.holding, 0)]
    tables.holding = np.where(holds_block, held, tables.holding)
    return tables


def _played(task: str, part: str, n: int, rng: np.random.Generator) -> Tables:
    """n tables, each after some steps of a part's script."""
    tables = start_tables(task, part, n, rng)
    script = Script(task, part, draw_plans(task, part, tables, BEHAVIOR, rng))
    ends = rng.integers(getattr(HORIZONS[task], part) + 1, size=n)
    found, order = [], []
    for step in range(ends.max(initial=0) + 1):
        over = np.flatnonzero(ends == step)
        found.append(tables.take(over))
        order += over.tolist()
        tables.step(noisy(script.act(tables), NOISE, rng))
    return Tables.joined(found).take(np.argsort(order))


def _describe_block(
    task: str, size: int, folder: Path, n: int, seed: np.random.SeedSequence
) -> Episodes:
    """The descriptions of a block, whose number is the last one of the seed's key."""
    tables = shown_tables(task, n, np.random.default_rng(seed))
    file = folder / f"images-{seed.spawn_key[-1]:05d}.npy"
    with written_aside(file) as aside, open(aside, "wb") as out:
        np.save(out, render(tables, size), allow_pickle=False)
    turns = zip(image_texts(task, tables), scene_texts(tables), strict=True)
    return {
        "text": [[line, f"{scene}\n"] for line, scene in turns],
        "is_action": [[False, True]] * n,
        "reward": [[0.0, 0.0]] * n,
        "done": [True] * n,
        "images": [[f"{file}#{row}"] for row in range(n)],
    }


def read_shares(describer: Policy, task: str, n: int, seed: int) -> dict[str, float]:
    """Of n fresh `shown_tables`, how much a describer reads within one step, by kind of word.

    "u", "v", "w": ways to blocks; "hidden": blocks out of sight, if there are any; "lower",
    "upper": the drawers.
    """
    tables = shown_tables(task, n, np.random.default_rng(seed))
    scenes = describer.act(image_texts(task, tables), images=[[one] for one in render(tables)])
    right = defaultdict(list)
    for true, said in zip(scene_texts(tables), scenes, strict=True):
        read = _numbers_of(said)
        for name, number in _numbers_of(true).items():
            right[name.split()[-1]].append(abs(read.get(name, np.inf) - number) <= 1)
    return {kind: float(np.mean(each)) for kind, each in right.items()}


def _numbers_of(scene: str) -> dict[str, int]:
    """{"red u": -5, ..., "blue hidden": 0, "lower": 3}, of the words that scenes have."""
    found, color = {}, ""
    for word in known_words(scene):
        if word in COLORS:
            color = word
            continue
        name = word.rstrip("+-0123456789")
        of_block = "" if name in ("lower", "upper") else f"{color} "
        found[of_block + name] = int(word[len(name) :] or 0)
    return found


class Reader:
    """A policy of pictures: describer puts each into words, and policy acts on these.

    describer: plays descriptions, greedily. policy: reads lines of the format "state".
    """

    def __init__(self, describer: Policy, policy: Policy):
        self.describer, self.policy = describer, policy

    def reset(self, seed: int) -> None:
        """See CachedPolicy.reset."""
        self.describer.reset(seed)
        self.policy.reset(seed)

    def act(self, histories: Sequence[str], images: Sequence[Sequence[np.ndarray]]) -> list[str]:
        """Actions for the last lines of histories, whose last pictures these lines are about."""
        lines = last_lines(histories)
        scenes = self.describer.act(lines, images=[list(own[-1:]) for own in images])
        return self.policy.act([described_line(*each) for each in zip(lines, scenes, strict=True)])
