r"""The format "short": pages and actions in few words, for small networks and tokenizers of words.

The instruction is said once, results are numbered, prices are whole dollars (rounded up, which
keeps them on their side of a limit, since limits are whole tens), and a page says what is new on
it. An episode, actions after the arrows:

    gluten free cookies in size one pound under $30
    > search gluten free cookies
    page 1 of 5 #1 velmora cookies $12 #2 oakby low sugar cookies $41 ...
    > #1
    velmora cookies $12 flavor name : lemon / maple ; size : half pound / one pound
    > features
    features : best value ; gluten free
    > prev
    chosen : nothing
    > one pound
    chosen : one pound
    > buy
    done

The other actions are description, reviews, next, prev, and back, to the search bar. What means
nothing is answered by "invalid".
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from functools import lru_cache

from qsft_lite.tasks.webshop.catalog import Catalog, Product
from qsft_lite.tasks.webshop.search import HITS, singular
from qsft_lite.tasks.webshop.session import (
    ABOUT,
    BACK,
    BUY,
    NEXT,
    PREVIOUS,
    PRODUCTS_PER_PAGE,
    PageKind,
    Session,
)

WORD = re.compile(r"[^\s,;:()\[\]|/]+")
LIMIT = re.compile(r", and price lower than (\d+)\.00 dollars$")
COMMANDS = {
    "back": BACK,
    "prev": PREVIOUS,
    "next": NEXT,
    "buy": BUY,
    **{name: name for name in ABOUT},
}
OF_CLICK = {text: command for command, text in COMMANDS.items()}
SIGNS = ": / ; page of to no results chosen nothing invalid done search none under".split()


@lru_cache(maxsize=100_000)
def plain(text: str) -> str:
    """The words of a text, in lower case and without the signs that pages are built of."""
    words = (word.strip(".#!?\"'") for word in WORD.findall(text.lower()))
    return " ".join(word for word in words if any(sign.isalnum() for sign in word))


def short_instruction(instruction: str) -> str:
    """An instruction, with its highest price in two words: the first text of an episode."""
    return plain(LIMIT.sub(r" under $\1", instruction)) + "\n"


def short_price(product: Product) -> str:
    """A product's price, or the ends of its range, in whole dollars."""
    return " to ".join(f"${math.ceil(price)}" for price in product["pricing"])


def short_page(session: Session, before: PageKind, valid: bool) -> str:
    """What is new on a page that an action has led to. before: the page that it was taken on."""
    if not valid:
        return "invalid\n"
    if session.page == "results":
        return _results(session)
    if session.page == "item":
        return _chosen(session) if before in ("item", "about") else _item(session.item)
    if session.page == "about":
        return f"{session.about} : {' ; '.join(_about(session.item, session.about)) or 'none'}\n"
    return "search\n" if session.page == "index" else "done\n"


def _results(session: Session) -> str:
    if not session.shown:  # nothing was found, or this page is beyond the last
        return "no results\n"
    pages = -(-len(session.hits) // PRODUCTS_PER_PAGE)
    texts = [f"page {session.number} of {pages}"]
    for number, position in enumerate(session.shown, start=1):
        product = session.catalog.products[position]
        texts.append(f"#{number} {plain(product['Title'])} {short_price(product)}")
    return " ".join(texts) + "\n"


def _item(product: Product) -> str:
    options = (
        f"{plain(name)} : {' / '.join(map(plain, values))}"
        for name, values in product["options"].items()
    )
    return f"{plain(product['Title'])} {short_price(product)} {' ; '.join(options)}".strip() + "\n"


def _chosen(session: Session) -> str:
    return f"chosen : {' / '.join(map(plain, session.options.values())) or 'nothing'}\n"


def _about(product: Product, about: str) -> list[str]:
    texts = {"description": [product["Description"]], "features": product["BulletPoints"]}
    return [words for words in map(plain, texts.get(about, ())) if words]


def long_action(session: Session, action: str) -> str:
    """The original's form of a short action; "" for one that means nothing on this page."""
    text = action.strip()
    if text.startswith("search "):
        return f"search[{text.removeprefix('search ')}]"
    if text in COMMANDS:
        return f"click[{COMMANDS[text]}]"
    if session.page == "results":
        links = {f"#{number}": one for number, one in enumerate(session.shown, start=1)}
        return f"click[{session.catalog.products[links[text]]['asin']}]" if text in links else ""
    values = session.option_of() if session.page == "item" else ()
    return next((f"click[{value}]" for value in values if plain(value) == text), "")


def short_action(session: Session, action: str) -> str:
    """A short action, without a newline, that means what one of the original's form does here."""
    name, _, text = action.removesuffix("]").partition("[")
    if name == "search":
        return f"search {plain(text)}"
    if text in OF_CLICK:
        return OF_CLICK[text]
    if session.page == "results":
        return f"#{session.shown.index(session.catalog.position[text]) + 1}"
    return plain(text)


def short_words(catalog: Catalog) -> tuple[str, ...]:
    """Every word of an episode, each with a space and with a newline after it."""
    pages = -(-HITS // PRODUCTS_PER_PAGE)
    words = {*SIGNS, *COMMANDS, *(f"#{number}" for number in range(1, PRODUCTS_PER_PAGE + 1))}
    words |= {str(number) for number in range(1, pages + 1)}
    for product in catalog.products:
        words.update(short_price(product).split())
        words.update(*(plain(text).split() for text in _texts(product)))
    for goal in catalog.goals:
        words.update(short_instruction(goal["instruction_text"]).split())
    return tuple(word + end for word in sorted(words) for end in " \n")


def _texts(product: Product) -> Iterable[str]:
    yield from (product["Title"], product["Description"], *product["BulletPoints"])
    for name, values in product["options"].items():
        yield from (name, *values)


def parts(word: str) -> list[tuple[str, str | int]]:
    """What words have in common: the stem, with whatever end; of prices the tens and the dollars.

    For `models.share_embeddings`; word has the space or newline that ends it.
    """
    text = word.strip()
    if re.fullmatch(r"\$\d+", text):
        dollars = int(text[1:])
        return [("price", "$"), ("tens", math.ceil(dollars / 10)), ("dollars", dollars)]
    if re.fullmatch(r"#\d+", text):
        return [("result", int(text[1:])), ("result", 0)]
    return [("word", singular(text) or text), ("end", word[-1:])]
