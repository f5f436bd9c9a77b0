"""A visit as the one who shops sees it, and what all players share.

Which page a transcript has led to is worked out by taking its actions again, since the shop has no
luck. A player then knows the instruction, and of the products the pages that it has opened.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from qsft_lite.tasks.checks import check_choice
from qsft_lite.tasks.draws import chances
from qsft_lite.tasks.webshop.catalog import Catalog, Product
from qsft_lite.tasks.webshop.session import Session
from qsft_lite.tasks.webshop.short import long_action, plain, short_action, short_instruction
from qsft_lite.tasks.webshop.text import SEPARATOR

Seed = int | np.random.SeedSequence | np.random.Generator
# How an instruction ends, in both formats.
LIMIT = re.compile(r"(?:, and price lower than | under \$)(\d+(?:\.\d\d)?)(?: dollars)?$")


class Visit:
    """A visit so far, as the one who shops knows it.

    instruction: the words that are asked for, without the price. limit: the highest price.
    session: where it is. read: of each product that was opened, by its position, which pages about
    it were read. left: actions that are left.
    """

    def __init__(self, catalog: Catalog, instruction: str, steps: int) -> None:
        match = LIMIT.search(instruction)
        self.asked = instruction
        self.instruction = plain(LIMIT.sub("", instruction))
        self.limit = float(match[1]) if match else math.inf
        self.session = Session(catalog)
        self.read: dict[int, set[str]] = {}
        self.left = steps

    def act(self, action: str) -> None:
        """Note an action of the original's form."""
        self.session.act(action)
        self.left -= 1
        if self.session.product is not None:
            opened = self.read.setdefault(self.session.product, set())
            if self.session.page == "about":
                opened.add(self.session.about)


