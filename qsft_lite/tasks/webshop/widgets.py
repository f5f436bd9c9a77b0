"""A page of the shop beside a policy: what can be clicked, and what each click is worth."""

from __future__ import annotations

import copy
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from qsft_lite.policy.cached import CachedPolicy
from qsft_lite.tasks.agent_widgets import (
    TOO_LONG,
    Played,
    draw_beside,
    next_actions,
    play_explorer,
    replay,
    short,
    written,
)
from qsft_lite.tasks.webshop.choices import click, is_valid, valid_actions, visit_of
from qsft_lite.tasks.webshop.env import WebShop
from qsft_lite.tasks.webshop.session import ABOUT, BACK, BUY, NEXT, PREVIOUS
from qsft_lite.tasks.webshop.visit import Visit
from qsft_lite.viz.plots import HIGHLIGHT, VALUE_COLORS, ink

# In inches. A line of the page is as high as a button.
WIDTH, HEIGHT = 8.6, 5.6
LINE, LETTER, PILL = 0.4, 0.088, 0.3
ALT = (
    "Left, a page of the shop; what can be clicked there is colored by the policy's value of it. "
    "Right, bars of the best next actions."
)


def draw_page(
    policy: CachedPolicy,
    env: WebShop,
    start: dict[str, Any],
    texts: Sequence[str],
    turn: int | None = None,
) -> Figure:
    """A page of the shop after some turns, and the values of what can be done on it.

    What can be clicked is colored by its value, or by pi if the policy has no values. On the first
    page these are some searches, among them what the policy writes. Right, the ten best actions,
    and the one that was taken.

    Args:
        policy: with values or without.
        env: the environment that the transcript is of; it is left as it is.
        start: reset's options of the visit.
        texts: its transcript: the instruction, an action, the page, ...
        turn: actions taken at the moment that is shown; all if None.

    Raises:
        ValueError: a turn that the transcript does not have, or a transcript of another visit.
    """
    turns = len(texts) // 2
    turn = turns if turn is None else turn
    now = replay(copy.copy(env), start, texts, turn)
    visit, table, shades = visit_of(env, now.texts), None, {}
    if not now.over:
        taken = texts[1 + 2 * turn].strip() if turn < turns else ""
        own = written(policy, now.texts) if visit.session.page == "index" else ""
        others = [one for one in (own, taken) if one and is_valid(env, visit.session, one)]
        table = next_actions(policy, now.texts, [*valid_actions(env, visit), *others], taken)
    if table is not None:
        shades = dict(table.loc[table["valid"], ["action", "shade"]].values)
    last = "the visit begins"
    if turn:
        last = short(now.texts[-2], 90) + ", which means nothing there" * (not now.info["valid"])
    return draw_beside(
        (WIDTH, HEIGHT),
        lambda axes: _Page(axes, env, visit, shades).draw(now),
        table,
        f"Asked: {short(visit.asked, 130)}\nTurn {turn} of {turns}: {last}",
        end="the visit is over" if now.over else TOO_LONG,
    )


