"""Mazes, and any tabular MDP, as text: what is learned from the text has an exact twin."""

from __future__ import annotations

from collections.abc import Sequence
from reprlib import repr as brief
from typing import Any

import gymnasium
import numpy as np

from qsft_lite.tabular import TabularMDP
from qsft_lite.tabular.mdps import GRIDWORLD, Maze, gridworld
from qsft_lite.tabular.offline import ENDED
from qsft_lite.tasks.checks import check_action, reset_option
from qsft_lite.tasks.gridworld.text import END, state_and_action_texts

MAX_STEPS = 50


class Gridworld(gymnasium.Env):
    """Walk through a maze by text.

    maze: a `Maze`, a drawing of one (a sequence of rows, see `Maze`), or any TabularMDP. max_steps:
    after that many steps the episode is cut off (truncated).

    reset returns the state's text and info {"state": index}; options {"state": index} fixes the
    first state, otherwise it is drawn from the MDP's initial distribution. step takes an action's
    text, whatever white space is around it, and returns the next state's, with the expected reward
    R(s, a). Any other text changes nothing but costs a step. info has "state" (-1 at the end),
    "success" (the episode has earned a reward) and "valid" (the text was an action).
    """

    metadata = {"render_modes": []}

    def __init__(
        self, maze: Maze | TabularMDP | Sequence[str] = GRIDWORLD, max_steps: int = MAX_STEPS
    ) -> None:
        if max_steps < 1:
            raise ValueError(f"max_steps must be at least 1, got {max_steps}")
        if not isinstance(maze, Maze | TabularMDP):
            maze = gridworld(tuple(maze))
        self.maze = maze if isinstance(maze, Maze) else None
        self.mdp = maze.mdp if isinstance(maze, Maze) else maze
        self.max_steps = max_steps
        self.state_texts, self.action_texts = state_and_action_texts(maze)
        self._states = {text: state for state, text in enumerate(self.state_texts)}
        self._actions = {text: action for action, text in enumerate(self.action_texts)}
        self.action_space = _text_space(self.action_texts)
        self.observation_space = _text_space((*self.state_texts, END))
        self._state = ENDED
        self._steps = 0
        self._earned = 0.0

    @property
    def texts(self) -> tuple[str, ...]:
        """Every segment a transcript can have (with valid actions), as a tokenizer needs them."""
        return *self.state_texts, END, *self.action_texts

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Start an episode; ValueError for a state that is none, or an unknown option."""
        state = reset_option(options, "state")
        if state is not None:
            if isinstance(state, bool) or not isinstance(state, (int, np.integer)):
                raise TypeError(f"state must be a whole number, got {brief(state)}")
            if not 0 <= state < self.mdp.n_states:
                raise ValueError(f"state must be in [0, {self.mdp.n_states}), got {state}")
        super().reset(seed=seed)
        if state is None:
            state = self.np_random.choice(self.mdp.n_states, p=self.mdp.initial)
        self._state, self._steps, self._earned = int(state), 0, 0.0
        return self.state_texts[self._state], {"state": self._state}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Act; ResetNeeded when no episode is under way, TypeError for what is no text."""
        if self._state == ENDED:
            raise gymnasium.error.ResetNeeded("the episode is over or not started: call reset")
        check_action(action)
        index = self._actions.get(action.strip() + "\n")
        valid = index is not None
        state, reward = self._move(index) if valid else (self._state, 0.0)
        self._steps += 1
        self._earned += reward
        terminated = state == self.mdp.n_states
        truncated = not terminated and self._steps == self.max_steps
        info = {
            "state": ENDED if terminated else state,
            "success": self._earned > 0,
            "valid": valid,
        }
        self._state = ENDED if terminated or truncated else state
        return END if terminated else self.state_texts[state], reward, terminated, truncated, info

    def _move(self, action: int) -> tuple[int, float]:
        """The next state, n_states at the end, and the reward."""
        # A row of P may sum to less than 1: the rest, after its last state, ends the episode.
        reached = self.mdp.P[self._state, action].cumsum()
        if abs(reached[-1] - 1) < 1e-9:
            reached[-1] = 1
        state = int(np.searchsorted(reached, self.np_random.random(), side="right"))
        return state, float(self.mdp.R[self._state, action])

    def state_of(self, text: str) -> int:
        """The state that a text ends in: a state's own text or a whole transcript.

        Raises ValueError when its last line is no state.
        """
        last = text.removesuffix("\n").rpartition("\n")[2] + "\n"
        if last not in self._states:
            raise ValueError(f"the last line, {last!r}, is not a state of this maze")
        return self._states[last]


def _text_space(texts: Sequence[str]) -> gymnasium.spaces.Text:
    """A space that holds the texts (and others: Gymnasium has no space of given texts)."""
    charset = "".join(sorted(set("".join(texts))))
    return gymnasium.spaces.Text(max_length=max(map(len, texts)), charset=charset)
