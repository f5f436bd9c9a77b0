r"""Recorded episodes of the scripts, thousands of tables at once, with their pictures.

Of each task there are two kinds of episodes, mixed: those of the prior start where the whole task
starts and stop half way, with no reward; those of the task start half way, and some reach the goal.
An episode of the prior that would reach it by chance is cut off before it does.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import platformdirs
from datasets import Dataset

from qsft_lite.data.recording import Episodes, record
from qsft_lite.files import written_aside
from qsft_lite.tasks.checks import check_choice, check_weights
from qsft_lite.tasks.manipulation.bins import ActionBins
from qsft_lite.tasks.manipulation.env import FORMATS
from qsft_lite.tasks.manipulation.picture import SIZE, check_size, render
from qsft_lite.tasks.manipulation.players import (
    BEHAVIOR,
    NOISE,
    Script,
    draw_plans,
    log_chance_of_bins,
    noisy,
)
from qsft_lite.tasks.manipulation.starts import HORIZONS, STARTS, is_success, start_tables
from qsft_lite.tasks.manipulation.text import image_texts, state_texts

PARTS = {"prior": 0.5, "task": 0.5}
BLOCK = 500  # episodes of a file, and of its file of pictures
MANY = 20_000  # above so many episodes, what they will cost is printed first
# Of the table's rules, its pictures and its texts. Raised with each change of what an episode says,
# or a folder of older episodes would be taken for one of these.
VERSION = 3


def generate_manipulation(
    n: int,
    seed: int,
    *,
    task: str = "tray",
    parts: Mapping[str, float] = PARTS,
    behavior: Mapping[str, float] = BEHAVIOR,
    noise: float = NOISE,
    format: Literal["image", "state"] = "image",
    bins: ActionBins | None = None,
    size: int = SIZE,
    processes: int = 1,
    path: str | Path | None = None,
    shard: tuple[int, int] | None = None,
) -> Dataset:
    """Episodes of a task's scripts, each at most as long as its part's horizon.

    parts: weights of "prior" and "task". behavior: weights of good and bad ways to play, see
    `players.BEHAVIOR`. noise: standard deviation of what is added to each number of an action; the
    sum is cut to [-0.9, 0.9], and the center of its bin is what moves the table, so that an episode
    is exactly what `Manipulation` answers to its texts. format, bins and size are those of
    `Manipulation`. processes, path and shard are those of `record`; pictures lie beside the JSON
    lines, in files images-00000.npy of uint8 (N, size, size, 3), and the column `images` refers to
    them.
    Without a path, episodes with pictures go to a folder of the user's cache, named by the
    settings, and others stay in memory. For more than MANY episodes `estimate` is printed first.

    An episode that ran out of steps, and every one of the prior, is not done. Raises ValueError for
    an unknown task, part or kind of behavior, and for noise below 0 or not finite.
    """
    recipe = Recipe(task, parts, behavior, noise, format, bins, size)
    if n > MANY:
        print(_estimate(n, recipe, processes))
    settings = recipe.settings()
    if path is None and format == "image":
        path = cache_folder(task, settings, n, seed, BLOCK)
    folder = None if path is None else Path(path).absolute()
    play = partial(_play_block, recipe, folder)
    how = {"processes": processes, "path": path, "shard": shard, "block_size": BLOCK}
    return record(play, n, seed, settings, **how)


def script_cross_entropy(n: int, seed: int, **options: Any) -> float:
    """Nats an action of the scripts themselves, on the episodes that generate_manipulation makes.

    options: those of `Recipe`. Only the noise of the actions is counted. A script knows its plan,
    which no transcript says, so whoever reads transcripts is expected above it (but for episodes of
    the prior that are cut off before a step that would win).
    """
    chances: list[np.ndarray] = []
    recipe = Recipe(**{**options, "format": "state"})
    record(partial(_play_block, recipe, None, chances=chances), n, seed, {}, block_size=BLOCK)
    return -float(np.concatenate(chances).mean())


def cache_folder(name: str, settings: dict[str, Any], n: int, seed: int, block: int) -> Path:
    """Where in the user's cache so many episodes of these settings and this seed belong."""
    key = json.dumps([settings, int(n), int(seed), block], sort_keys=True).encode()
    name = f"{name}-{n}-{seed}-{hashlib.sha256(key).hexdigest()[:12]}"
    return Path(platformdirs.user_cache_dir("qsft_lite")) / "manipulation" / name


@dataclass
class Recipe:
    """How episodes are made: the options of `generate_manipulation`, checked."""

    task: str = "tray"
    parts: Mapping[str, float] = field(default_factory=PARTS.copy)
    behavior: Mapping[str, float] = field(default_factory=BEHAVIOR.copy)
    noise: float = NOISE
    format: str = "image"
    bins: ActionBins | None = None
    size: int = SIZE

    def __post_init__(self) -> None:
        check_choice(self.task, HORIZONS, "task")
        check_choice(self.format, FORMATS, "format")
        check_size(self.size)
        if not 0 <= self.noise < np.inf:
            raise ValueError(f"noise must be at least 0 and finite, got {self.noise}")
        # In one order: it decides, with the seed, which episode is of which kind.
        self.parts = dict(sorted(check_weights(self.parts, "parts", STARTS).items()))
        kinds = check_weights(self.behavior, "behavior", BEHAVIOR)
        self.behavior = dict(sorted(kinds.items()))
        self.noise, self.size = float(self.noise), int(self.size)
        self.bins = self.bins or ActionBins.uniform()

    def settings(self) -> dict[str, Any]:
        """What a folder of episodes says of them."""
        own = {"bins": self.bins.as_dict(), "task": f"manipulation, {self.task}"}
        return {**vars(self), **own, "version": VERSION}


