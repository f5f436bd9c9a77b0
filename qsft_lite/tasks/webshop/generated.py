"""A catalog of ours, in the form of the original's files: products, attributes, instructions.

Products come in families of look-alikes: one brand, one title or nearly, and different attributes,
options and prices. What a title does not say is in the features or the description, as in a real
shop. So the first hit of a search is seldom what is wanted, and a reader who opens pages can know:
a product always says all of its attributes somewhere, and an instruction all of its goal.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np

from qsft_lite.files import read_text

INSTRUCTIONS_A_PRODUCT = 12.087  # WebShop has 12,087 instructions
# How many attributes a product has, from 0 on: as of the 1,000 of WebShop's small set, but for the
# few there with more than eight.
ATTRIBUTE_COUNTS = (185, 191, 189, 134, 120, 65, 36, 27, 16)
LETTERS = np.array(list("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"))


class Kind(NamedTuple):
    """A kind of product."""

    category: str
    query: str
    product_category: str
    nouns: tuple[str, ...]
    attributes: tuple[str, ...]
    options: tuple[tuple[str, tuple[str, ...]], ...]  # names and all values
    lowest: float
    highest: float


BRANDS = (
    "Velmora Kestrin Oakby Lunavo Brightel Norvik Pinecrest Solvane Tarrow Mellio Graylin Hartwell "
    "Zephra Calden Ivoro Quenby Rovanti Sundale Wexley Yarrin Amberlo Fenwick Jorvy Dunmore"
).split()

# Of each instruction what comes before its parts. {wanted} is attributes and noun, such as
# "gluten free, low sugar snack bars"; {options} is "" or starts with a space.
OPENINGS = (
    "i am looking for {wanted}{options}",
    "i need {wanted}{options}",
    "i want to buy {wanted}{options}",
    "find me {wanted}{options}",
    "i would like {wanted}{options}",
    "looking for {wanted}{options}",
    "can you find {wanted}{options}",
    "i want {wanted}{options}",
)
FILLERS = ("for daily use", "a great gift", "new design", "made with care", "best value")


@cache
def kinds() -> tuple[Kind, ...]:
    """All kinds of products, from words/types.tsv and words/options.tsv."""
    options = {
        row["kind"]: (row["name"], tuple(row["values"].split("|"))) for row in _table("options.tsv")
    }
    return tuple(
        Kind(
            row["category"],
            row["query"],
            row["product_category"],
            tuple(row["nouns"].split("|")),
            tuple(row["attributes"].split("|")),
            tuple(options[name] for name in row["options"].split("|")),
            float(row["lowest"]),
            float(row["highest"]),
        )
        for row in _table("types.tsv")
    )


def _table(name: str) -> list[dict[str, str]]:
    lines = read_text(files("qsft_lite.tasks.webshop") / "words" / name).splitlines()
    return list(csv.DictReader(lines, delimiter="\t"))


def generated_files(
    n: int, seed: int = 0
) -> tuple[list[dict[str, Any]], dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """Of n products what the original's three files hold: products, attributes, instructions.

    There are 12,087 instructions for 1,000 products, and as many for each product otherwise.
    ValueError for fewer than 1 product.
    """
    if n < 1:
        raise ValueError(f"a catalog needs at least 1 product, got {n}")
    rng = np.random.default_rng([seed, n])
    items: list[dict[str, Any]] = []
    attributes: dict[str, Any] = {}
    while len(items) < n:
        for item, own in _family(kinds()[rng.integers(len(kinds()))], rng):
            if len(items) < n and item["asin"] not in attributes:
                items.append(item)
                attributes[item["asin"]] = {"attributes": own}
    items = [items[place] for place in rng.permutation(n)]
    return items, attributes, _instructions(items, attributes, rng)


def _family(kind: Kind, rng: np.random.Generator) -> list[tuple[dict[str, Any], list[str]]]:
    """Look-alikes, each with its attributes."""
    brand = BRANDS[rng.integers(len(BRANDS))]
    noun = kind.nouns[rng.integers(len(kind.nouns))]
    shown = _some(kind.attributes, int(rng.integers(0, 2)), rng)
    base = math.exp(rng.uniform(math.log(kind.lowest), math.log(kind.highest)))
    return [_product(kind, brand, noun, shown, base, rng) for _ in range(rng.integers(3, 10))]


def _product(
    kind: Kind, brand: str, noun: str, shown: list[str], base: float, rng: np.random.Generator
) -> tuple[dict[str, Any], list[str]]:
    """One of a family, whose titles show these attributes, but for those it has not."""
    counts = np.array(ATTRIBUTE_COUNTS)
    count = int(rng.choice(len(counts), p=counts / counts.sum()))
    own = shown[:count] if rng.random() < 0.8 else []
    others = [one for one in kind.attributes if one not in own]
    own = own + _some(others, min(count - len(own), len(others)), rng)
    titled = [one for one in shown if one in own]
    hidden = [one for one in own if one not in titled]

    title = " ".join([brand, *titled, noun]).title()
    bullets = [FILLERS[rng.integers(len(FILLERS))]]  # the first one is searched, the others not
    described = [one for one in hidden if rng.random() < 0.1]
    bullets += [one for one in hidden if one not in described]
    about = [f"{noun.lower()} by {brand.lower()}", *described]
    item = {
        "asin": "B0" + "".join(rng.choice(LETTERS, 8)),
        "name": title,
        "category": kind.category,
        "query": kind.query,
        "product_category": kind.product_category,
        "pricing": _pricing(base, rng),
        "small_description": bullets,
        "full_description": ", ".join(about),
        "customization_options": {
            name: [{"value": value, "image": None} for value in _values(values, rng)]
            for name, values in kind.options
        },
        "images": [""],
    }
    return item, own


def _pricing(base: float, rng: np.random.Generator) -> str:
    """A price near the family's, or, every second one, far above: such a product is a trap."""
    price = base * rng.uniform(0.8, 1.2)
    if rng.random() < 0.5:
        price += rng.uniform(25, 80)
    if rng.random() < 0.1:
        return f"${price:.2f} to ${price * rng.uniform(1.1, 1.5):.2f}"
    return f"${price:.2f}"


