"""The shop's products and goals, from the original's files or in the same form from `generated`.

The original's files are lists and dicts of JSON: products (items_shuffle*.json), their attributes
(items_ins*.json) and what people asked for (items_human_ins.json). They are read as the original
reads them. What it draws at random when it starts, a price where a product has a range of them and
a goal's highest price, is drawn here from a seed, and so is the same for everybody.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping
from functools import cached_property, lru_cache
from typing import Any

from qsft_lite.tasks.checks import check_choice
from qsft_lite.tasks.webshop.search import Search, product_documents

Product = dict[str, Any]
Goal = dict[str, Any]
Raw = Mapping[str, Any]

NO_PRICE = 100.0  # of a product without one
NO_LIMIT = 1_000_000.0
LIMITS = [10.0 * tens for tens in range(1, 100)]  # a goal's highest price is one of these
PRICE_CLAUSE = ", and price lower than {:.2f} dollars"
SHUFFLE = 233
SPLITS = {"test": slice(0, 500), "validation": slice(500, 1500), "train": slice(1500, None)}


class Catalog:
    """Products, their prices, the goals in the original's order, and the search engine.

    products: dicts with the original's keys asin, name, category, query, product_category, Title,
    Description, BulletPoints, Attributes, options (names and values), pricing (list of float) and
    Price (its text). prices: what each costs, in the same order. goals: dicts with asin, category,
    query, name, product_category, instruction_text, attributes, price_upper, goal_options.

    Never changed once made, so all environments may share one.
    """

    def __init__(
        self,
        items: Iterable[Raw],
        attributes: Mapping[str, Raw],
        instructions: Mapping[str, list[Raw]] | None,
        *,
        seed: int = 0,
        source: Mapping[str, Any] | None = None,
    ) -> None:
        """items, attributes and instructions are what the three files hold.

        Without instructions, the goals are the synthetic ones: an instruction that attributes
        has, with every combination of the product's options. source: where all is from, for records
        and messages. Raises ValueError, naming the product, for one that cannot be read.
        """
        self.source = dict(source or {})
        self.products: list[Product] = []
        self.position: dict[str, int] = {}  # of each asin in lower case
        for item in items:
            asin = _field(item, "asin", "an item")
            if asin == "nan" or len(asin) > 10 or asin.lower() in self.position:
                continue
            self.position[asin.lower()] = len(self.products)
            self.products.append(_product(item, attributes.get(asin, {})))
        if not self.products:
            raise ValueError("there are no products: the list is empty")
        drawn = random.Random(seed)
        self.prices = [_price(product, drawn) for product in self.products]
        if instructions is None:
            self.goals = list(self._synthetic_goals(attributes, drawn))
        else:
            self.goals = list(self._human_goals(instructions, drawn))
        random.Random(SHUFFLE).shuffle(self.goals)
        self.results = lru_cache(maxsize=20_000)(self._results)

    def __deepcopy__(self, memo: dict) -> Catalog:
        return self

    def __reduce__(self) -> Any:
        raise TypeError("a catalog is not pickled: make it again from its source")

    @cached_property
    def search(self) -> Search:
        """The search engine, built when it is first asked."""
        return Search(product_documents(self.products))

    def _results(self, query: str) -> tuple[int, ...]:
        """The products that a search finds, the best first; as `results` it remembers."""
        return tuple(self.search.hits(query))

    @cached_property
    def by_instruction(self) -> dict[str, int]:
        """The first goal of each instruction."""
        indices = range(len(self.goals) - 1, -1, -1)
        return {self.goals[index]["instruction_text"]: index for index in indices}

    def split(self, name: str | None) -> range:
        """The goals of a split, by index; all for None. ValueError for one that is empty."""
        if name is not None:
            check_choice(name, SPLITS, "split")
        goals = range(len(self.goals))[SPLITS[name] if name else slice(None)]
        if not goals:
            raise ValueError(
                f"there are {len(self.goals)} goals, and none of them is in the split {name!r}: "
                "take split=None for all of them"
            )
        return goals

    def _human_goals(
        self, instructions: Mapping[str, list[Raw]], drawn: random.Random
    ) -> Iterable[Goal]:
        for product, price in zip(self.products, self.prices, strict=True):
            for one in instructions.get(product["asin"], ()):
                where = f"the instruction of product {product['asin']}"
                attributes = _field(one, "instruction_attributes", where, list)
                if not attributes:
                    continue
                limit = _limit(price, drawn)
                text = _field(one, "instruction", where).strip(".") + _clause(limit)
                options = _field(one, "instruction_options", where, (list, dict))
                yield _goal(product, text, attributes, options, limit)

    def _synthetic_goals(
        self, attributes: Mapping[str, Raw], drawn: random.Random
    ) -> Iterable[Goal]:
        for product, price in zip(self.products, self.prices, strict=True):
            one = attributes.get(product["asin"], {})
            if one.get("instruction") is None:
                continue
            where = f"the instruction of product {product['asin']}"
            wanted = _field(one, "instruction_attributes", where, list)
            limit = _limit(price, drawn)
            for options in _combinations(product["options"]):
                chosen = ", and ".join(f"{name}: {value}" for name, value in options.items())
                text = one["instruction"] + (f" with {chosen}" if chosen else "") + _clause(limit)
                yield _goal(product, text, wanted, options, limit)


def _combinations(options: Mapping[str, list[str]]) -> list[dict[str, str]]:
    """Every choice of one value for each option, by the options' names in order."""
    chosen: list[dict[str, str]] = [{}]
    for name in sorted(options):
        chosen = [{**before, name: value} for before in chosen for value in options[name]]
    return chosen


