"""The reward of a purchase, and its parts, by WebShop's formula (Yao et al., 2022, section 3.1).

    reward = r_type (matched attributes + matched options + [price <= price_upper])
             / (attributes + options + 1)

A part of the reward is for each thing that the goal asks for; the product's type scales the whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, lru_cache
from importlib.resources import files
from itertools import product as combinations
from typing import Any

from rapidfuzz.fuzz import token_set_ratio

from qsft_lite.files import read_lines
from qsft_lite.tasks.webshop.nouns import Nouns, title_nouns

SIMILAR = 85  # two texts match when their token set ratio, rounded, is above
NO_ASCII = dict.fromkeys(range(128, 256))
SIGN = re.compile(r"\W")


def reward(
    purchased: Mapping[str, Any],
    goal: Mapping[str, Any],
    price: float,
    options: Mapping[str, str],
    *,
    nouns: Nouns = title_nouns,
) -> tuple[float, dict[str, Any]]:
    """What buying a product with these options is worth for a goal: from 0 to 1, and its parts.

    purchased: a product, with the original's keys query, product_category, name, Attributes (list),
    Title, BulletPoints (list) and Description. goal: query, product_category, name, attributes
    (list, not empty), goal_options (a list of values, or a dict of names and values) and
    price_upper. price: what the product costs. options: the chosen values by the options' names.
    nouns: which words of a title are nouns, see nouns.py.

    The parts: r_type, query_match, category_match, title_score; r_att, r_option (absent where the
    goal has no options) and r_price, and the weights w_att, w_option and w_price of these three.

    Raises ValueError for a goal that lacks one of its keys, its attributes or a price above 0; the
    original divides by 0 there.
    """
    check_goal(goal)
    wanted, wanted_options = goal["attributes"], goal["goal_options"]
    type_parts = type_reward(purchased, goal, nouns)
    attributes = attribute_matches(purchased, wanted)
    matched = option_matches(options.values(), wanted_options)
    in_price = price <= goal["price_upper"]

    total = len(wanted) + len(wanted_options) + 1
    parts = {
        **type_parts,
        "r_att": attributes / len(wanted),
        "w_att": len(wanted) / total,
        "r_price": in_price,
        "w_price": 1 / total,
    }
    if wanted_options:
        parts["r_option"] = matched / len(wanted_options)
        parts["w_option"] = len(wanted_options) / total
    return (attributes + matched + in_price) / total * parts["r_type"], parts


def type_reward(
    purchased: Mapping[str, Any], goal: Mapping[str, Any], nouns: Nouns = title_nouns
) -> dict[str, Any]:
    """r_type in {0, .1, .5, 1}, and what it follows from.

    It is 0 for titles without a common noun. With few of the goal's nouns, and neither its query
    nor two of its categories, it is .5; below a tenth of the nouns it is .1 whatever else matches.
    """
    query_match = purchased["query"] == goal["query"]
    shared = _categories(purchased["product_category"]) & _categories(goal["product_category"])
    title_score = title_overlap(purchased["name"], goal["name"], nouns)
    category_match = len(shared) >= 2
    r_type = 1.0 if query_match or category_match or title_score > 0.2 else 0.5
    if title_score < 0.1:
        r_type = 0.1 if title_score else 0.0
    return {
        "r_type": r_type,
        "query_match": query_match,
        "category_match": category_match,
        "title_score": title_score,
    }


def title_overlap(purchased: str, goal: str, nouns: Nouns = title_nouns) -> float:
    """The different nouns that two titles share, of all nouns of the goal's; .2 where it has none.

    A noun that the goal's title has twice counts twice below the line and once above it: so it is
    in the original, and a product may score less than 1 against itself.
    """
    of_goal = nouns(goal)
    return len({*nouns(purchased)} & {*of_goal}) / len(of_goal) if of_goal else 0.2


def attribute_matches(purchased: Mapping[str, Any], wanted: Iterable[str]) -> int:
    """How many of the wanted attributes a product has, by its own ones or in what it says."""
    texts = [
        purchased["Title"].lower(),
        " ".join(purchased["BulletPoints"]).lower(),
        purchased["Description"].lower(),
    ]
    own = purchased["Attributes"]
    return sum(
        any(similar(one, attribute) for one in own) or any(attribute in text for text in texts)
        for attribute in wanted
    )


def option_matches(chosen: Iterable[str], wanted: Iterable[str] | Mapping[str, str]) -> int:
    """How many of the wanted options are among the chosen ones.

    Of an option's text that holds a color's name, only that name is compared.
    """
    values = [main_color(value) for value in chosen]
    if isinstance(wanted, Mapping):  # the original compares name and value as one text
        wanted = [_pair(name, value) for name, value in wanted.items()]
    else:
        wanted = [main_color(value) for value in wanted]
    return sum(any(similar(one, option) for one in values) for option in wanted)


def best_options(
    product: Mapping[str, Any], wanted: Sequence[str] | Mapping[str, str]
) -> dict[str, str]:
    """The choice of a product's options that matches most of the wanted ones; no idle choices."""
    exact = wanted.values() if isinstance(wanted, Mapping) else wanted
    singles = (
        [dict([pair]) for pair in wanted.items()]
        if isinstance(wanted, Mapping)
        else [[one] for one in wanted]
    )
    choices = []  # of each option: the wanted ones that a value matches, and such a value
    for name, values in product["options"].items():
        by_match: dict[frozenset[int], tuple[str, str]] = {}
        for value in sorted(filter(None, values), key=lambda one: one not in exact):
            match = [i for i, single in enumerate(singles) if option_matches([value], single)]
            if match:
                by_match.setdefault(frozenset(match), (name, value))
        choices.append([(frozenset[int](), None), *by_match.items()])
    best = max(
        combinations(*choices),
        key=lambda chosen: (
            len(frozenset[int]().union(*(match for match, _ in chosen))),
            -sum(one is not None for _, one in chosen),
        ),
    )
    return dict(one for _, one in best if one is not None)


