"""Trajectories on disk and in memory: LMRL-Gym's JSON lines <-> datasets.Dataset.

A line of the file is an episode:

    {"sequence": [[text, is_action], ...], "reward": [number, ...], "done": bool}

One text is a segment, and all of them in a row are the transcript. `is_action` (true, false, 1 or
0) marks what the agent wrote. `reward` has one number a segment, in the task's own units, and 0
where the agent did not write. `done` is false for an episode that was cut off.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import sys
import warnings
import zlib
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from datasets import Dataset, DatasetDict, DatasetInfo, Features, IterableDataset

__all__ = ["data_hash", "load_trajectories", "save_trajectories", "split"]

EPISODES = pa.schema(
    {
        "text": pa.list_(pa.string()),
        "is_action": pa.list_(pa.bool_()),
        "reward": pa.list_(pa.float64()),
        "done": pa.bool_(),
    }
)
BATCH = 10_000  # episodes read at a time

PathLike = str | os.PathLike
Source = PathLike | Dataset | IterableDataset
Episode = dict[str, Any]  # with the keys of EPISODES


# Files


def load_trajectories(
    source: Source | Sequence[PathLike],
    *,
    reward_range: tuple[float, float] | None = None,
    on_bad: Literal["raise", "skip"] = "raise",
    streaming: bool = False,
) -> Dataset | IterableDataset:
    """Episodes of one or more files of JSON lines (.gz for gzip), every one of them checked.

    Args:
        source: a path, a list of paths, or a dataset that has the columns below already.
        reward_range: lowest and highest sum of the rewards of an episode, in the task's units.
        on_bad: "raise" at the first bad episode, or "skip" them all, with a warning that counts and
            places them. A dataset in memory repeats that warning in `info.description`.
        streaming: read the files anew at each pass, and hold no more than a batch in memory.

    Returns:
        A dataset in memory, or an IterableDataset when streaming, with the columns `text` list of
        str, `is_action` list of bool, `reward` list of float64, `done` bool.
        `info.download_checksums` has the files as its keys.

    Raises:
        ValueError: naming file and line (or row of a dataset): a line that is not JSON of this
            form, lengths that differ, an is_action that is neither true, false, 1 nor 0, a reward
            that is not finite or not on an action, an episode without any action, a sum of rewards
            outside reward_range. While streaming, it comes when the line is read.
    """
    check_choice("on_bad", on_bad, ("raise", "skip"))
    if reward_range is not None:
        reward_range = tuple(reward_range)
        if not (len(reward_range) == 2 and reward_range[0] <= reward_range[1]):
            raise ValueError(f"reward_range must be (lowest, highest), got {reward_range}")
    sources = list(source) if isinstance(source, (list, tuple)) else [source]
    for part in sources:
        check_source(part)
    options = {"sources": sources, "reward_range": reward_range, "on_bad": on_bad}
    features = Features.from_arrow_schema(EPISODES)
    if streaming:
        dataset = IterableDataset.from_generator(_stream, features=features, gen_kwargs=options)
    else:
        skipped: list[str] = []
        table = _table(_read(**options, skipped=skipped))
        report = _report(skipped, len(table))
        if not len(table):
            raise ValueError(f"{_names(sources)}: no episode to load. {report}")
        dataset = Dataset(table, info=DatasetInfo(features=features, description=report))
    dataset.info.download_checksums = {
        str(path): {"num_bytes": os.path.getsize(path)}
        for path in sources
        if isinstance(path, PathLike)
    }
    return dataset


def save_trajectories(dataset: Dataset | IterableDataset, path: PathLike) -> None:
    """Write episodes as JSON lines; gzip them when the path ends with .gz.

    `load_trajectories` gives back exactly the same. The file is written aside and then renamed:
    nobody ever sees half of it. Raises ValueError, naming the row, for what could not be loaded
    again; the file is then as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(aside, "wb") as file:
            if path.suffix == ".gz":  # without name and time: the same data give the same bytes
                with gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed:
                    packed.writelines(_lines(dataset))
            else:
                file.writelines(_lines(dataset))
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def data_hash(dataset: Dataset | IterableDataset) -> str:
    """Hexadecimal SHA-256 of the bytes that `save_trajectories` writes for the dataset."""
    digest = hashlib.sha256()
    for line in _lines(dataset):
        digest.update(line)
    return digest.hexdigest()


