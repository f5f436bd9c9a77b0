"""Ready decision processes: a bandit, a chain, mazes and a random family. All are exact."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from qsft_lite.tabular import TabularMDP

# Row and column steps of the maze actions, and how they are drawn.
ACTION_NAMES = ("up", "right", "down", "left")
ACTION_STEPS = ((-1, 0), (0, 1), (1, 0), (0, -1))

GRIDWORLD = (
    "S...#...",
    "..#.#.T.",
    "..#...T.",
    "....#..G",
)

# Every "S" of the top row begins one piece; the pits below the corridor end the pieces.
STITCHING = (
    "S#S#S#S###",
    ".........G",
    "##T#T#T#T#",
)


@dataclass(frozen=True, eq=False)
class Maze:
    """A gridworld: its MDP, and where each state lies.

    layout: rows of "#" wall, "." floor, "S" start, "G" goal (reward 1, ends), "T" trap (reward 0,
    ends). cells: (row, column) of each state; goals and traps are no states, entering them ends the
    episode. Actions are up, right, down, left.
    """

    mdp: TabularMDP
    layout: tuple[str, ...]
    cells: tuple[tuple[int, int], ...]

    def state_at(self, row: int, column: int) -> int:
        """The state of a cell; ValueError when the cell is a wall, goal, trap or outside."""
        try:
            return self.cells.index((row, column))
        except ValueError:
            raise ValueError(f"cell ({row}, {column}) is not a state of this maze") from None

    @property
    def starts(self) -> np.ndarray:
        """States of the "S" cells, in reading order."""
        return np.flatnonzero([self.layout[row][column] == "S" for row, column in self.cells])


def gridworld(
    layout: tuple[str, ...] = GRIDWORLD, *, slip: float = 0.0, gamma: float = 0.95
) -> Maze:
    """A maze from a drawing; see `Maze` for the letters.

    With probability `slip` the move goes to one of the two sides instead. A move into a wall or
    over the edge stays. Raises ValueError, naming row and column, for a drawing that is not a
    rectangle or has an unknown letter, and when there is no start or no goal.
    """
    _check_layout(layout)
    letters = {(r, c): letter for r, row in enumerate(layout) for c, letter in enumerate(row)}
    cells = tuple(cell for cell, letter in letters.items() if letter in ".S")
    index = {cell: state for state, cell in enumerate(cells)}
    P = np.zeros((len(cells), len(ACTION_STEPS), len(cells)))
    R = np.zeros(P.shape[:2])
    for (row, column), state in index.items():
        for action in range(len(ACTION_STEPS)):
            outcomes = ((action, 1 - slip), (action - 1, slip / 2), ((action + 1) % 4, slip / 2))
            for direction, probability in outcomes:
                step = ACTION_STEPS[direction]
                cell_to = row + step[0], column + step[1]
                letter = letters.get(cell_to, "#")
                if letter == "G":
                    R[state, action] += probability
                elif letter == "#":
                    P[state, action, state] += probability
                elif letter != "T":
                    P[state, action, index[cell_to]] += probability
    initial = np.array([letters[cell] == "S" for cell in cells], dtype=float)
    return Maze(TabularMDP(P, R, gamma, initial / initial.sum()), tuple(layout), cells)


def stitching_maze(*, gamma: float = 0.95) -> Maze:
    """A corridor that no recorded trajectory walks from its start to the goal.

    The episode starts in the top left. `stitching_paths` gives the recorded pieces: each comes in
    from its own door, walks two cells along the corridor and falls into a pit, and the last one
    reaches the goal. Cloning leaves the corridor at every pit with the pieces that did.
    """
    maze = gridworld(STITCHING, gamma=gamma)
    initial = np.eye(maze.mdp.n_states)[maze.starts[0]]
    return replace(maze, mdp=replace(maze.mdp, initial=initial))


def stitching_paths(maze: Maze) -> list[list[tuple[int, int]]]:
    """The pieces that the data of the stitching maze hold, each a list of (state, action)."""
    _, right, down, _ = range(4)
    paths = []
    for start in maze.starts:
        row, column = maze.cells[start]
        is_last = start == maze.starts[-1]
        actions = [down, right, right, right if is_last else down]
        path = []
        for action in actions:
            path.append((maze.state_at(row, column), action))
            row, column = row + ACTION_STEPS[action][0], column + ACTION_STEPS[action][1]
        paths.append(path)
    return paths


def chain(length: int = 5, *, gamma: float = 0.9) -> TabularMDP:
    """States in a row, the goal (reward 1) behind the last; actions: 0 back, 1 forward."""
    if length < 1:
        raise ValueError(f"length must be at least 1, got {length}")
    P = np.stack([np.eye(length, k=-1), np.eye(length, k=1)], axis=1)
    P[0, 0, 0] = 1  # there is nothing behind the first
    R = np.zeros((length, 2))
    R[length - 1, 1] = 1
    return TabularMDP(P, R, gamma, initial=np.eye(length)[0])


def bandit(values: np.ndarray) -> TabularMDP:
    """One state, one step: `values` (A,) are the expected rewards, and so Q*."""
    return TabularMDP(np.zeros((1, len(values), 1)), np.asarray(values)[None], 0.0)


def random_mdp(
    n_states: int = 20,
    n_actions: int = 4,
    *,
    gamma: float = 0.95,
    concentration: float = 0.1,
    paying: float = 1.0,
    seed: int = 0,
) -> TabularMDP:
    """Dirichlet transitions and rewards uniform in [0, 1 - gamma], so returns stay in [0, 1].

    concentration: of the Dirichlet over successors; small means few likely successors. paying: the
    chance that a (state, action) pair pays at all; the best-paid pair always does.
    """
    if not 0 <= paying <= 1:
        raise ValueError(f"paying must be a probability in [0, 1], got {paying}")
    rng = np.random.default_rng(seed)
    P = rng.dirichlet(np.full(n_states, concentration), size=(n_states, n_actions))
    R = rng.random((n_states, n_actions)) * (1 - gamma)
    R *= (rng.random(R.shape) < paying) | (R == R.max())
    return TabularMDP(P, R, gamma)


def random_policy(mdp: TabularMDP, *, concentration: float = 1.0, seed: int = 0) -> np.ndarray:
    """(S, A) Dirichlet policy; a small concentration makes most actions rare."""
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.full(mdp.n_actions, concentration), size=mdp.n_states)


def _check_layout(layout: tuple[str, ...]) -> None:
    if not layout or not layout[0]:
        raise ValueError("layout has no cells")
    for r, row in enumerate(layout):
        if len(row) != len(layout[0]):
            raise ValueError(f"layout row {r} has {len(row)} cells, row 0 has {len(layout[0])}")
        for c, letter in enumerate(row):
            if letter not in "#.SGT":
                raise ValueError(f"layout has {letter!r} at row {r}, column {c}: use # . S G T")
    drawing = "".join(layout)
    for letter, name in (("S", "start"), ("G", "goal")):
        if letter not in drawing:
            raise ValueError(f"layout has no {name} ({letter!r})")
