"""What can be done on a page of the shop, in the form that an environment's actions have."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from qsft_lite.tasks.webshop.env import WebShop
from qsft_lite.tasks.webshop.session import Session
from qsft_lite.tasks.webshop.short import long_action, short_action
from qsft_lite.tasks.webshop.visit import Shopper, Visit


def visit_of(env: WebShop, texts: Sequence[str]) -> Visit:
    """Where a transcript that waits for an action has led to; see `Shopper.visit`."""
    shopper = Shopper(env.catalog, format=env.format, max_steps=env.max_steps)
    return shopper.visit("".join(texts))


def click(env: WebShop, session: Session, text: str) -> str:
    """The action, in the environment's form, that clicks a text of this page."""
    action = f"click[{text}]"
    return short_action(session, action) if env.format == "short" else action


def searches(env: WebShop, visit: Visit) -> list[str]:
    """Some searches: all words that are asked for, the first half of them, and the second."""
    words = visit.instruction.split()
    half = -(-len(words) // 2)
    texts = dict.fromkeys(" ".join(part) for part in (words, words[:half], words[half:]) if part)
    return [f"search {text}" if env.format == "short" else f"search[{text}]" for text in texts]


def is_valid(env: WebShop, session: Session, action: str) -> bool:
    """Whether an action means something on this page, which stays as it is."""
    tried = copy.copy(session)
    tried.options = dict(session.options)
    return tried.act(long_action(session, action) if env.format == "short" else action)


def valid_actions(env: WebShop, visit: Visit) -> list[str]:
    """What can be clicked on a page, and on the first page some searches; none at the end."""
    session = visit.session
    if session.page == "index":
        return searches(env, visit)
    actions = dict.fromkeys(click(env, session, text) for text in session.clickables())
    return [action for action in actions if is_valid(env, session, action)]
