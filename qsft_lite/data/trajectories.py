"""Trajectories on disk and in memory: LMRL-Gym's JSON lines <-> datasets.Dataset.

A line of the file is an episode:

    {"sequence": [[text, is_action], ...], "reward": [number, ...], "done": bool}

One text is a segment, and all of them in a row are the transcript. `is_action` (true, false, 1 or
0) marks what the agent wrote. `reward` has one number a segment, in the task's own units, and 0
where the agent did not write. `done` is false for an episode that was cut off. Files of other
projects are read too: see `formats`. Episodes with pictures also have "images", a reference for
each "<image>" in their texts: see `images`.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import islice
from pathlib import Path
from reprlib import repr as brief
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from datasets import Dataset, DatasetDict, DatasetInfo, Features, IterableDataset
from transformers import PreTrainedTokenizerBase

from qsft_lite.checks import check_choice
from qsft_lite.data.formats import Episode, convert, read_records
from qsft_lite.data.images import IMAGE, check_images, image_digest, whole_reference
from qsft_lite.files import written_aside

__all__ = ["data_hash", "load_trajectories", "save_trajectories", "split"]

EPISODES = pa.schema(
    {
        "text": pa.list_(pa.string()),
        "is_action": pa.list_(pa.bool_()),
        "reward": pa.list_(pa.float64()),
        "done": pa.bool_(),
    }
)
IMAGES = pa.field("images", pa.list_(pa.string()))  # of episodes with pictures, a further column
BATCH = 10_000  # episodes read at a time
SURROGATE = re.compile("[\ud800-\udfff]")
LARGEST = float(np.finfo(np.float32).max)  # tokens carry their rewards in float32

PathLike = str | os.PathLike
Source = PathLike | Dataset | IterableDataset
Reader = Callable[[Any], list[Episode]]  # the episodes of a record


# Files


def load_trajectories(
    source: Source | Sequence[PathLike],
    *,
    reward: float | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    on_bad: Literal["raise", "skip"] = "raise",
    streaming: bool = False,
) -> Dataset | IterableDataset:
    """Episodes of one or more files of JSON, gzipped or not, every one of them checked.

    Args:
        source: a path, a list of paths, or a dataset that has the columns below already. A folder
            stands for its files .jsonl (also .jsonl.gz), or else .json, by name.
        reward: of the last action of an episode whose form has no rewards.
        tokenizer: that of a chat model, whose template then writes conversations and messages.
        on_bad: "raise" at the first bad episode, or "skip" them all, with a warning that counts and
            places them. A dataset in memory repeats that warning in `info.description`.
        streaming: read the files anew at each pass, and hold no more than a batch in memory.

    Returns:
        A dataset in memory, or an IterableDataset when streaming, with the columns `text` list of
        str, `is_action` list of bool, `reward` list of float64, `done` bool; and where there are
        pictures `images` list of str, their references as whole paths.
        `info.download_checksums` has the files as its keys.

    Raises:
        ValueError: naming file and line or item (or row of a dataset): a line that is not JSON of
            such a form, lengths that differ, an is_action that is neither true, false, 1 nor 0, a
            reward that is not finite in float32 or not on an action, an episode without any action;
            a number of images that is not that of "<image>" in the texts, an image in an action, a
            reference that leads to no picture, or to one of another size than the others.
            While streaming, it comes when the line is read.
    """
    check_choice(on_bad, ("raise", "skip"), "on_bad")
    if tokenizer is not None and not tokenizer.chat_template:
        raise ValueError("the tokenizer has no chat template: set tokenizer.chat_template")
    if reward is not None:
        _check_reward(reward, "reward=")
    given = list(source) if isinstance(source, (list, tuple)) else [source]
    sources = [part for some in given for part in _files_of(some)]
    for part in sources:
        check_source(part)
    options = {
        "sources": sources,
        "read": partial(convert, reward=reward, tokenizer=tokenizer),
        "on_bad": on_bad,
    }
    if streaming:
        features = Features.from_arrow_schema(schema_of(_begins_with_images(sources)))
        options["images"] = IMAGES.name in features
        dataset = IterableDataset.from_generator(_read, features=features, gen_kwargs=options)
    else:
        skipped: list[str] = []
        files = [str(part) for part in sources if isinstance(part, PathLike)]
        table = _without_nulls(_table(_read(**options, skipped=skipped)), files)
        features = Features.from_arrow_schema(table.schema)
        report = _report(skipped, len(table)) if skipped else ""
        if not len(table):
            names = [str(part) if isinstance(part, PathLike) else "dataset" for part in sources]
            raise ValueError(f"{', '.join(names)}: no episode to load. {report}")
        dataset = Dataset(table, info=DatasetInfo(features=features, description=report))
    dataset.info.download_checksums = {
        str(path): {"num_bytes": os.path.getsize(path)}
        for path in sources
        if isinstance(path, PathLike)
    }
    return dataset


def save_trajectories(dataset: Dataset | IterableDataset, path: PathLike) -> None:
    """Write episodes as JSON lines; gzip them when the path ends with .gz.

    `load_trajectories` gives back exactly the same; references to pictures are written relative to
    the file's folder, the pictures stay where they are. The file is written whole or not at all;
    where the path is a link, it is the one that it leads to. Raises ValueError, naming the row, for
    what could not be loaded again.
    """
    zipped = str(path).lower().endswith(".gz")
    with written_aside(path) as aside, open(aside, "wb") as file:
        # Zipped without name and time: the same data give the same bytes.
        with gzip.GzipFile("", "wb", fileobj=file, mtime=0) if zipped else nullcontext(file) as out:
            folder = os.path.abspath(os.path.dirname(path))
            out.writelines(_lines(dataset, lambda reference: _relative(reference, folder)))


def data_hash(dataset: Dataset | IterableDataset) -> str:
    """Hexadecimal SHA-256 of the bytes that `save_trajectories` writes for the dataset.

    In place of its reference each picture has its own SHA-256, `images.image_digest`.
    """
    digest = hashlib.sha256()
    for line in _lines(dataset, image_digest):
        digest.update(line)
    return digest.hexdigest()


def split(dataset: Dataset, validation: int | float, test: int | float, seed: int) -> DatasetDict:
    """Train, validation and test parts, by whole episodes drawn with the seed.

    validation and test are numbers of episodes (int) or shares of them (float below 1). Each part's
    `info.description` records the seed and the `data_hash` of part and whole, and of the test how
    many of its episodes are in the training part, too; a warning says so where most are. Raises
    ValueError when a part would be empty.
    """
    if not isinstance(dataset, Dataset):
        raise TypeError("split needs a Dataset in memory: keep one file a part when streaming")
    if not len(dataset):
        raise ValueError("there is no episode to split")
    sizes = {
        name: round(size * len(dataset)) if isinstance(size, float) else size
        for name, size in (("validation", validation), ("test", test))
    }
    sizes["train"] = len(dataset) - sum(sizes.values())
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} would have {size} of {len(dataset)} episodes")
    shuffled = dataset.select(np.random.default_rng(seed).permutation(len(dataset)))
    whole, first, parts = data_hash(dataset), 0, DatasetDict()
    for name in ("train", "validation", "test"):
        part = shuffled.select(range(first, first + sizes[name]))
        part.info.description = (
            f"{name}: {len(part)} of {len(dataset)} episodes, seed {seed}, "
            f"sha256 {data_hash(part)} of {whole}"
        )
        parts[name], first = part, first + sizes[name]
    hashes = {
        name: [hashlib.sha256(line).digest() for line in _lines(parts[name], image_digest)]
        for name in ("train", "test")
    }
    known = set(hashes["train"])
    repeated = sum(line in known for line in hashes["test"])
    overlap = f"{repeated} of {sizes['test']} test episodes are also in train"
    if repeated:
        parts["test"].info.description += f"; {overlap}"
    if 2 * repeated > sizes["test"]:
        warnings.warn(f"{overlap}: what is learned there says little of others", stacklevel=2)
    return parts


# Reading and checking


def schema_of(images: bool) -> pa.Schema:
    """The columns of episodes, with pictures or without."""
    return EPISODES.append(IMAGES) if images else EPISODES


def _begins_with_images(sources: list[Source]) -> bool:
    """Whether the first episode of the first source has pictures, and so all that are streamed."""
    if not isinstance(sources[0], PathLike):
        return IMAGES.name in (sources[0].column_names or ())
    _, record = next(read_records(sources[0]), (None, None))
    return isinstance(record, dict) and IMAGES.name in record


def check_source(source: Any) -> None:
    """Raise for what is neither a file nor a dataset with the columns of EPISODES."""
    if isinstance(source, (Dataset, IterableDataset)):
        missing = set(EPISODES.names) - set(source.column_names or EPISODES.names)
        if missing:
            raise ValueError(f"the dataset has no column {', '.join(sorted(missing))}")
    elif not isinstance(source, PathLike):
        raise TypeError(f"source must be paths or a dataset, got {type(source).__name__}")
    elif not os.path.isfile(source):
        raise FileNotFoundError(f"{source}: no such file or folder of JSON lines")


def _files_of(source: Any) -> list[Any]:
    """The files of a folder; anything else is itself."""
    if not isinstance(source, PathLike) or not os.path.isdir(source):
        return [source]
    visible = sorted(path for path in Path(source).iterdir() if not path.name.startswith("."))
    for kind in (".jsonl", ".json"):
        found = [path for path in visible if path.name.lower().removesuffix(".gz").endswith(kind)]
        if found:
            return found
    raise FileNotFoundError(f"{source}: this folder has no file that ends with .jsonl or .json")


def _read(
    sources: list[Source],
    read: Reader,
    on_bad: str,
    skipped: list[str] | None = None,
    images: bool | None = None,
) -> Iterator[Episode]:
    """Checked episodes, and a warning of those left out, which are appended to ``skipped``.

    images: whether all of them have pictures, or none; None for as they come: once one has had
    some, "<image>" in a text is a picture, and no word.
    """
    skipped, kept = [] if skipped is None else skipped, 0
    sizes: set[tuple[int, int]] = set()
    for source in sources:
        in_file = isinstance(source, PathLike)
        folder = os.path.dirname(source) if in_file else ""
        for place, record in read_records(source) if in_file else _rows(source):
            try:
                episodes = read(record) if in_file else [record]
                checked = [_checked(episode, folder) for episode in episodes]
                for episode in checked:
                    if images is False and IMAGES.name in episode:
                        raise ValueError("images, which the first episode of the stream has not")
                    if images or (sizes and images is None):
                        episode.setdefault(IMAGES.name, [])
                    if IMAGES.name in episode:
                        check_images(episode, sizes)
            except ValueError as error:
                complaint = f"{place}: {error}"
                if on_bad == "raise":
                    raise ValueError(f"{complaint}. Mend it, or load with on_bad='skip'") from None
                skipped.append(complaint)
            else:
                yield from checked
                kept += len(checked)
    if skipped:
        warnings.warn(_report(skipped, kept), stacklevel=2)


def _rows(dataset: Dataset | IterableDataset) -> Iterator[tuple[str, Episode]]:
    """The place and the unchecked content of each row."""
    number = 0
    names = schema_of(IMAGES.name in (dataset.column_names or ())).names
    for batch in dataset.with_format(None).iter(batch_size=1000):  # quicker than single rows
        for row in zip(*(batch[name] for name in names), strict=True):
            yield f"row {number}", dict(zip(names, row, strict=True))
            number += 1


def find_episode(
    episode: Episode, files: list[str], tokenizer: PreTrainedTokenizerBase | None = None
) -> str | None:
    """File and line of the first such episode in the files; None where there is none.

    One that a chat template wrote is found by its tokenizer.
    """
    reward = math.fsum(episode["reward"])  # what load_trajectories was told, where it was
    for file in filter(os.path.isfile, files):
        for place, record in read_records(file):
            try:
                found = convert(record, reward=reward, tokenizer=tokenizer)
                if episode in [_checked(one, os.path.dirname(file)) for one in found]:
                    return place
            except ValueError:  # this line was skipped when the files were loaded
                continue
    return None


def _checked(episode: Episode, folder: str = "") -> Episode:
    """The episode with the exact types of EPISODES; ValueError says what is wrong with it.

    folder: what its references to pictures are relative to; they become whole paths.
    """
    text, is_action, reward = episode["text"], episode["is_action"], episode["reward"]
    for name in ("text", "is_action", "reward"):
        if not isinstance(episode[name], list):
            raise ValueError(f"{name} is {brief(episode[name])}, not a list")
    if not len(text) == len(is_action) == len(reward):
        raise ValueError(f"{len(text)} texts, {len(is_action)} is_action, {len(reward)} rewards")
    if episode["done"] not in (True, False):
        raise ValueError(f"done is {brief(episode['done'])}, not true or false")
    for i, (t, a, r) in enumerate(zip(text, is_action, reward, strict=True)):
        if not isinstance(t, str):
            raise ValueError(f"text {i} is {brief(t)}, not a string")
        if not t.isascii() and SURROGATE.search(t):
            raise ValueError(f"text {i} is no valid Unicode: it has half of a surrogate pair")
        if a not in (0, 1):
            raise ValueError(f"is_action {i} is {brief(a)}, not true, false, 1 or 0")
        if type(r) is not float or not abs(r) <= LARGEST:  # most are passed quickly
            _check_reward(r, f"reward {i}")
        if r and not a:
            raise ValueError(f"reward {i} is {brief(r)} but not on an action")
    if 1 not in is_action:
        raise ValueError("no action in this episode: some is_action must be true")
    if not sum(map(abs, reward)) <= LARGEST:
        raise ValueError("the rewards add up to more than a float32 holds: scale them down")
    images = episode.get(IMAGES.name)
    if isinstance(images, list) and all(isinstance(each, str) for each in images):
        images = [whole_reference(each, folder) for each in images]
    return {
        "text": text,
        "is_action": [bool(a) for a in is_action],
        "reward": [float(r) for r in reward],
        "done": bool(episode["done"]),
        **({IMAGES.name: images} if IMAGES.name in episode else {}),
    }


def _check_reward(reward: Any, name: str) -> None:
    number = isinstance(reward, (int, float)) and not isinstance(reward, bool)
    if not number or not abs(reward) <= LARGEST:
        raise ValueError(f"{name} is {brief(reward)}, not a finite number that a float32 holds")


def _report(skipped: list[str], kept: int) -> str:
    more = f"\n... and {len(skipped) - 10} more" if len(skipped) > 10 else ""
    first = "\n".join(skipped[:10])
    return f"skipped {len(skipped)} of {len(skipped) + kept} episodes:\n{first}{more}"


def _table(episodes: Iterator[Episode]) -> pa.Table:
    batches, pictures = [], False
    while batch := list(islice(episodes, BATCH)):
        pictures = pictures or any(IMAGES.name in episode for episode in batch)
        batches.append(pa.RecordBatch.from_pylist(batch, schema=schema_of(True)))
    table = pa.Table.from_batches(batches, schema=schema_of(True))
    if not pictures:
        return table.drop_columns(IMAGES.name)
    return table


def _without_nulls(table: pa.Table, files: list[str]) -> pa.Table:
    """Where only some episodes have pictures, the others have none.

    ValueError, naming file and line, where the texts of one of them hold "<image>" all the same.
    """
    if IMAGES.name not in table.column_names or not table[IMAGES.name].null_count:
        return table
    for episode in table.filter(table[IMAGES.name].is_null()).to_pylist():
        if IMAGE in "".join(episode["text"]):
            del episode[IMAGES.name]
            place = find_episode(episode, files) or "an episode"
            raise ValueError(f'{place}: "{IMAGE}" in the texts, but no images')
    images = table[IMAGES.name].fill_null(pa.scalar([], IMAGES.type))
    return table.set_column(len(EPISODES), IMAGES, images)


def _relative(reference: str, folder: str) -> str:
    """A reference relative to a folder, spelt alike on every system."""
    return os.path.relpath(reference, folder).replace(os.sep, "/")


def _lines(dataset: Dataset | IterableDataset, spelt: Callable[[str], str]) -> Iterator[bytes]:
    """The lines of the file, each ending with a newline: the canonical form of the data.

    spelt: what to write for the reference to a picture.
    """
    check_source(dataset)
    for episode in _read([dataset], convert, "raise"):
        record = {
            "sequence": list(zip(episode["text"], episode["is_action"], strict=True)),
            "reward": episode["reward"],
            "done": episode["done"],
        }
        if IMAGES.name in episode:
            record[IMAGES.name] = [spelt(reference) for reference in episode[IMAGES.name]]
        yield json.dumps(record, ensure_ascii=False, allow_nan=False).encode() + b"\n"
