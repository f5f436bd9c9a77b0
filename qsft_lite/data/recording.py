"""Recorded episodes of any task: drawn in blocks, in several processes, kept in files.

An episode set is cut into blocks of BLOCK episodes, and each block has its own random numbers, a
child of the seed. So the result does not depend on how many processes shared the work, and a run
that was killed goes on with the first block that is not on disk yet.
"""

from __future__ import annotations

import json
import multiprocessing
import operator
import os
import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from datasets import Dataset, Features, concatenate_datasets

from qsft_lite.data.trajectories import (
    EPISODES,
    load_trajectories,
    save_trajectories,
    schema_of,
)

BLOCK = 10_000
SETTINGS = "settings.json"
FEATURES = Features.from_arrow_schema(EPISODES)
LEFTOVER = r"\.(\d{5,}\.jsonl|settings\.json|images-\d{5,}\.npy)\.(\d+)"  # name and process

Episodes = dict[str, list]  # the columns text, is_action, reward, done, and perhaps images
PlayBlock = Callable[[int, np.random.SeedSequence], Episodes]


def record(
    play: PlayBlock,
    n: int,
    seed: int,
    settings: dict[str, Any],
    *,
    processes: int = 1,
    path: str | Path | None = None,
    shard: tuple[int, int] | None = None,
    block_size: int | None = None,
) -> Dataset:
    """n episodes of play(number of episodes, seed of the block) -> columns.

    processes: how many work at once; the episodes are the same for any number. A script that asks
    for several needs `if __name__ == "__main__":`, as always with multiprocessing. path: a folder
    for JSON lines, one file a block, and settings.json; blocks found there are kept, so the same
    call resumes. Without it the episodes stay in memory. shard: (i, k), of (1, k) to (k, k), for
    every k-th block of the same episodes, from the i-th on: so k machines make them together, in
    one folder, or in folders whose files are then put into one. The call without it makes whatever
    is missing there, and returns all. block_size: smaller where an episode takes long; other sizes
    give other episodes.

    Raises ValueError for n or processes below 1, for a shard that there is none of, and for a
    folder with other settings.
    """
    for name, value in (("n", n), ("processes", processes)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    n, seed = operator.index(n), operator.index(seed)  # numpy's may overflow below
    size = block_size or BLOCK
    blocks = _of_shard(range(-(-n // size)), size, shard)
    block = partial(_play_block, play, n, seed, size)
    if path is None:
        parts = _in_processes(block, blocks, processes)
        return concatenate_datasets([_dataset(part) for part in parts])

    folder = Path(path)
    _claim_folder(folder, {**settings, "n": n, "seed": seed, "block": size})
    _remove_leftovers(folder)
    missing = [index for index in blocks if not _file(folder, index).exists()]
    _in_processes(partial(_write_block, block, folder), missing, processes)
    return load_trajectories([_file(folder, index) for index in blocks])


def missing_files(folder: str | Path) -> list[Path]:
    """The files that shards, or a killed run, have not yet written into a folder of `record`.

    Raises ValueError where the folder holds no settings.json of `record`.
    """
    folder = Path(folder)
    settings = _settings_of(folder) if (folder / SETTINGS).exists() else {}
    if not {"n", "block"} <= settings.keys():
        raise ValueError(f"{folder} holds no recorded episodes: it has no {SETTINGS} of theirs")
    names = [_file(folder, index) for index in range(-(-settings["n"] // settings["block"]))]
    return [name for name in names if not name.exists()]


def _file(folder: Path, index: int) -> Path:
    return folder / f"{index:05d}.jsonl"


def _of_shard(blocks: range, size: int, shard: tuple[int, int] | None) -> range:
    """Every k-th block, from the i-th on."""
    if shard is None:
        return blocks
    i, k = map(operator.index, shard)
    if not 1 <= i <= k:
        raise ValueError(f"no shard is called {i}/{k}: they are 1/{k} to {k}/{k}, and k at least 1")
    if k > len(blocks):
        raise ValueError(
            f"{k} shards are too many: the episodes are {len(blocks)} files of up to {size:,}"
        )
    return blocks[i - 1 :: k]


def _play_block(play: PlayBlock, n: int, seed: int, size: int, index: int) -> Episodes:
    block_seed = np.random.SeedSequence(seed, spawn_key=(index,))
    return play(min(size, n - index * size), block_seed)


def _write_block(block: Callable[[int], Episodes], folder: Path, index: int) -> None:
    save_trajectories(_dataset(block(index)), _file(folder, index))


def _dataset(episodes: Episodes) -> Dataset:
    return Dataset.from_dict(episodes, Features.from_arrow_schema(schema_of("images" in episodes)))


def _in_processes(work: Callable[[int], Any], blocks: Sequence[int], processes: int) -> list[Any]:
    """The results of work for each block, in their order."""
    if processes == 1 or len(blocks) < 2:
        return [work(index) for index in blocks]
    context = multiprocessing.get_context("spawn")  # fork does not go with torch's threads
    workers = min(processes, len(blocks))
    with ProcessPoolExecutor(workers, context, initializer=_end_with_parent) as pool:
        return list(pool.map(work, blocks))


def _end_with_parent() -> None:
    """End this worker when its parent is killed: it would wait for work for ever.

    What it has started, such as an engine, then reads the end of its input, and ends too.
    """

    def watch() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _claim_folder(folder: Path, settings: dict[str, Any]) -> None:
    """Write the settings into a new folder; ValueError when it holds those of other episodes.

    Of several processes that come at once, one writes; all of them then compare.
    """
    file = folder / SETTINGS
    settings = json.loads(json.dumps(settings, default=operator.index))  # numpy's integers too
    lines = any(folder.glob("*.jsonl"))  # before the look at settings.json, which comes before them
    if not file.exists():
        if lines:
            raise ValueError(f"{folder} holds JSON lines of another origin: choose a new folder")
        _write_if_absent(file, (json.dumps(settings, indent=1) + "\n").encode())
    found = _settings_of(folder)
    for key in sorted({*found, *settings}):
        if found.get(key) != settings.get(key):
            there, asked = found.get(key), settings.get(key)
            raise ValueError(f"{folder} holds episodes with {key}={there!r}, not {asked!r}")


def _settings_of(folder: Path) -> dict[str, Any]:
    file = folder / SETTINGS
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file} is damaged ({error}): remove {folder}") from error


def _write_if_absent(file: Path, content: bytes) -> None:
    """Write a file whole, unless another process has written it by now."""
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        aside.write_bytes(content)
        os.link(aside, file)  # fails where the name is taken
    except FileExistsError:
        pass
    except OSError:  # a file system without such links, as a mounted Google Drive
        os.replace(aside, file)
    finally:
        aside.unlink(missing_ok=True)


def _remove_leftovers(folder: Path) -> None:
    """Remove what killed processes were writing: `save_trajectories` writes aside, with its id."""
    for path in folder.glob(".*"):
        begun = re.fullmatch(LEFTOVER, path.name)
        if begun and not psutil.pid_exists(int(begun[2])):
            path.unlink(missing_ok=True)