def worth(
    product: Mapping[str, Any],
    goal: Mapping[str, Any],
    price: float,
    *,
    nouns: Nouns = title_nouns,
) -> float:
    """What a product is worth for a goal when its options are chosen as well as can be."""
    chosen = best_options(product, goal["goal_options"])
    return reward(product, goal, price, chosen, nouns=nouns)[0]


def similar(a: str, b: str) -> bool:
    """Whether two texts are nearly the same set of words."""
    return round(token_set_ratio(_plain(a), _plain(b))) > SIMILAR


@lru_cache(maxsize=100_000)
def main_color(text: str) -> str:
    """The first of the known colors whose name is somewhere in a text, or else the text."""
    return next((color for color in known_colors() if color in text), text)


@cache
def known_colors() -> tuple[str, ...]:
    """WebShop's color names, in its order, which decides where a text holds several."""
    return tuple(read_lines(files("qsft_lite.tasks.webshop") / "words" / "colors.txt"))


def _pair(name: str, value: str) -> str:
    """An option by name and value, as the original writes it, for a name or value of one color."""
    colors = [color for color in known_colors() if color in (name, value)]
    return colors[0] if colors else str((name, value))


@lru_cache(maxsize=100_000)
def _plain(text: str) -> str:
    """A text in lower case with spaces in place of signs, without Latin letters beyond ASCII."""
    return SIGN.sub(" ", text.translate(NO_ASCII)).lower().strip()


@lru_cache(maxsize=10_000)
def _categories(path: str) -> frozenset[str]:
    return frozenset(part.strip() for part in path.split("›"))


def check_goal(goal: Mapping[str, Any]) -> None:
    """ValueError for a goal whose reward is not defined."""
    keys = ("query", "product_category", "name", "attributes", "goal_options", "price_upper")
    missing = [key for key in keys if key not in goal]
    if missing:
        raise ValueError(f"the goal lacks {', '.join(missing)}: it needs {', '.join(keys)}")
    if not goal["attributes"]:
        raise ValueError("the goal asks for no attributes: it needs at least one")
    if not goal["price_upper"] > 0:
        raise ValueError(f"the goal's price_upper must be above 0, got {goal['price_upper']!r}")