def split(dataset: Dataset, validation: int | float, test: int | float, seed: int) -> DatasetDict:
    """Train, validation and test parts, by whole episodes drawn with the seed.

    validation and test are numbers of episodes (int) or shares of them (float below 1). Each part's
    `info.description` records the seed and the `data_hash` of part and whole, and of the test how
    many of its episodes are in the training part, too; a warning says so where most are. (Some
    are in every task whose episodes are short.) Raises ValueError when a part would be empty.
    """
    if not isinstance(dataset, Dataset):
        raise TypeError("split needs a Dataset in memory: keep one file a part when streaming")
    if not len(dataset):
        raise ValueError("there is no episode to split")
    sizes = {}
    for name, size in {"validation": validation, "test": test}.items():
        sizes[name] = round(size * len(dataset)) if isinstance(size, float) else size
    sizes["train"] = len(dataset) - sum(sizes.values())
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(
                f"{name} would have {size} of {len(dataset)} episodes: change validation or test"
            )
    shuffled = dataset.select(np.random.default_rng(seed).permutation(len(dataset)))
    whole, first, parts = data_hash(dataset), 0, DatasetDict()
    for name in ("train", "validation", "test"):
        part = shuffled.select(range(first, first + sizes[name]))
        part.info.description = (
            f"{name}: {len(part)} of {len(dataset)} episodes, seed {seed}, "
            f"sha256 {data_hash(part)} of {whole}"
        )
        parts[name], first = part, first + sizes[name]
    known = {hashlib.sha256(line).digest() for line in _lines(parts["train"])}
    repeated = sum(hashlib.sha256(line).digest() in known for line in _lines(parts["test"]))
    overlap = f"{repeated} of {sizes['test']} test episodes are also in train"
    if repeated:
        parts["test"].info.description += f"; {overlap}"
    if 2 * repeated > sizes["test"]:
        warnings.warn(f"{overlap}: what is learned there says little of others", stacklevel=2)
    return parts


# Reading and checking


def check_source(source: Any) -> None:
    """Raise for what is neither a file nor a dataset with the columns of EPISODES."""
    if isinstance(source, (Dataset, IterableDataset)):
        missing = set(EPISODES.names) - set(source.column_names or EPISODES.names)
        if missing:
            raise ValueError(
                f"the dataset has no column {', '.join(sorted(missing))}: it needs "
                f"{', '.join(EPISODES.names)}"
            )
    elif not isinstance(source, PathLike):
        raise TypeError(f"source must be paths or a dataset, got {type(source).__name__}")
    elif not os.path.isfile(source):
        raise FileNotFoundError(f"{source}: no such file; give one file of JSON lines, or a list")


def _read(
    sources: list[Source],
    reward_range: tuple[float, float] | None,
    on_bad: str,
    skipped: list[str],
) -> Iterator[Episode]:
    """Checked episodes; the complaints about those left out are appended to `skipped`."""
    for place, record in chain.from_iterable(map(_records, sources)):
        try:
            episode = _parse(record) if isinstance(record, bytes) else record
            yield _checked(episode, reward_range)
        except ValueError as error:
            complaint = f"{place}: {error}"
            if on_bad == "raise":
                raise ValueError(f"{complaint}. Mend it, or load with on_bad='skip'") from None
            skipped.append(complaint)


def _stream(
    sources: list[Source], reward_range: tuple[float, float] | None, on_bad: str
) -> Iterator[Episode]:
    skipped: list[str] = []
    kept = 0
    for episode in _read(sources, reward_range, on_bad, skipped):
        kept += 1
        yield episode
    _report(skipped, kept)


