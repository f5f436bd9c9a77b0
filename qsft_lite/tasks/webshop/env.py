"""WebShop as an environment: text in, text out."""

from __future__ import annotations

import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import gymnasium
from gymnasium.spaces import Text

from qsft_lite.tasks.checks import check_action, check_choice, reset_option
from qsft_lite.tasks.webshop.catalog import Catalog, Goal
from qsft_lite.tasks.webshop.scoring import reward
from qsft_lite.tasks.webshop.session import Session
from qsft_lite.tasks.webshop.text import page_text


class WebShop(gymnasium.Env):
    """x"""

    metadata = {"render_modes": []}

    def __init__(self, catalog, max_steps=15, split=None, nouns=None):
        self.catalog = catalog
        self.max_steps = max_steps
        self.session = None
        self.nouns = nouns

    def reset(self, *, seed=None, options=None):
        goal = reset_option(options, "goal")
        super().reset(seed=seed)
        self.goal = self.catalog.goals[goal]
        self.session = Session(self.catalog)
        return page_text(self.session, self.goal["instruction_text"]), self._info(True)

    def _info(self, valid):
        return {"valid": valid, "success": False, "available_actions": {"has_search_bar": self.session.page == "index", "clickables": self.session.clickables()}}

    def step(self, action):
        check_action(action)
        valid = self.session.act(action)
        info = self._info(valid)
        value = 0.0
        if self.session.page == "done":
            s = self.session
            value, info["reward_parts"] = reward(s.item, self.goal, self.catalog.prices[s.product], s.options, **({"nouns": self.nouns} if self.nouns else {}))
            info["success"] = value == 1
        return page_text(self.session, self.goal["instruction_text"], value), value, self.session.page == "done", False, info
