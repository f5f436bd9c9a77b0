r"""How pages and actions are written: `format="text"` is the original's, `format="short"` is ours.

"text" has the words of the original's text mode, joined by " [SEP] ", in one line: line breaks
inside a description are spaces here. Actions are search[words] and click[text].

"short" is for small networks and tokenizers of words: see short.py.
"""

from __future__ import annotations

import json
import re
import string

from qsft_lite.tasks.webshop.catalog import Catalog
from qsft_lite.tasks.webshop.session import Session

SEPARATOR = " [SEP] "
LINE_BREAK = re.compile(r"[\r\n]+")


def page_text(session: Session, instruction: str, reward: float = 0.0) -> str:
    """The page that is shown, in the format "text". reward: for the last page."""
    texts = _PAGES[session.page](session, instruction, reward)
    return LINE_BREAK.sub(" ", SEPARATOR.join(texts)) + "\n"


def _index(session: Session, instruction: str, reward: float) -> list[str]:
    return ["WebShop", "Instruction:", *_node(instruction), "Search"]


def _results(session: Session, instruction: str, reward: float) -> list[str]:
    texts = [*_head(instruction), f"Page {session.number} (Total results: {len(session.hits)})"]
    texts += ["< Prev", "Next >"] if session.number > 1 else ["Next >"]
    for position in session.shown:
        product = session.catalog.products[position]
        texts += [*_node(product["asin"]), *_node(product["Title"]), product["Price"]]
    return texts


def _item(session: Session, instruction: str, reward: float) -> list[str]:
    product = session.item
    texts = [*_head(instruction), "< Prev"]
    for name, values in product["options"].items():
        texts += _node(name)
        for value in values:
            texts += _node(value)
    texts += [*_node(product["Title"]), f"Price: {product['Price']}", "Rating: N.A."]
    return [*texts, "Description", "Features", "Reviews", "Buy Now"]


def _about(session: Session, instruction: str, reward: float) -> list[str]:
    texts = [*_head(instruction), "< Prev"]
    if session.about == "description":
        texts += _node(session.item["Description"])
    if session.about == "features":
        for bullet in session.item["BulletPoints"]:
            texts += _node(" " + bullet)
    return texts  # of reviews the original's text mode has none


def _done(session: Session, instruction: str, reward: float) -> list[str]:
    options = json.dumps(session.options, sort_keys=True)
    for sign in "<>&'":  # as they are written into a page
        options = options.replace(sign, f"\\u{ord(sign):04x}")
    texts = ["Thank you for shopping with us!", "Your code:", "None"]
    texts += ["(Paste it in your MTurk interface.)", "Purchased", "asin", session.item["asin"]]
    texts += ["options", options, "attrs", "None", "category", "None", "query", "None"]
    texts += ["product category", "None", "Target", "asin", "options", "attrs", "price upper"]
    texts += ["instuction text", "category", "product category", "query", "Goal", "None", "Reward"]
    return [*texts, "Your score (min 0.0, max 1.0)", str(reward), "Reward Details", "None"]


_PAGES = {"index": _index, "results": _results, "item": _item, "about": _about, "done": _done}


def _head(instruction: str) -> list[str]:
    return ["Instruction:", *_node(instruction), "Back to Search"]


def _node(text: str) -> list[str]:
    """A text as the original's parser gives it back: nothing where it is nothing but line breaks.

    Of other white space alone the parser leaves an empty text.
    """
    stripped = text.strip()
    return [stripped] if stripped or (text and "\n" not in text) else []


def page_words(catalog: Catalog) -> tuple[str, ...]:
    """Texts that hold every character of a transcript: what pages and their readers may write."""
    texts = {string.printable}
    for product in catalog.products:
        texts |= {product["asin"], product["Title"], product["Description"], product["Price"]}
        texts.update(product["BulletPoints"], product["options"], *product["options"].values())
    texts.update(goal["instruction_text"] for goal in catalog.goals)
    return tuple(sorted(texts))
