"""Files: read as people have them, zipped or with a mark of UTF-8; written whole or not at all."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO

_MARK = b"\xef\xbb\xbf"  # the byte order mark of UTF-8
_GZIP = b"\x1f\x8b"  # the first bytes of every gzip file

# Reading


@contextmanager
def named_if_damaged(path: Path | str, advice: str) -> Iterator[None]:
    """Name the file or folder, and what to do, in whatever error comes of reading it."""
    try:
        yield
    except Exception as error:
        raise ValueError(
            f"{path} cannot be read, it seems damaged: {advice}. "
            f"({type(error).__name__}: {str(error)[:300]})"
        ) from error


@contextmanager
def open_unpacked(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """A file open for reading, unzipped whatever its name, and behind its byte order mark.

    Raises ValueError, naming the file, for one in UTF-16.
    """
    with open(path, "rb") as file:
        zipped = file.read(2) == _GZIP
        file.seek(0)
        with gzip.GzipFile(fileobj=file) if zipped else nullcontext(file) as unpacked:
            start = unpacked.read(3)
            _refuse_utf16(start, path)
            unpacked.seek(len(_MARK) if start == _MARK else 0)
            yield unpacked


def read_text(path: Any) -> str:
    """The text of a file in UTF-8 without its byte order mark; path is any with `read_bytes`.

    Raises ValueError, naming the file, for another encoding.
    """
    content = path.read_bytes()
    _refuse_utf16(content[:3], path)
    try:
        return content.removeprefix(_MARK).decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 ({error}): save it as UTF-8") from error


def read_lines(path: Any) -> list[str]:
    """The lines of such a file, without their ends and without empty ones after the last."""
    lines = read_text(path).splitlines()
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def read_json_texts(path: str | os.PathLike, keys: Iterable[str]) -> dict[str, str]:
    """The texts that a file with one JSON object has under these keys.

    Raises ValueError, naming the file, and the key, for a file or a value that is none.
    """
    path = Path(path)
    try:
        found = json.loads(read_text(path))
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} must hold one JSON object, not a {type(found).__name__}")
    texts = {key: found.get(key) for key in keys}
    for key, text in texts.items():
        if not isinstance(text, str):
            raise ValueError(f"{path} has no text {key!r}; its keys are: {', '.join(found)[:500]}")
    return texts


def _refuse_utf16(start: bytes, path: Any) -> None:
    """ValueError for the first bytes of a text in UTF-16, as the > of Windows PowerShell writes."""
    marked = start.startswith((b"\xff\xfe", b"\xfe\xff"))
    if marked or (start[:1] == b"\0") != (start[1:2] == b"\0"):
        raise ValueError(f"{path}: this is UTF-16: save it as UTF-8")


# Writing


@contextmanager
def written_aside(path: str | os.PathLike) -> Iterator[Path]:
    """A place beside ``path`` to write a file at; at the end it is renamed: nobody sees half of it.

    After an error ``path`` is as it was. Where it is a link, the file that it leads to is written.
    """
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield aside
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def replace_file(path: str | os.PathLike, content: bytes) -> None:
    """Write a file whole, see ``written_aside``."""
    with written_aside(path) as aside:
        aside.write_bytes(content)


@contextmanager
def replace_folder(path: str | os.PathLike) -> Iterator[Path]:
    """A new folder beside ``path`` to write into; at the end it takes the place of ``path``.

    After an error ``path`` is as it was.
    """
    path = Path(os.path.realpath(path))
    aside, old = (path.with_name(f".{path.name}.{os.getpid()}{end}") for end in ("", ".old"))
    aside.mkdir(parents=True)
    try:
        yield aside
        if path.exists():
            os.replace(path, old)
        os.replace(aside, path)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        if old.exists() and not path.exists():
            os.replace(old, path)
        raise
    shutil.rmtree(old, ignore_errors=True)
