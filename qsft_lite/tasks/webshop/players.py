"""Players: those that make the data, and references from bad to the best that there is.

All of them read what a person would: the instruction, and the pages that they have opened. Which
page a transcript has led to is worked out by taking its actions again, since the shop has no luck.
Only the oracle knows the goal.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np

from qsft_lite.tasks.checks import check_choice
from qsft_lite.tasks.webshop.catalog import Catalog, Product
from qsft_lite.tasks.webshop.scoring import option_matches
from qsft_lite.tasks.webshop.session import BACK, BUY, NEXT, PREVIOUS, Session
from qsft_lite.tasks.webshop.short import long_action, short_action, short_instruction
from qsft_lite.tasks.webshop.text import SEPARATOR

Seed = int | np.random.SeedSequence | np.random.Generator
LIMIT = re.compile(r", and price lower than (\d+\.\d\d) dollars$")
WORD = re.compile(r"[^\s,]+")


class Visit:
    """A visit so far, as the one who shops knows it.

    instruction: the words that are asked for, without the price. limit: the highest price.
    session: where it is. read: of each product that was opened, by its position, which pages about
    it were read. left: actions that are left.
    """

    def __init__(self, catalog: Catalog, instruction: str, steps: int) -> None:
        match = LIMIT.search(instruction)
        self.asked = instruction
        self.instruction = LIMIT.sub("", instruction).lower()
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
    """What all players share: `act` reads transcripts, and `choose` plays on."""

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

    def act(self, histories: Sequence[str]) -> list[str]:
        """The next action text of each transcript; ValueError for a text that is none."""
        actions = []
        for history in histories:
            visit = self.visit(history)
            action = self.choose(visit)
            if self.format == "short":
                action = short_action(visit.session, action)
            self._visits[history] = visit
            actions.append(action + "\n")
        return actions

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
        found = self._wanted.get(visit.instruction)
        if found is None:
            known = known_attributes(self.catalog)
            found = [one for one in known if one in visit.instruction]
            self._wanted[visit.instruction] = found
        return found

    def looks(self, visit: Visit, position: int) -> float:
        """How well a product fits by its title and price, from 0 to 1 or a little above."""
        product = self.catalog.products[position]
        title, wanted = product["Title"].lower(), self.wanted(visit)
        words = {*WORD.findall(visit.instruction)}
        same = sum(word in words for word in WORD.findall(title)) / len(WORD.findall(title) or " ")
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
            named = [value for value in values if _says(visit.instruction, value)]
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


@lru_cache(maxsize=8)
def known_attributes(catalog: Catalog) -> list[str]:
    """The attributes of all products."""
    return sorted({one for product in catalog.products for one in product["Attributes"]})


@lru_cache(maxsize=8)
def asked_in_short(catalog: Catalog) -> dict[str, str]:
    """The instruction that each first text of the format "short" is of."""
    return {short_instruction(text): text for text in catalog.by_instruction}


def _says(text: str, words: str) -> bool:
    """Whether a text has these words, as words."""
    return f" {words} " in f" {text} "


def click(text: str) -> str:
    """The action."""
    return f"click[{text}]"


class RandomPlayer(Shopper):
    """Searches for some words of the instruction, and clicks anything."""

    def choose(self, visit: Visit) -> str:
        """See `Shopper.choose`."""
        if visit.session.page == "index":
            return f"search[{some_words(visit.instruction, 0.5, self.rng)}]"
        clickables = visit.session.clickables()
        return click(clickables[self.rng.integers(len(clickables))])


class FirstHitPlayer(Shopper):
    """Searches for the instruction and buys the first product as it is: the original's rule."""

    def choose(self, visit: Visit) -> str:
        """See `Shopper.choose`."""
        session = visit.session
        if session.page in ("index", "done") or not (session.shown or session.page == "item"):
            return f"search[{visit.instruction}]"
        if session.page == "results":
            return click(self.asin(session.shown[0]))
        return click(BUY if session.page == "item" else PREVIOUS)

    def asin(self, position: int) -> str:
        """A product's link."""
        return self.catalog.products[position]["asin"].lower()


class RulePlayer(FirstHitPlayer):
    """Buys the product of the first page with the best title and price, its options chosen."""

    def choose(self, visit: Visit) -> str:
        """See `Shopper.choose`."""
        session = visit.session
        if session.page == "results" and session.shown:
            return click(self.asin(max(session.shown, key=lambda one: self.looks(visit, one))))
        if session.page == "item" and (value := self.next_option(visit)):
            return click(value)
        return super().choose(visit)


class CarefulPlayer(FirstHitPlayer):
    """Reads the features of one product after another, the best-looking first, and buys the best.

    It stops when a product has all that is asked, or when only the way to the best one is left.
    """

    def choose(self, visit: Visit) -> str:
        """See `Shopper.choose`."""
        session = visit.session
        if session.page == "index" or (session.page == "results" and not session.shown):
            return f"search[{visit.instruction}]"
        if session.page == "results":
            return self._open(visit)
        if session.page == "about":
            return click(PREVIOUS)
        read = visit.read[session.product]
        best = max(visit.read, key=lambda one: self.fits(visit, one))
        way = len(self.asked_options(visit, session.item)) + 1  # to a purchase
        if best != session.product and visit.left > way + 1:
            return click(PREVIOUS)
        if not read and self.fits(visit, best) < 1 and visit.left > way + 2:
            return click("features")
        if self.fits(visit, best) < 1 and visit.left > way + 6:
            return click(PREVIOUS)
        return click(self.next_option(visit) or BUY)

    def _open(self, visit: Visit) -> str:
        """The next product to look at: a new one while there is time for it, or the best."""
        session = visit.session
        new = [one for one in session.shown if one not in visit.read]
        best = max(visit.read, key=lambda one: self.fits(visit, one), default=None)
        if new and (best is None or visit.left > 8):
            return click(self.asin(max(new, key=lambda one: self.looks(visit, one))))
        seen = [one for one in visit.read if one in session.shown]
        if not seen:
            return click(NEXT)
        return click(self.asin(max(seen, key=lambda one: self.fits(visit, one))))


