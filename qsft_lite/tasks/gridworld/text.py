r"""How states and actions of mazes and of other MDPs are written.

A state is one word and an action is one word: "r2c0\n" (row 2, column 0) and "right\n" in a maze,
"s7\n" and "a1\n" in another MDP. The end of an episode reads "end\n". A transcript holds the whole
history, but only its last state matters.
"""

from __future__ import annotations

from qsft_lite.tabular import TabularMDP
from qsft_lite.tabular.mdps import ACTION_NAMES, Maze

END = "end\n"


def state_and_action_texts(maze: Maze | TabularMDP) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The texts of all states and of all actions."""
    if isinstance(maze, Maze):
        states = tuple(f"r{row}c{column}\n" for row, column in maze.cells)
        return states, tuple(f"{name}\n" for name in ACTION_NAMES)
    states = tuple(f"s{state}\n" for state in range(maze.n_states))
    return states, tuple(f"a{action}\n" for action in range(maze.n_actions))