class Shopper:
    """What all players share: `act` reads transcripts, and `choose` plays on.

    keeps: of who searches for words by chance, the share of the instruction's words that it takes.
    """

    keeps = 0.0

    def __init__(
        self, catalog: Catalog, seed: Seed = 0, *, format: str = "text", max_steps: int = 15
    ) -> None:
        """catalog, format and max_steps: the environment's."""
        check_choice(format, ("text", "short"), "format")
        self.catalog, self.format, self.max_steps = catalog, format, max_steps
        self.rng = np.random.default_rng(seed)
        self._visits: dict[str, Visit] = {}  # by the transcript that they have come to
        self._wanted: dict[str, list[str]] = {}

    def choose(self, visit: Visit) -> str:
        """The next action, search[words] or click[text]."""
        raise NotImplementedError

    def searches(self, visit: Visit) -> bool:
        """Whether the next action is a search for words of the instruction, drawn by chance."""
        return False

    def act(self, histories: Sequence[str]) -> list[str]:
        """The next action text of each transcript; ValueError for a text that is none."""
        actions = []
        for history in histories:
            visit = self.visit(history)
            action = self.write(visit, self.choose(visit))
            self._visits[history] = visit
            actions.append(action + "\n")
        return actions

    def chance(self, visit: Visit, action: str) -> float:
        """How likely the player takes an action, given as `write` does."""
        if not self.searches(visit):
            return chances(self, lambda: self.write(visit, self.choose(visit))).get(action, 0.0)
        name, _, query = action.replace("[", " ").removesuffix("]").partition(" ")
        return chance_of_words(visit.instruction, self.keeps, query) * (name == "search")

    def write(self, visit: Visit, action: str) -> str:
        """An action as the transcripts have it, without a newline."""
        return short_action(visit.session, action) if self.format == "short" else action

    def visit(self, history: str) -> Visit:
        """The visit that a transcript tells of."""
        lines = history.split("\n")
        if len(lines) % 2 or lines[-1]:
            raise ValueError(f"{history!r:.200} is no transcript that waits for an action")
        if len(self._visits) > 10_000:
            self._visits.clear()
        known = self._visits.pop("\n".join([*lines[:-3], ""]), None)
        if known is not None:  # as it mostly is: one action more than when it was last seen
            self._take(known, lines[-3])
            return known
        visit = Visit(self.catalog, self._instruction(lines[0]), self.max_steps)
        for action in lines[1:-1:2]:
            self._take(visit, action)
        return visit

    def _take(self, visit: Visit, action: str) -> None:
        action = action.strip()
        visit.act(long_action(visit.session, action) if self.format == "short" else action)

    def _instruction(self, line: str) -> str:
        """The instruction that a first page shows."""
        if self.format == "short":
            return asked_in_short(self.catalog).get(line + "\n", line)
        parts = line.split(SEPARATOR)
        if len(parts) != 4 or parts[1] != "Instruction:":
            raise ValueError(f"{line!r:.200} is not the first page of a visit")
        return parts[2]

    # What a reader makes of it

    def wanted(self, visit: Visit) -> list[str]:
        """The attributes that an instruction names, of all that are known."""
        if visit.instruction not in self._wanted:
            known = known_attributes(self.catalog)
            self._wanted[visit.instruction] = [one for one in known if one in visit.instruction]
        return self._wanted[visit.instruction]

    def looks(self, visit: Visit, position: int) -> float:
        """How well a product fits by its title and price, from 0 to 1 or a little above."""
        product = self.catalog.products[position]
        title, wanted = product["Title"].lower(), self.wanted(visit)
        words, of_title = visit.instruction.split(), title.split()
        same = sum(word in words for word in of_title) / max(len(of_title), 1)
        named = sum(one in title for one in wanted)
        cheap = product["pricing"][0] <= visit.limit
        return (named + same + cheap) / (len(wanted) + 2)

    def fits(self, visit: Visit, position: int) -> float:
        """The share of what is asked that a product is known to have, by all that was read of it.

        Attributes, options and price count alike, as in the reward.
        """
        product = self.catalog.products[position]
        read = visit.read.get(position, ())
        texts = [product["Title"]]
        texts += product["BulletPoints"] if "features" in read else []
        texts += [product["Description"]] if "description" in read else []
        text, wanted = " ; ".join(texts).lower(), self.wanted(visit)
        named = sum(one in text for one in wanted)
        asked = len(self.asked_options(visit, product))
        missing = self.missing_options(visit, product)
        cheap = product["pricing"][0] <= visit.limit
        return (named + asked + cheap) / (len(wanted) + asked + missing + 1)

    def asked_options(self, visit: Visit, product: Product) -> dict[str, str]:
        """Of each option the value that the instruction names, the longest one, if it does."""
        found = {}
        for name, values in product["options"].items():
            # A value with a bracket cannot be clicked, here and in the original.
            named = [one for one in values if "[" not in one and _says(visit.instruction, one)]
            if named:
                found[name] = max(named, key=len)
        return found

    def missing_options(self, visit: Visit, product: Product) -> int:
        """How many of the product's options the instruction names with a value it has not."""
        asked = self.asked_options(visit, product)
        return sum(
            name not in asked and _says(visit.instruction, name) for name in product["options"]
        )

    def next_option(self, visit: Visit) -> str | None:
        """A value that is asked for and not chosen yet."""
        session = visit.session
        chosen = session.options.values()
        asked = self.asked_options(visit, session.item).values()
        return next((value for value in asked if value not in chosen), None)


def some_words(text: str, share: float, rng: np.random.Generator) -> str:
    """About this share of a text's words, one at least, in their order."""
    words = text.split()
    kept = [word for word in words if rng.random() < share]
    return " ".join(kept or words[-1:])


def chance_of_words(text: str, share: float, kept: str) -> float:
    """The probability that some_words(text, share) is kept."""
    words, wanted = text.split(), kept.split()
    ways = np.zeros(len(wanted) + 1)  # of each beginning of wanted, its probability so far
    ways[0] = 1
    for word in words:
        goes_on = np.array([word == one for one in wanted], dtype=bool)
        taken = np.where(goes_on, ways[:-1], 0) * share
        ways *= 1 - share
        ways[1:] += taken
    none = (1 - share) ** len(words)
    return float(ways[-1]) * bool(wanted) + none * (wanted == words[-1:])


@lru_cache(maxsize=8)
def known_attributes(catalog: Catalog) -> list[str]:
    """The attributes of all products."""
    return sorted({one for product in catalog.products for one in product["Attributes"]})


@lru_cache(maxsize=8)
def asked_in_short(catalog: Catalog) -> dict[str, str]:
    """The instruction that each first text of the format "short" is of."""
    return {short_instruction(text): text for text in catalog.by_instruction}


def _says(text: str, words: str) -> bool:
    """Whether a text, which is plain, has these words, as words."""
    return f" {plain(words)} " in f" {text} "