def _records(source: Source) -> Iterator[tuple[str, bytes | Episode]]:
    """The place and the unchecked content of each line of a file, or each row of a dataset."""
    if not isinstance(source, PathLike):
        number = 0
        for batch in source.with_format(None).iter(batch_size=1000):  # quicker than single rows
            for row in zip(*(batch[name] for name in EPISODES.names), strict=True):
                yield f"row {number}", dict(zip(EPISODES.names, row, strict=True))
                number += 1
        return
    number = 0
    try:
        with (gzip.open if str(source).endswith(".gz") else open)(source, "rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.isspace():
                    yield f"{source}:{number}", line
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(
            f"{source}: damaged gzip after line {number} ({error}): fetch or write it again"
        ) from error


def find_episode(episode: Episode, files: list[str]) -> str | None:
    """File and line of the first such episode in the files; None where there is none."""
    for file in filter(os.path.isfile, files):
        for place, line in _records(file):
            try:
                if _checked(_parse(line), None) == episode:
                    return place
            except ValueError:  # this line was skipped when the files were loaded
                continue
    return None


def _parse(line: bytes) -> Episode:
    try:
        record = json.loads(line.decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not a line of JSON in UTF-8 ({error})") from error
    if not isinstance(record, dict):
        raise ValueError('an episode is an object {"sequence", "reward", "done"}')
    for key in ("sequence", "reward", "done"):
        if key not in record:
            raise ValueError(f"key {key!r} is missing")
    sequence = record["sequence"]
    if not isinstance(sequence, list):
        raise ValueError("sequence must be a list")
    for i, pair in enumerate(sequence):
        if not isinstance(pair, list) or len(pair) != 2:
            raise ValueError(f"sequence[{i}] must be [text, is_action]")
    return {
        "text": [text for text, _ in sequence],
        "is_action": [is_action for _, is_action in sequence],
        "reward": record["reward"],
        "done": record["done"],
    }


def _checked(episode: Episode, reward_range: tuple[float, float] | None) -> Episode:
    """The episode with the exact types of EPISODES; ValueError says what is wrong with it."""
    text, is_action, reward = episode["text"], episode["is_action"], episode["reward"]
    for name in ("text", "is_action", "reward"):
        if not isinstance(episode[name], list):
            raise ValueError(f"{name} is {episode[name]!r}, not a list")
    if not len(text) == len(is_action) == len(reward):
        raise ValueError(f"{len(text)} texts, {len(is_action)} is_action, {len(reward)} rewards")
    if episode["done"] not in (True, False):
        raise ValueError(f"done is {episode['done']!r}, not true or false")
    for i, (t, a, r) in enumerate(zip(text, is_action, reward, strict=True)):
        if not isinstance(t, str):
            raise ValueError(f"text {i} is {t!r}, not a string")
        if not t.isascii():
            _check_unicode(t, i)
        if a not in (0, 1):
            raise ValueError(f"is_action {i} is {a!r}, not true, false, 1 or 0")
        if isinstance(r, bool) or not isinstance(r, (int, float)) or not abs(r) <= _LARGEST:
            raise ValueError(f"reward {i} is {str(r)[:40]}, not a finite number")
        if r and not a:
            raise ValueError(f"reward {i} is {r} but not on an action: put it on the one before")
    if 1 not in is_action:
        raise ValueError("no action in this episode: some is_action must be true")
    if reward_range is not None:
        _check_range(sum(reward), *reward_range)
    return {
        "text": text,
        "is_action": [bool(a) for a in is_action],
        "reward": [float(r) for r in reward],
        "done": bool(episode["done"]),
    }


_LARGEST = sys.float_info.max


def _check_range(total: float, low: float, high: float) -> None:
    rounding = 1e-9 * max(1.0, abs(low), abs(high))
    if not low - rounding <= total <= high + rounding:
        raise ValueError(f"the rewards add up to {total}, outside reward_range ({low}, {high})")


def _check_unicode(text: str, i: int) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:  # half of a surrogate pair
        raise ValueError(f"text {i} is no valid Unicode ({error.reason})") from error


def _report(skipped: list[str], kept: int) -> str:
    """Warn of the episodes left out, and return the warning's text; "" when there are none."""
    if not skipped:
        return ""
    more = f"\n... and {len(skipped) - 10} more" if len(skipped) > 10 else ""
    report = f"skipped {len(skipped)} of {len(skipped) + kept} episodes:\n"
    report += "\n".join(skipped[:10]) + more
    warnings.warn(report, stacklevel=3)
    return report


def _table(episodes: Iterator[Episode]) -> pa.Table:
    batches = []
    while batch := list(islice(episodes, BATCH)):
        batches.append(pa.RecordBatch.from_pylist(batch, schema=EPISODES))
    return pa.Table.from_batches(batches, schema=EPISODES)


def _lines(dataset: Dataset | IterableDataset) -> Iterator[bytes]:
    """The lines of the file, each ending with a newline: the canonical form of the data."""
    check_source(dataset)
    for episode in _read([dataset], None, "raise", []):
        record = {
            "sequence": list(zip(episode["text"], episode["is_action"], strict=True)),
            "reward": episode["reward"],
            "done": episode["done"],
        }
        yield json.dumps(record, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _names(sources: list[Source]) -> str:
    return ", ".join(str(s) if isinstance(s, PathLike) else "dataset" for s in sources)


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raise ValueError, with the choices, for a value that is none of them."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
