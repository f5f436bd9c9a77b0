"""One offline experiment in the gridworld, from recorded data to a policy, as numbers and picture.

The walker who made the data knows nothing of the maze: wherever it is, it goes up, right, down or
left with the same four probabilities. So the data hold every move, and cloning them is of no use.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import ipywidgets
import numpy as np
from matplotlib.figure import Figure

from qsft_lite import viz
from qsft_lite.tabular import (
    Backup,
    Leftover,
    extract_policy,
    policy_return,
    probability_ratio,
    q_sft,
    supported_actions,
    value_iteration,
)
from qsft_lite.tabular.mdps import Maze, gridworld
from qsft_lite.tabular.offline import (
    OfflineData,
    action_counts,
    cloned_policy,
    empirical_mdp,
    sample_trajectories,
)
from qsft_lite.tasks.checks import check_choice
from qsft_lite.tasks.gridworld.env import MAX_STEPS
from qsft_lite.tasks.gridworld.players import DRIFT
from qsft_lite.viz.explorers import LEFTOVERS, choice, show_explorer, slider
from qsft_lite.viz.plots import FORMS, draw_maze

EPISODES = (1, 3, 10, 30, 100, 300, 1000)
BACKUPS = (
    ("max p/π (paper)", "max"),
    ("max p/π over π ≥ 0.2 (ours)", "support"),
    ("sum of p (ours)", "behavior"),
)
SCORES = (("p/π (ours)", "ratio"), ("p (paper)", "p"))
SUPPORT = 0.2  # for backup="support": keeps right and down, and of the other two what chance adds


@dataclass(frozen=True, eq=False)
class Experiment:
    """What Q-SFT makes of recorded episodes, beside the exact answer.

    values: (S,) state values as the backup reads them, nan where the data never were. policy:
    (S, A) the extracted one. q_star: (S, A) of the true maze. policy_share, cloning_share: exact
    return of the policy and of behavior cloning from the start, as shares of the optimal return.
    residual: max |y - next y|, above 1e-10 when Q-SFT did not settle.
    """

    maze: Maze
    values: np.ndarray
    policy: np.ndarray
    q_star: np.ndarray
    policy_share: float
    cloning_share: float
    residual: float


def run_gridworld(
    *,
    beta: float = 20.0,
    gamma: float = 0.95,
    episodes: int = 100,
    leftover: Leftover = "dummy",
    backup: Backup = "max",
    score: Literal["p", "ratio"] = "ratio",
    seed: int = 0,
) -> Experiment:
    """Record episodes, run Q-SFT on them to its end, extract a policy and score it exactly.

    Raises ValueError for an unknown choice, an infinite beta, fewer than one episode, or a gamma
    outside [0, 1).
    """
    check_choice(score, ("p", "ratio"), "score")
    maze = gridworld(gamma=gamma)
    data = _recorded(episodes, seed)
    behavior = cloned_policy(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the picture says it, from the residual
        fixed_point = q_sft(
            empirical_mdp(data, gamma), behavior, leftover=leftover, backup=backup, support=SUPPORT
        )

    if backup == "behavior":
        values = fixed_point.p.sum(axis=1)
    else:
        allowed = supported_actions(behavior, SUPPORT if backup == "support" else 0.0)
        values = probability_ratio(fixed_point.p, behavior, allowed).max(axis=1)
    unseen = action_counts(data).sum(axis=1) == 0

    ratio = probability_ratio(fixed_point.p, behavior)
    policy = extract_policy(behavior, fixed_point.p if score == "p" else ratio, beta)
    q_star = value_iteration(maze.mdp)
    best = policy_return(maze.mdp, optimal_policy(q_star))
    shares = (policy_return(maze.mdp, one) / best for one in (policy, behavior))
    values = np.where(unseen, np.nan, values)
    return Experiment(maze, values, policy, q_star, *shares, fixed_point.residual)


def optimal_policy(q: np.ndarray) -> np.ndarray:
    """(S, A) policy that shares evenly among the actions of largest q."""
    best = q >= q.max(axis=1, keepdims=True) - 1e-9
    return best / best.sum(axis=1, keepdims=True)


@lru_cache(maxsize=32)
def _recorded(episodes: int, seed: int) -> OfflineData:
    """Episodes of the drifting walker from starts all over the maze. They do not need gamma."""
    mdp = gridworld().mdp
    behavior = np.tile(DRIFT, (mdp.n_states, 1))
    starts = np.full(mdp.n_states, 1 / mdp.n_states)
    return sample_trajectories(
        mdp, behavior, episodes, seed=seed, max_steps=MAX_STEPS, starts=starts
    )


def draw_gridworld(*, episodes: int = 100, leftover: Leftover = "dummy", **settings: Any) -> Figure:
    """Left what Q-SFT learned from the data, right the exact answer; see `run_gridworld`.

    settings: its other arguments. The figure belongs to no window and needs no closing.
    """
    result = run_gridworld(episodes=episodes, leftover=leftover, **settings)
    unseen = np.isnan(result.values)
    count = "1 episode" if episodes == 1 else f"{episodes} episodes"
    with viz.figure((10.5, 3.4), fixed=True) as figure:
        left = figure.add_axes((0.01, 0.1, 0.44, 0.74))
        right = figure.add_axes((0.47, 0.1, 0.44, 0.74))
        bar = figure.add_axes((0.922, 0.14, 0.013, 0.66))
        draw_maze(
            left,
            result.maze,
            values=result.values,
            policy=np.where(unseen[:, None], 0, result.policy),
            numbers=True,
            title=f"Q-SFT, {FORMS[leftover]}, {count}\n"
            f"{result.policy_share:.0%} of the best return (cloning {result.cloning_share:.0%})",
        )
        image = draw_maze(
            right,
            result.maze,
            values=result.q_star.max(axis=1),
            policy=optimal_policy(result.q_star),
            numbers=True,
            title="Exact: Q* and the optimal policy\n100% of the best return",
        )
        figure.colorbar(image, cax=bar, label="state value")
        figure.text(0.01, 0.035, _note(result), fontsize=10, color="#555555")
    return figure


def _note(result: Experiment) -> str:
    """The line below the maze: what is unusual about this result."""
    notes = []
    if np.isnan(result.values).any():
        notes.append("White: never visited.")
    if np.nanmax(result.values) > 1.005:
        notes.append("Values above 1: no return is that high, they are leaked mass.")
    if result.residual > 1e-10:
        notes.append(f"Not settled: targets still move by {result.residual:.0e} a sweep.")
    return "  ".join(notes)


def gridworld_explorer(
    *,
    beta: float = 20.0,
    gamma: float = 0.95,
    episodes: int = 100,
    leftover: str = "dummy",
    backup: str = "max",
    score: str = "ratio",
    seed: int = 0,
) -> None:
    """Show Q-SFT in the gridworld with controls for all but the seed; see `run_gridworld`.

    Raises ValueError for a start value that its control does not offer.
    """
    controls = {
        "beta": slider("beta", "β (sharpness)", beta, (0, 100), 1, ".0f"),
        "gamma": slider("gamma", "γ (discount)", gamma, (0.5, 0.99), 0.01, ".2f"),
        "episodes": choice("episodes", "episodes", episodes, EPISODES, ipywidgets.SelectionSlider),
        "leftover": choice("leftover", "leftover", leftover, LEFTOVERS),
        "backup": choice("backup", "backup", backup, BACKUPS),
        "score": choice("score", "score", score, SCORES),
    }
    show_explorer(
        lambda **values: draw_gridworld(**values, seed=seed),
        controls,
        "Left, a maze with the values and the policy that Q-SFT learned from recorded episodes; "
        "right, the same maze with the exact values and the optimal policy.",
    )
