"""Players: those that make the data, and references from bad to the best that there is.

All but the oracle know what a person would: the instruction, and the pages that were opened.
"""

from __future__ import annotations

import math
import re

import numpy as np

from qsft_lite.tasks.webshop.scoring import best_options
from qsft_lite.tasks.webshop.session import BACK, BUY, NEXT, PREVIOUS
from qsft_lite.tasks.webshop.visit import Shopper, Visit, some_words


def click(text: str) -> str:
    """The action."""
    return f"click[{text}]"


class RandomPlayer(Shopper):
    """Searches for some words of the instruction, and clicks anything."""

    keeps = 0.5  # of the words

    def searches(self, visit: Visit) -> bool:
        """See `Shopper.searches`."""
        return visit.session.page == "index"

    def choose(self, visit: Visit) -> str:
        """See `Shopper.choose`."""
        if self.searches(visit):
            return f"search[{some_words(visit.instruction, self.keeps, self.rng)}]"
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

    def searches(self, visit: Visit) -> bool:
        """See `Shopper.searches`."""
        session = visit.session
        return session.page == "index" or (session.page == "results" and not session.shown)

    def choose(self, visit: Visit) -> str:
        """See `Shopper.choose`."""
        session, rng = visit.session, self.rng
        if self.searches(visit):
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


PLAYERS: dict[str, type[Shopper]] = {
    "random": RandomPlayer,
    "first hit": FirstHitPlayer,
    "rule": RulePlayer,
    "human": HumanPlayer,
    "careful": CarefulPlayer,
    "oracle": OraclePlayer,
}