def _play_block(
    recipe: Recipe,
    folder: Path | None,
    n: int,
    seed: np.random.SeedSequence,
    chances: list[np.ndarray] | None = None,
) -> Episodes:
    """The episodes of a block, whose number is the last one of the seed's key.

    chances: gets log of the probability of each action, given the script's plan.
    """
    rng = np.random.default_rng(seed)
    drawn = rng.choice(len(recipe.parts), n, p=list(recipe.parts.values()))
    episodes: Episodes = {"text": [None] * n, "is_action": [], "reward": [None] * n, "done": []}
    episodes["done"] = [False] * n
    shown: list[tuple[np.ndarray, int, np.ndarray]] = []
    for place, part in enumerate(recipe.parts):
        rows = np.flatnonzero(drawn == place)
        if len(rows):
            shown += _play_part(recipe, part, rows, episodes, rng, chances)
    episodes["is_action"] = [[i % 2 == 1 for i in range(len(text))] for text in episodes["text"]]
    if recipe.format == "image":
        counts = np.array([len(text) // 2 + 1 for text in episodes["text"]])
        first = np.cumsum(counts) - counts
        pictures = np.empty((counts.sum(), recipe.size, recipe.size, 3), dtype=np.uint8)
        for rows, step, images in shown:
            pictures[first[rows] + step] = images
        file = folder / f"images-{seed.spawn_key[-1]:05d}.npy"
        with written_aside(file) as aside, open(aside, "wb") as out:
            np.save(out, pictures, allow_pickle=False)
        names = [f"{file}#{row}" for row in range(len(pictures))]
        episodes["images"] = [
            names[start : start + count] for start, count in zip(first, counts, strict=True)
        ]
    return episodes


def _play_part(
    recipe: Recipe,
    part: str,
    rows: np.ndarray,
    episodes: Episodes,
    rng: np.random.Generator,
    chances: list[np.ndarray] | None,
) -> list[tuple[np.ndarray, int, np.ndarray]]:
    """Play the episodes rows, and write them down.

    Returns (rows, step, pictures) of each step, of the episodes that go on.
    """
    task, bins = recipe.task, recipe.bins
    write = image_texts if recipe.format == "image" else state_texts
    tables = start_tables(task, part, len(rows), rng)
    script = Script(task, part, draw_plans(task, part, tables, recipe.behavior, rng))
    for row, text in zip(rows, write(task, tables), strict=True):
        episodes["text"][row], episodes["reward"][row] = [text], [0.0]
    shown = []
    alive = np.arange(len(rows))
    for step in range(getattr(HORIZONS[task], part)):
        if not len(alive):
            break
        if recipe.format == "image":
            shown.append((rows[alive], step, render(tables.take(alive), recipe.size)))
        wanted = script.act(tables)
        chosen = bins.encode(noisy(wanted, recipe.noise, rng))
        tables.step(bins.decode(chosen))
        won = is_success(task, tables)
        if part == "prior":
            alive = alive[~won[alive]]
        if chances is not None:
            own = wanted[alive], recipe.noise, bins, chosen[alive]
            chances.append(log_chance_of_bins(*own))
        after = write(task, tables.take(alive))
        for row, action, state, success in zip(
            rows[alive], bins.write(chosen[alive]), after, won[alive].tolist(), strict=True
        ):
            episodes["text"][row] += (action, state)
            episodes["reward"][row] += (float(success), 0.0)
            episodes["done"][row] = success
        last, alive = alive, alive[~won[alive]]
        ended = last[won[last]]
        if recipe.format == "image" and len(ended):
            shown.append((rows[ended], step + 1, render(tables.take(ended), recipe.size)))
    if recipe.format == "image":
        shown.append((rows[alive], step + 1, render(tables.take(alive), recipe.size)))
    return shown


# What it will cost


class Estimate(NamedTuple):
    """What so many episodes cost: pictures, bytes on the disk, and seconds on this machine."""

    episodes: int
    pictures: int
    size: int
    seconds: float
    processes: int

    def __str__(self) -> str:
        return (
            f"{self.episodes:,} episodes, {self.pictures:,} pictures: about "
            f"{self.size / 1e9:.1f} GB and {self.seconds / 60:.0f} minutes "
            f"in {self.processes} process{'es' if self.processes > 1 else ''}"
        )


def estimate(n: int, *, processes: int = 1, **options: Any) -> Estimate:
    """What `generate_manipulation(n, ..., **options)` will cost, by playing 100 episodes."""
    return _estimate(n, Recipe(**options), processes)


def _estimate(n: int, recipe: Recipe, processes: int) -> Estimate:
    sample = 100
    with tempfile.TemporaryDirectory() as folder:
        play = partial(_play_block, recipe, Path(folder))
        start = time.perf_counter()
        episodes = record(play, sample, 0, {}, path=folder, block_size=sample)
        seconds = time.perf_counter() - start
        size = sum(file.stat().st_size for file in Path(folder).iterdir())
    pictures = sum(map(len, episodes["images"])) if recipe.format == "image" else 0
    share = n / sample
    seconds *= share / processes
    return Estimate(n, round(pictures * share), round(size * share), seconds, processes)