class _Page:
    """A page that is written from the top down; one unit is one inch."""

    def __init__(self, axes: Axes, env: WebShop, visit: Visit, shades: Mapping[str, float]) -> None:
        self.axes, self.env, self.visit, self.shades = axes, env, visit, shades
        self.session = visit.session
        self.y = HEIGHT - 0.3  # the middle of the line that is written next

    def draw(self, now: Played) -> None:
        """The page that is shown."""
        if now.over:
            return self.end(now)
        session = self.session
        if session.page == "index":
            self.text("Search", size=15)
            for action in self.shades:
                self.buttons([(action, action)])
            return None
        links = [(text, click(self.env, session, text)) for text in (BACK, PREVIOUS, NEXT)]
        self.buttons([one for one in links if one[1] in self.shades])
        if session.page == "results":
            return self.results()
        product = session.item
        self.text(f"{short(product['Title'], 58)}    {product['Price']}", size=14)
        if session.page == "about":
            return self.about(session.about)
        for name, values in product["options"].items():
            chosen = session.options.get(name)
            self.text(f"{name}:" + (f"  {chosen} is chosen" if chosen else "  none is chosen"))
            self.buttons([(one, click(self.env, session, one)) for one in values], chosen)
        self.buttons([(one, click(self.env, session, one)) for one in (*ABOUT, BUY)])
        for name in ("features", "description"):
            if name in self.visit.read.get(session.product, ()):
                self.about(name)
        return None

    def results(self) -> None:
        session = self.session
        pages = math.ceil(len(session.hits) / 10)
        found = f"page {session.number} of {pages}" if session.shown else "none"
        self.text(f"Results of “{short(session.query, 70)}”: {found}")
        for number, position in enumerate(session.shown, start=1):
            product = session.catalog.products[position]
            action = click(self.env, session, product["asin"].lower())
            y = self.y
            self.buttons([(f"#{number}", action)], least=0.9)
            opened = " (opened before)" if position in self.visit.read else ""
            self.write(1.15, y, short(product["Title"], 60 - len(opened)) + opened)
            self.write(WIDTH - 0.1, y, product["Price"], ha="right")

    def about(self, name: str) -> None:
        """A text about the product."""
        item = self.session.item
        texts = {"features": "; ".join(item["BulletPoints"]), "description": item["Description"]}
        for line in textwrap.wrap(f"{name}: {texts.get(name) or 'none'}", 95)[:8]:
            self.text(line, step=0.24)
        self.y -= 0.1

    def end(self, now: Played) -> None:
        """What was bought, with which options, and what it is worth."""
        if self.session.page != "done":
            self.text("Out of turns: nothing was bought. Reward 0.", size=15)
            return
        product, parts = self.session.item, now.info["reward_parts"]
        self.text(f"Bought: {short(product['Title'], 46)}    {product['Price']}", size=15)
        chosen = [f"{name}: {value}" for name, value in self.session.options.items()]
        self.text("with " + (short("; ".join(chosen), 90) or "no options chosen"))
        self.text(f"Reward {now.reward:.2f}", size=15)
        told = {"r_type": "type", "r_att": "attributes", "r_option": "options", "r_price": "price"}
        for part, name in told.items():
            if part in parts:
                self.text(f"{name}: {float(parts[part]):.2f}", step=0.26)

    def write(self, x: float, y: float, text: str, *, size: int = 11, **style: Any) -> None:
        """A text somewhere; a long page ends where the picture does."""
        if y > 0.1:
            self.axes.text(x, y, text, va="center", fontsize=size, parse_math=False, **style)

    def text(self, text: str, *, size: int = 11, step: float = LINE) -> None:
        self.write(0.15, self.y, text, size=size)
        self.y -= step

    def buttons(
        self, labels: Iterable[tuple[str, str]], chosen: str | None = None, *, least: float = 0.0
    ) -> None:
        """Labels with their actions, side by side; a chosen one has an orange rim."""
        x = 0.15
        for label, action in labels:
            shade = self.shades.get(action)
            number = "" if shade is None else f"  {shade:.2f}".replace(" 0.", " .")
            told = short(label, 80) + number
            wide = max(LETTER * len(told) + 0.16, least)
            if x > 0.15 and x + wide > WIDTH:
                x, self.y = 0.15, self.y - LINE
            is_chosen = label == chosen
            rim = {"edgecolor": HIGHLIGHT if is_chosen else "white", "lw": 3 if is_chosen else 1}
            fill = "#dddddd" if shade is None else VALUE_COLORS(shade)
            box = (x, self.y - PILL / 2), wide, PILL
            self.axes.add_patch(plt.Rectangle(*box, facecolor=fill, **rim))
            color = "black" if shade is None else ink(shade)
            self.write(x + wide / 2, self.y, told, ha="center", color=color)
            x += wide + 0.1
        self.y -= LINE


def shop_explorer(
    policy: CachedPolicy,
    env: WebShop,
    starts: Sequence[dict[str, Any]],
    transcripts: Sequence[Mapping[str, Any]],
    *,
    game: int = 1,
    turn: int = 1,
) -> None:
    """Step through visits, and shop on from any turn with what can be clicked there.

    starts: reset's options of each visit. transcripts: rows with its text. game, turn: those shown
    first. Raises ValueError for no visits, not one transcript for each start, or another start
    value than is on offer.
    """
    own = copy.copy(env)
    play_explorer(
        lambda start, texts, turn: draw_page(policy, own, start, texts, turn),
        lambda start, texts, turn: replay(own, start, texts, turn),
        lambda now: [] if now.over else valid_actions(own, visit_of(own, now.texts)),
        starts,
        transcripts,
        ALT,
        steps=env.max_steps,
        game=game,
        turn=turn,
    )
