"""Where a catalog comes from: generated, or the original's files.

The products file (items_shuffle*.json, 1,000 or 1.18 million products in a list) is read product by
product, so it never lies in memory whole. The index of a catalog is built once in a process, when
it is first searched.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TextIO

from qsft_lite.files import open_unpacked
from qsft_lite.tasks.checks import check_choice
from qsft_lite.tasks.webshop.catalog import Catalog
from qsft_lite.tasks.webshop.generated import generated_files

PRODUCTS = 1_000  # of our catalog
CHUNK = 1 << 20  # characters read at a time
SPACE = re.compile(r"\s*")
LONGEST = 16 * CHUNK  # of one product; more is a file that is broken

Products = None | int | str | os.PathLike | Catalog
Goals = Literal["human", "synthetic"]


def load_catalog(products: Products = None, goals: Goals | None = None) -> Catalog:
    """Our catalog of 1,000 products (None) or of so many (a number), one of files, or itself.

    A path is that of the original's products file, or of a folder with one; beside it lie its
    attributes (items_ins*.json) and, for human goals, items_human_ins.json. goals: "human" or
    "synthetic"; by default human ones, where there are some. `source` of the catalog has its
    origin: the number of generated products and their SHA-256, or each file's.

    Raises ValueError, naming the file, the product and what to do, for files that cannot be read.
    """
    if goals is not None:
        check_choice(goals, ("human", "synthetic"), "goals")
    if isinstance(products, Catalog):
        return products
    if isinstance(products, (str, os.PathLike)):
        path = Path(products).resolve()
        folder = path if path.is_dir() else path.parent
        found = [(file.name, file.stat()) for file in sorted(folder.glob("items_*"))]
        stamps = tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in found)
        return _read(path, goals, stamps)
    if products is not None and (isinstance(products, bool) or not isinstance(products, int)):
        raise TypeError(f"products is a number, a path or None, got {products!r:.100}")
    if goals == "synthetic":
        raise ValueError("our catalog has human goals: synthetic ones need the original's files")
    return _generated(PRODUCTS if products is None else products)


@lru_cache(maxsize=4)
def _generated(n: int) -> Catalog:
    content = generated_files(n)
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    return Catalog(*content, source={"generated": n, "sha256": digest})


@lru_cache(maxsize=2)
def _read(path: Path, goals: Goals | None, stamps: tuple) -> Catalog:
    """The catalog of a path; stamps: of its files, so that changed ones are read again."""
    items = _products_file(path)
    size = items.name.removeprefix("items_shuffle").partition(".")[0]
    named = [items.with_name(f"items_ins_v2{size}.json"), *sorted(items.parent.glob("items_ins*"))]
    attributes = next((file for file in named if file.exists()), None)
    if attributes is None:
        raise ValueError(f"{items}: its attributes, {named[0].name}, must lie beside it")
    human = items.with_name("items_human_ins.json")
    if goals == "human" and not human.exists():
        raise ValueError(f"human goals need {human.name} beside {items}: or goals='synthetic'")
    files = [items, attributes, *([human] if human.exists() and goals != "synthetic" else [])]
    instructions = _dict_in(human) if len(files) == 3 else None
    source = {file.name: _sha256(file) for file in files}
    own = _dict_in(attributes)
    try:
        return Catalog(products_in(items), own, instructions, source=source)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{items} (with {', '.join(file.name for file in files[1:])}): {error}"
        ) from error


def _products_file(path: Path) -> Path:
    """The file itself, or the one of a folder."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise ValueError(f"there is no file or folder {path}")
    found = sorted(path.glob("items_shuffle*.json*"))
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise ValueError(
            f"{path} must hold one file items_shuffle*.json, it holds {names}: name the file itself"
        )
    return found[0]


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with open(file, "rb") as content:
        while block := content.read(CHUNK):
            digest.update(block)
    return digest.hexdigest()


def _dict_in(file: Path) -> dict[str, Any]:
    try:
        with open_unpacked(file) as content:
            found = json.load(content)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: not JSON ({error}): get the file again") from error
    kinds = (dict, list)
    if not isinstance(found, dict) or not all(isinstance(one, kinds) for one in found.values()):
        raise ValueError(f"{file}: must be a dict by products' numbers: is it the right file?")
    return found


def products_in(file: Path) -> Iterator[Any]:
    """The members of a file that holds one list of JSON, one at a time.

    Raises ValueError with the file, the line and the member's number where it is no such list.
    """
    with open_unpacked(file) as content:
        reader, number = _Reader(io.TextIOWrapper(content, encoding="utf-8")), 0
        try:
            reader.expect("[", "the file must be a list of products, [{...}, ...]")
            while reader.next_sign() != "]":
                if number:
                    reader.expect(",", "a comma or the list's end is missing")
                yield reader.value()
                number += 1
        except ValueError as error:  # UnicodeDecodeError is one too
            raise ValueError(
                f"{file}, line {reader.line}, product {number + 1} of the list: {error}: "
                "get the file again"
            ) from error


class _Reader:
    """A file of JSON from where it is read on, without what is read already."""

    def __init__(self, file: TextIO) -> None:
        self.file, self.text, self.at, self.line = file, "", 0, 1
        self.decoder = json.JSONDecoder()

    def more(self) -> bool:
        """Read on; whether there was more."""
        block = self.file.read(CHUNK)
        self.text, self.at = self.text[self.at :] + block, 0
        return bool(block)

    def next_sign(self) -> str:
        """The next character that is no white space; "" at the end of the file."""
        while True:
            end = SPACE.match(self.text, self.at).end()
            self.line += self.text.count("\n", self.at, end)
            self.at = end
            if end < len(self.text) or not self.more():
                return self.text[self.at : self.at + 1]

    def expect(self, sign: str, otherwise: str) -> None:
        """Read over a sign; ValueError where it is not there."""
        if self.next_sign() != sign:
            raise ValueError(otherwise)
        self.at += 1

    def value(self) -> Any:
        """The next value; ValueError where there is none, or it is cut off."""
        self.next_sign()
        while True:
            try:
                value, end = self.decoder.raw_decode(self.text, self.at)
                break
            except json.JSONDecodeError as error:
                if len(self.text) - self.at > LONGEST or not self.more():
                    raise ValueError(f"not JSON, or cut off ({error.msg})") from error
        self.line += self.text.count("\n", self.at, end)
        self.at = end
        return value