def _values(values: Sequence[str], rng: np.random.Generator) -> list[str]:
    """The values of an option that a product comes in, two at least, in their order."""
    chosen = _some(values, int(rng.integers(2, min(len(values), 6) + 1)), rng)
    return [value for value in values if value in chosen]


def _some(values: Sequence[str], count: int, rng: np.random.Generator) -> list[str]:
    return [values[place] for place in rng.permutation(len(values))[:count]]


def _instructions(
    items: Sequence[Mapping[str, Any]], attributes: Mapping[str, Any], rng: np.random.Generator
) -> dict[str, list[dict[str, Any]]]:
    """What people ask for, each the goal's every part; no two with the same words if it can be."""
    wanted = round(INSTRUCTIONS_A_PRODUCT * len(items))
    asked = [item for item in items if attributes[item["asin"]]["attributes"]]
    found: dict[str, list[dict[str, Any]]] = {item["asin"]: [] for item in asked}
    seen: set[str] = set()
    for number in range(wanted if asked else 0):
        item = asked[number % len(asked)]
        for _ in range(20):
            one = _instruction(item, attributes[item["asin"]]["attributes"], rng)
            if one["instruction"] not in seen:
                break
        seen.add(one["instruction"])
        found[item["asin"]].append(one)
    return found


def _instruction(
    item: Mapping[str, Any], own: Sequence[str], rng: np.random.Generator
) -> dict[str, Any]:
    wanted = _some(own, 1 + int(rng.choice(3, p=[0.35, 0.4, 0.25])), rng)
    options = {
        name: values[rng.integers(len(values))]["value"]
        for name, values in item["customization_options"].items()
        if rng.random() < 0.75
    }
    chosen = [f"{name} {value}" for name, value in options.items()]
    said = " in " + " and ".join(chosen) if chosen else ""
    opening = OPENINGS[rng.integers(len(OPENINGS))]
    thing = item["query"] if rng.random() < 0.5 else _noun_of(item)
    return {
        "instruction": opening.format(wanted=f"{', '.join(wanted)} {thing}", options=said),
        "instruction_attributes": wanted,
        "instruction_options": list(options.values()),
    }


def _noun_of(item: Mapping[str, Any]) -> str:
    """What a product is, as its description begins."""
    return item["full_description"].partition(" by ")[0]