def _goal(product: Product, text: str, attributes: list[str], options: Any, limit: float) -> Goal:
    return {
        "asin": product["asin"],
        "category": product["category"],
        "query": product["query"],
        "name": product["name"],
        "product_category": product["product_category"],
        "instruction_text": text,
        "attributes": attributes,
        "price_upper": limit,
        "goal_options": options,
    }


def _clause(limit: float) -> str:
    """How an instruction ends."""
    return PRICE_CLAUSE.format(limit) if limit != NO_LIMIT else ""


def _limit(price: float, drawn: random.Random) -> float:
    """A goal's highest price: one of the four whole tens above its product's, but for the first."""
    above = [limit for limit in LIMITS if limit > price][:4]
    return max(drawn.sample(above, 2)) if len(above) >= 2 else NO_LIMIT


def _product(item: Raw, attributes: Raw) -> Product:
    """A product as the pages and the reward read it."""
    where = f"product {item['asin']}"
    bullets = item.get("small_description")
    bullets = bullets if isinstance(bullets, list) else [bullets]
    prices, price_text = _prices(item.get("pricing"), where)
    return {
        "asin": item["asin"],
        "name": _field(item, "name", where),
        "category": _field(item, "category", where),
        "query": _field(item, "query", where).lower().strip(),
        "product_category": _field(item, "product_category", where),
        "Title": item["name"],
        "Description": _field(item, "full_description", where),
        "BulletPoints": [_text(bullet, "small_description", where) for bullet in bullets],
        "Attributes": attributes.get("attributes", ["DUMMY_ATTR"]),
        "options": _options(item.get("customization_options"), where),
        "pricing": prices,
        "Price": price_text,
    }


def _prices(pricing: str | None, where: str) -> tuple[list[float], str]:
    """The price of a product or the two ends of its range, and how the pages show it."""
    if not pricing:
        return [NO_PRICE], f"${NO_PRICE}"
    try:
        prices = [float(re.sub(r"[^\d.]", "", part)) for part in pricing.split("$")[1:3]]
    except (AttributeError, ValueError):
        prices = []
    if not prices:
        raise ValueError(f"{where}: pricing must be like '$10.99', got {pricing!r:.100}")
    return prices, " to ".join(f"${price}" for price in prices)


def _price(product: Product, drawn: random.Random) -> float:
    """What a product costs: drawn where it has a range of prices."""
    prices = product["pricing"]
    return prices[0] if len(prices) == 1 else drawn.uniform(*prices)


def _options(options: Any, where: str) -> dict[str, list[str]]:
    """The values of each option, as they are clicked."""
    if not options:
        return {}
    if not isinstance(options, Mapping):
        raise ValueError(f"{where}: customization_options must be a dict, got {options!r:.100}")
    found = {}
    for name, values in options.items():
        if values is None:
            continue
        try:
            found[name.lower()] = [
                one["value"].strip().replace("/", " | ").lower() for one in values
            ]
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(
                f"{where}: the option {name!r} must be a list of {{'value': text}}, got "
                f"{values!r:.100}"
            ) from error
    return found


def _field(one: Any, key: str, where: str, kind: Any = str) -> Any:
    """A field of a dict; ValueError, saying where, for one that is missing or of another kind."""
    if not isinstance(one, Mapping):
        raise ValueError(f"{where} must be a dict, got {one!r:.100}")
    if key not in one:
        raise ValueError(f"{where} has no {key!r}: is it one of the original's files?")
    return _text(one[key], key, where, kind)


def _text(value: Any, key: str, where: str, kind: Any = str) -> Any:
    if not isinstance(value, kind):
        names = " or ".join(one.__name__ for one in (kind if isinstance(kind, tuple) else (kind,)))
        raise ValueError(f"{where}: {key} must be a {names}, got {value!r:.100}")
    return value
