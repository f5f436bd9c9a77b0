"""WebShop as an environment: text in, text out."""

from __future__ import annotations

import string
from functools import cached_property
from typing import Any, Literal

import gymnasium
from gymnasium.spaces import Text

from qsft_lite.tasks.checks import check_action, check_choice, reset_option
from qsft_lite.tasks.webshop.catalog import Catalog, Goal
from qsft_lite.tasks.webshop.loading import Goals, Products, load_catalog
from qsft_lite.tasks.webshop.nouns import Nouns, spacy_nouns, title_nouns
from qsft_lite.tasks.webshop.scoring import check_goal, reward
from qsft_lite.tasks.webshop.session import PageKind, Session
from qsft_lite.tasks.webshop.short import (
    long_action,
    short_instruction,
    short_page,
    short_words,
)
from qsft_lite.tasks.webshop.text import page_text, page_words

MAX_STEPS = 15
ShopFormat = Literal["text", "short"]
FORMATS = ("text", "short")


class WebShop(gymnasium.Env):
    r"""One visit to the shop: find what the instruction asks for, choose its options, buy it.

    The rules, the pages and the reward are WebShop's (Yao et al., 2022), in its text mode. Buying
    ends the episode, with a reward from 0 to 1 (see `reward`); all other actions have 0. An action
    that means nothing costs a turn and changes nothing. What differs from the original: an episode
    is cut off (truncated) after max_steps actions, white space around an action means nothing, the
    search engine is ours (see search.py) and has no commands such as "<r>", and the nouns of the
    reward are ours (see nouns.py).

    products: None for our catalog of 1,000 products, a number for one of so many, or the path of
    the original's products file or of a folder that holds it, see loading.py. goals: "human" or
    "synthetic" ones, by default what the files have. split: draw goals from "train" (index 1,500
    on), "validation" (500 to 1,499) or "test" (0 to 499), by default from all. format: "text" has
    the original's words, "short" few words, for small networks, see short.py. nouns: "rule" or
    "spacy", or a function from a title to its nouns.

    reset's options {"goal": ...} fix the goal: its index, or a dict with the keys of `reward` and
    instruction_text; otherwise one is drawn evenly from the split. Observations end with a newline;
    actions may. The info of reset has goal (as reset takes it), that of step success (the reward
    is 1), valid, and at the end reward_parts; both have available_actions: has_search_bar, and
    clickables, a list of what click[...] takes here (in the format "short" too).
    """

    metadata = {"render_modes": []}
    action_space = Text(max_length=300, charset=string.printable)

    def __init__(
        self,
        products: Products = None,
        *,
        goals: Goals | None = None,
        split: str | None = None,
        format: ShopFormat = "text",
        nouns: Literal["rule", "spacy"] | Nouns = "rule",
        max_steps: int = MAX_STEPS,
    ) -> None:
        check_choice(format, FORMATS, "format")
        if not callable(nouns):
            check_choice(nouns, ("rule", "spacy"), "nouns")
            nouns = title_nouns if nouns == "rule" else spacy_nouns()
        if max_steps < 1:
            raise ValueError(f"max_steps must be at least 1, got {max_steps}")
        self.catalog = load_catalog(products, goals)
        self.drawn = self.catalog.split(split)
        self.format, self.nouns, self.max_steps = format, nouns, max_steps
        self.goal: Goal = {}
        self._session: Session | None = None
        self._steps = 0

    @property
    def texts(self) -> tuple[str, ...]:
        """Every word of a transcript, with its end ("short"), or texts with all its characters."""
        return short_words(self.catalog) if self.format == "short" else page_words(self.catalog)

    @cached_property
    def observation_space(self) -> Text:
        """Any text in the characters of the catalog."""
        characters = "".join(sorted(set("".join(self.texts))))
        return Text(max_length=1_000_000, charset=characters)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Start a visit; ValueError or TypeError for a goal that is none, or an unknown option."""
        goal = reset_option(options, "goal")
        super().reset(seed=seed)
        if goal is None:
            goal = self.drawn[int(self.np_random.integers(len(self.drawn)))]
        self.goal = read_goal(self.catalog, goal)
        self._session, self._steps = Session(self.catalog), 0
        return self._page("index", True), {"goal": goal, "available_actions": self._available()}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Act; ResetNeeded when no visit is under way, TypeError for what is no text."""
        if self._session is None:
            raise gymnasium.error.ResetNeeded("the visit is over or not started: call reset first")
        check_action(action)
        session, before = self._session, self._session.page
        action = action.strip()
        valid = session.act(long_action(session, action) if self.format == "short" else action)
        self._steps += 1
        info: dict[str, Any] = {"success": False, "valid": valid}
        info["available_actions"] = self._available()
        value, bought = 0.0, session.page == "done"
        if bought:
            price = self.catalog.prices[session.product]
            value, info["reward_parts"] = reward(
                session.item, self.goal, price, session.options, nouns=self.nouns
            )
            info["success"] = value == 1
        text = self._page(before, valid, value)
        truncated = not bought and self._steps == self.max_steps
        if bought or truncated:
            self._session = None
        return text, value, bought, truncated, info

    def _page(self, before: PageKind, valid: bool, value: float = 0.0) -> str:
        """What is shown now."""
        instruction = self.goal["instruction_text"]
        if self.format == "text":
            return page_text(self._session, instruction, value)
        if not self._steps:
            return short_instruction(instruction)
        return short_page(self._session, before, valid)

    def _available(self) -> dict[str, Any]:
        session = self._session
        return {"has_search_bar": session.page == "index", "clickables": session.clickables()}


def read_goal(catalog: Catalog, goal: Any) -> Goal:
    """A goal by its index in the catalog, or a dict that is one.

    Raises TypeError for anything else, and ValueError for an index that no goal has, and for a dict
    that lacks what the reward needs.
    """
    if isinstance(goal, dict):
        if not isinstance(goal.get("instruction_text"), str):
            raise ValueError("a goal needs its instruction_text, a text")
        check_goal(goal)
        return goal
    try:
        index = range(len(catalog.goals)).index(goal)
    except ValueError:
        if isinstance(goal, int):
            raise ValueError(
                f"goal {goal} is none of the {len(catalog.goals)}, which are numbered from 0"
            ) from None
        raise TypeError(f"a goal is an index or a dict, got {goal!r:.100}") from None
    return catalog.goals[index]
