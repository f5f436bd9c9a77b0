"""Examples for a language model that shops by a prompt: ours, and ReAct's own.

Ours is a visit of the careful player to our catalog. Its thoughts are written by a rule, from what
the player knows: what is asked, what a page has shown of it, what comes next. A context has the
marks of `STYLE`, as ReAct's has; the pages in ReAct's own examples are laid out in another way than
those of the environment.
"""

from __future__ import annotations

from pathlib import Path

from qsft_lite.files import read_json_texts
from qsft_lite.tasks.webshop.env import WebShop
from qsft_lite.tasks.webshop.players import CarefulPlayer
from qsft_lite.tasks.webshop.session import BUY, PREVIOUS
from qsft_lite.tasks.webshop.visit import Visit

GOAL = 1_572  # of our catalog, a training goal: the player reads on, takes an option and buys
# What stands before a line of the agent and before a page, and what a thought begins with.
STYLE = {"action": "\nAction:", "observation": "Observation: ", "thought": "think["}
INTRODUCTION = "You shop for what an instruction asks. This is how it is done.\n\n"
YOURS = "\nNow comes your instruction.\n\n"


def webshop_prompt(path: str | Path | None = None, *, thinks: bool = True) -> str:
    """What stands before the first page of a visit: one visit of ours, or ReAct's.

    path: of ReAct's webshop_prompts.json. thinks: with thoughts, or with actions alone.

    Raises ValueError, naming the file and the key, for a file that is no such JSON.
    """
    if path is None:
        return f"{INTRODUCTION}{example(GOAL, thinks)}{YOURS}"
    key = "react" if thinks else "act"
    return f"{read_json_texts(path, [key])[key]}\n"


def example(goal: int, thinks: bool = True) -> str:
    """A visit of the careful player with a goal of our catalog, with its thoughts or without."""
    env = WebShop()
    player = CarefulPlayer(env.catalog, 0)
    page, _ = env.reset(options={"goal": goal})
    history = written = page
    done = truncated = False
    while not (done or truncated):
        visit = player.visit(history)
        action = player.choose(visit)
        if thinks and (thought := thought_before(player, visit, action)):
            written += f"{STYLE['action']} think[{thought}]\n{STYLE['observation']}OK.\n"
        page, _, done, truncated, _ = env.step(action)
        history += f"{action}\n{page}"
        written += f"{STYLE['action']} {action}\n"
        if not done:  # the last page tells a score, which no example needs
            written += f"{STYLE['observation']}{page}"
    return written


def thought_before(player: CarefulPlayer, visit: Visit, action: str) -> str:
    """Why the player takes an action; "" before a further option."""
    session, wanted = visit.session, ", ".join(player.wanted(visit))
    if action.startswith("search["):
        return f"I am asked for {visit.instruction}, below ${visit.limit:.2f}. I search for that."
    name = action.removeprefix("click[").removesuffix("]")
    if session.page == "results" and name in session.catalog.position:
        product = session.catalog.products[session.catalog.position[name]]
        return f"{product['asin']} costs {product['Price']}, and its title fits. I look at it."
    if name == "features":
        return f"Its title does not say all of this: {wanted}. I read its features."
    if session.page == "about":
        return f"I have read what it says of this: {wanted}. I go back to the product."
    if name == BUY:
        chosen = ", ".join(session.options.values()) or "nothing"
        return f"I have chosen {chosen}, and no more is asked. I buy it."
    if name == PREVIOUS:
        return "Another product may fit better. I go back to the results."
    if session.page == "item" and not session.options:
        asked = ", ".join(player.asked_options(visit, session.item).values())
        return f"It has the options that are asked for. I choose: {asked}."
    return ""
