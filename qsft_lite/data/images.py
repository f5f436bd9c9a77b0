"""Pictures of episodes: references to them, and the arrays behind the references.

An episode with pictures has the column ``images``, a list with one reference for each "<image>" in
its texts, in order. A reference names a row of an array file, or a picture file:

    "FOLDER/images-00000.npy#17"    row 17 of a uint8 array (N, H, W, 3)
    "FOLDER/picture.png"            also .jpg and .jpeg

In a file of JSON lines references are relative to the file's folder; in memory they are whole
paths. Array files are opened once and mapped into memory, so that a picture is read when it is
needed. Nothing is ever unpickled. All pictures of a data set have one height and width.
"""

from __future__ import annotations

import hashlib
import os
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

from qsft_lite.data.transcripts import IMAGE

__all__ = ["IMAGE", "check_images", "image_digest", "load_image", "whole_reference"]

PICTURES = (".png", ".jpg", ".jpeg")


def load_image(reference: str) -> np.ndarray:
    """The picture behind a reference: (H, W, 3) uint8, a copy of its own.

    Raises ValueError, naming the reference, for a missing or damaged file, a row that the array
    does not have, and an array that is not uint8 (N, H, W, 3).
    """
    path, row = _parts(reference)
    if row is None:
        return _decoded(path)
    array = _array(path)
    _check_row(array, row, reference)
    return np.array(array[row])


def whole_reference(reference: str, folder: str | os.PathLike) -> str:
    """A reference that is relative to a folder, as a whole path."""
    return os.path.normpath(os.path.join(os.path.abspath(folder), reference))


def image_digest(reference: str) -> str:
    """Hexadecimal SHA-256 of a picture's height, width and bytes, wherever it lies.

    Those of an array file are worked out once, all together.
    """
    path, row = _parts(reference)
    if row is None:
        return _digest(_decoded(path))
    _check_row(_array(path), row, reference)
    return _digests(path, _stamp(path))[row]


def check_images(episode: dict[str, Any], sizes: set[tuple[int, int]]) -> None:
    """ValueError for an episode whose references are wrong.

    There must be one for each "<image>" in its texts, none in an action, and each must lead to a
    picture. sizes: the (height, width) of the pictures so far; that of these is added, and another
    one refused.
    """
    images = episode["images"]
    if not isinstance(images, list) or not all(isinstance(each, str) for each in images):
        raise ValueError(f"images is {images!r:.200}, not a list of references")
    counts = [text.count(IMAGE) for text in episode["text"]]
    if sum(counts) != len(images):
        raise ValueError(f'{sum(counts)} "{IMAGE}" in the texts, but {len(images)} images')
    if any(count and action for count, action in zip(counts, episode["is_action"], strict=True)):
        raise ValueError(f'"{IMAGE}" in an action: pictures are shown, not written')
    for reference in images:
        size = _size(reference)
        if sizes and size not in sizes:
            [other] = sizes
            raise ValueError(
                f"{reference} has {size[0]} x {size[1]} pixels, the pictures before it have "
                f"{other[0]} x {other[1]}: all of a data set must have one size"
            )
        sizes.add(size)


def _size(reference: str) -> tuple[int, int]:
    """Height and width of a picture; ValueError as of load_image."""
    path, row = _parts(reference)
    if row is None:
        return _picture_size(path, _stamp(path))
    array = _array(path)
    _check_row(array, row, reference)
    return array.shape[1:3]


def _parts(reference: str) -> tuple[str, int | None]:
    """The file of a reference, and the row in it; None for a picture file."""
    path, _, row = reference.rpartition("#")
    if path.lower().endswith(".npy") and row.isascii() and row.isdigit():
        return path, int(row)
    if reference.lower().endswith(PICTURES):
        return reference, None
    raise ValueError(f"{reference!r} is no reference to a picture, such as 'a.npy#17' or 'a.png'")


def _stamp(path: str) -> int:
    """When a file was last changed; ValueError for one that is not there."""
    try:
        return os.stat(path).st_mtime_ns
    except OSError as error:
        raise ValueError(f"{path} cannot be opened: {error.strerror}") from None


def _array(path: str) -> np.ndarray:
    return _mapped(path, _stamp(path))


@lru_cache(maxsize=256)
def _mapped(path: str, stamp: int) -> np.ndarray:
    """The array of a file, not read yet: (N, H, W, 3) uint8."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{path} is no whole array file: {error}") from None
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[-1] != 3 or 0 in array.shape[1:]:
        raise ValueError(f"{path} has {array.dtype} {array.shape}, not uint8 (N, H, W, 3)")
    return array


def _check_row(array: np.ndarray, row: int, reference: str) -> None:
    if row >= len(array):
        raise ValueError(f"{reference}: the array has {len(array)} rows, 0 to {len(array) - 1}")


def _opened(path: str) -> Image.Image:
    try:
        image = Image.open(path, formats=("PNG", "JPEG"))
    except Exception as error:  # of a missing file, a damaged one, one that is far too large
        raise ValueError(f"{path} is no picture that can be read: {error}") from None
    if image.mode not in ("1", "L", "LA", "P", "RGB", "RGBA"):
        raise ValueError(f"{path} has pixels of the kind {image.mode}, not 8 bits a color")
    return image


@lru_cache(maxsize=100_000)
def _picture_size(path: str, stamp: int) -> tuple[int, int]:
    with _opened(path) as image:
        return image.height, image.width


def _decoded(path: str) -> np.ndarray:
    with _opened(path) as image:
        try:
            return np.array(image.convert("RGB"))
        except Exception as error:  # cut off in the middle
            raise ValueError(f"{path} is a damaged picture: {error}") from None


def _digest(picture: np.ndarray) -> str:
    shape = "{} {} ".format(*picture.shape)
    return hashlib.sha256(shape.encode() + picture.tobytes()).hexdigest()


@lru_cache(maxsize=256)
def _digests(path: str, stamp: int) -> list[str]:
    return [_digest(picture) for picture in _mapped(path, stamp)]