class HumanPlayer(RulePlayer):
    """Shops as people do, with slips: it makes the data.

    It searches for some of the words, opens a product that looks good, sometimes another one, does
    not always read on, forgets options or takes wrong ones, and settles for less than was asked.
    """

    keeps, tempered = 0.7, 0.12  # words of a search; the spread of what looks good
    reads, returns, forgets, slips, turns = 0.35, 0.6, 0.12, 0.06, 0.08  # chances

    def choose(self, visit: Visit) -> str:
        """See `Shopper.choose`."""
        session, rng = visit.session, self.rng
        if session.page == "index" or (session.page == "results" and not session.shown):
            return f"search[{some_words(visit.instruction, self.keeps, rng)}]"
        if session.page == "results":
            return self._on_results(visit)
        if session.page == "about":
            return click(PREVIOUS)
        if rng.random() < self.slips:
            values = list(session.option_of())
            return click(values[rng.integers(len(values))] if values else PREVIOUS)
        value = self.next_option(visit)
        if value and rng.random() > self.forgets:
            return click(value)
        read = visit.read[session.product]
        if not read and visit.left > 4 and rng.random() < self.reads:
            return click("features" if rng.random() < 0.8 else "description")
        poor = self.fits(visit, session.product) < (0.99 if read else 0.5)
        if poor and visit.left > 5 and rng.random() < self.returns:
            return click(PREVIOUS if rng.random() < 0.9 else BACK)
        return click(BUY)

    def _on_results(self, visit: Visit) -> str:
        session, rng = visit.session, self.rng
        if rng.random() < self.turns and visit.left > 5:
            return click(NEXT if rng.random() < 0.6 else BACK)
        looks = np.array(
            [self.looks(visit, one) - 0.3 * (one in visit.read) for one in session.shown]
        )
        weights = np.exp((looks - looks.max()) / self.tempered)
        chosen = rng.choice(len(weights), p=weights / weights.sum())
        return click(self.asin(session.shown[chosen]))


class OraclePlayer(FirstHitPlayer):
    """Knows the goal: finds its product by title, chooses its options and buys it.

    Where two goals have the same instruction, it takes the first for both.
    """

    def choose(self, visit: Visit) -> str:
        """See `Shopper.choose`."""
        session = visit.session
        if visit.asked not in self.catalog.by_instruction:
            raise ValueError(f"no goal of the catalog is {visit.asked!r:.200}")
        goal = self.catalog.goals[self.catalog.by_instruction[visit.asked]]
        target = self.catalog.position[goal["asin"].lower()]
        if session.page == "index":
            return f"search[{self.query(goal['name'], target)}]"
        if session.page == "results":
            found = target in session.shown
            return click(self.asin(target) if found else NEXT if session.shown else BACK)
        if session.page != "item" or session.product != target:
            return click(PREVIOUS)
        for name, value in best_options(session.item, goal["goal_options"]).items():
            if session.options.get(name) != value:
                return click(value)
        return click(BUY)

    def query(self, title: str, target: int) -> str:
        """The title, or with all that can be searched, where the title has too many look-alikes."""
        product = self.catalog.products[target]
        words = " ".join([product["Description"], *product["BulletPoints"][:1]])
        values = " ".join(value for values in product["options"].values() for value in values)
        queries = [f"{title} {words}", f"{title} {words} {values}", title]
        queries = [re.sub(r"[\[\]\s]+", " ", query).strip().lower() for query in queries]
        ranks = [self.catalog.results(query) for query in queries]
        found = [
            (hits.index(target) if target in hits else math.inf, query)
            for hits, query in zip(ranks, queries, strict=True)
        ]
        return min(found)[1]


def best_options(product: Product, wanted: Sequence[str] | Mapping[str, str]) -> dict[str, str]:
    """The values of a product's options that match most of the wanted ones, few of them."""
    exact = wanted.values() if isinstance(wanted, Mapping) else wanted
    chosen: dict[str, str] = {}
    for name, values in product["options"].items():
        found = option_matches(chosen.values(), wanted)
        for value in sorted(filter(None, values), key=lambda one: one not in exact):
            if option_matches([*chosen.values(), value], wanted) > found:
                chosen[name] = value
                break
    return chosen


def some_words(text: str, share: float, rng: np.random.Generator) -> str:
    """About this share of a text's words, one at least, in their order."""
    words = WORD.findall(text)
    kept = [word for word in words if rng.random() < share]
    return " ".join(kept or words[-1:])


PLAYERS: dict[str, type[Shopper]] = {
    "random": RandomPlayer,
    "first hit": FirstHitPlayer,
    "rule": RulePlayer,
    "human": HumanPlayer,
    "careful": CarefulPlayer,
    "oracle": OraclePlayer,
}
