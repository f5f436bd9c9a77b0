"""A visit to the shop: which page is shown, what can be done there, and where that leads.

The rules are those of the original's text environment: a search is possible from every page, and
"< Prev" leads from a page about a product to the product, and from there to the results.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from qsft_lite.tasks.webshop.catalog import Catalog, Product

PageKind = Literal["index", "results", "item", "about", "done"]

PRODUCTS_PER_PAGE = 10
BACK, PREVIOUS, NEXT, BUY = "back to search", "< prev", "next >", "buy now"
ABOUT = ("description", "features", "reviews")  # pages about a product
ACTION = re.compile(r"(.+)\[(.+)\]")


class Session:
    """One visit.

    Attributes:
        page: where it is.
        query: of the last search.
        number: of the page of results, from 1.
        product: the position in the catalog of the product that is looked at, or None.
        about: which of ABOUT is shown.
        options: the values chosen so far, by the options' names.
    """

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self.leave()

    def leave(self) -> None:
        """Go to the page with nothing but a search bar."""
        self.page: PageKind = "index"
        self.query = ""
        self.number = 1
        self.product: int | None = None
        self.about = ""
        self.options: dict[str, str] = {}

    @property
    def hits(self) -> tuple[int, ...]:
        """All products that the search has found, the best first."""
        return self.catalog.results(self.query)

    @property
    def shown(self) -> tuple[int, ...]:
        """Those on this page of results."""
        first = (self.number - 1) * PRODUCTS_PER_PAGE
        return self.hits[first : first + PRODUCTS_PER_PAGE]

    @property
    def item(self) -> Product:
        """The product that is looked at."""
        return self.catalog.products[self.product]

    def option_of(self) -> Mapping[str, str]:
        """Of each value that can be chosen the name of its option; the last of equal ones."""
        return {value: name for name, values in self.item["options"].items() for value in values}

    def clickables(self) -> list[str]:
        """What can be clicked, in the order of the page; "search" is a button without effect."""
        if self.page == "index":
            return ["search"]
        if self.page == "results":
            links = [self.catalog.products[product]["asin"].lower() for product in self.shown]
            return [BACK, *([PREVIOUS] if self.number > 1 else []), NEXT, *links]
        if self.page == "item":
            return list(dict.fromkeys([BACK, PREVIOUS, *ABOUT, BUY, *self.option_of()]))
        return [BACK, PREVIOUS] if self.page == "about" else []

    def act(self, action: str) -> bool:
        """Take an action, search[words] or click[text]; whether it meant something here."""
        match = ACTION.match(action)
        if match is None or self.page == "done":
            return False
        name, argument = match[1], match[2].lower()
        if name == "search":
            self.find(argument)
        elif name == "click" and argument != "search" and argument in self.clickables():
            self.click(argument)
        else:
            return False
        return True

    def find(self, query: str, number: int = 1) -> None:
        """Go to a page of the results of a search."""
        self.leave()
        self.page, self.query, self.number = "results", query, number

    def click(self, text: str) -> None:
        """Click something that is on the page; what a text means depends on the page."""
        if text == BUY:
            self.page = "done"
        elif text == BACK:
            self.leave()
        elif text in (NEXT, PREVIOUS) and self.page == "results":
            self.find(self.query, self.number + (1 if text == NEXT else -1))
        elif text == PREVIOUS and self.page == "about":
            self.page = "item"
        elif text == PREVIOUS:
            self.find(self.query, self.number)
        elif text in ABOUT:
            self.page, self.about = "about", text
        elif self.page == "results":
            self.page, self.product = "item", self.catalog.position[text]
        else:
            self.options[self.option_of()[text]] = text
