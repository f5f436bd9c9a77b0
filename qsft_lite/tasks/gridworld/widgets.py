"""One offline experiment in the gridworld, from recorded data to a policy, as numbers and picture.

The walker who made the data knows nothing of the maze: wherever it is, it goes up, right, down or
left with the same four probabilities. So the data hold every move, and cloning them is of no use.

In a table, Q of the paired form is the mean of y over the records of a move. With one dummy it is
p/pi. Were pi counted in the records that p is counted in, the noise of which move was taken would
cancel, and both forms would have the same values; but p and pi of networks err apart. So pi of one
dummy is counted in other episodes here.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, get_args

import ipywidgets
import numpy as np
from matplotlib.figure import Figure

from qsft_lite import viz
from qsft_lite.tabular import (
    Backup,
    Leftover,
    TabularMDP,
    bellman_backup,
    extract_policy,
    policy_return,
    probability_ratio,
    q_sft,
    q_sft_probabilities,
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
    ("max Q (paper)", "max"),
    ("max Q over π ≥ 0.2 (ours)", "support"),
    ("mean Q under π (ours)", "behavior"),
)
SCORES = (("Q (ours)", "value"), ("p (paper)", "p"))
SUPPORT = 0.2  # for backup="support": keeps right and down, and of the other two what chance adds
OTHER_EPISODES = 1_000_000  # added to the seed of the episodes that pi of one dummy is counted in
SWEEPS = 5_000  # of one dummy's target, at most


@dataclass(frozen=True, eq=False)
class Experiment:
    """What Q-SFT makes of recorded episodes, beside the exact answer.

    values: (S,) state values as the backup reads them, nan where the data never were. q: (S, A) the
    learned action values, at most 1, and -inf where pi is 0. policy: (S, A) the extracted one.
    q_star: (S, A) of the true maze. policy_share, cloning_share: exact return from the start, of
    the policy and of the pi in it, as shares of the optimal return. residual: max |y - next y|,
    above 1e-10 when Q-SFT did not settle.
    """

    maze: Maze
    values: np.ndarray
    q: np.ndarray
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
    leftover: Leftover = "paired",
    backup: Backup = "max",
    score: Literal["value", "p"] = "value",
    seed: int = 0,
) -> Experiment:
    """Record episodes, run Q-SFT on them to its end, extract a policy and score it exactly.

    score: what the policy prefers, the "value" Q, which is q of the paired form and p/pi of the
    others, or "p". With one dummy, pi is counted in as many other episodes.

    Raises ValueError for an unknown choice, an infinite beta, fewer than one episode, or a gamma
    outside [0, 1).
    """
    check_choice(score, ("value", "p"), "score")
    check_choice(leftover, FORMS, "leftover")
    maze = gridworld(gamma=gamma)
    data = _recorded(episodes, seed)
    mdp, frequencies = empirical_mdp(data, gamma), cloned_policy(data)
    if leftover == "dummy":
        behavior = cloned_policy(_recorded(episodes, seed + OTHER_EPISODES))
        p, residual = settle_one_dummy(mdp, frequencies, behavior, backup)
    else:
        behavior = frequencies
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # the picture says it, by the residual
            found = q_sft(mdp, behavior, leftover=leftover, backup=backup, support=SUPPORT)
        p, residual = found.p, found.residual
    q = np.minimum(probability_ratio(p, behavior), 1)  # as networks play by it
    policy = extract_policy(behavior, p if score == "p" else q, beta)

    unseen = action_counts(data).sum(axis=1) == 0
    values = np.where(unseen, np.nan, state_values(p, behavior, backup))
    q_star = value_iteration(maze.mdp)
    best = policy_return(maze.mdp, optimal_policy(q_star))
    shares = (policy_return(maze.mdp, one) / best for one in (policy, behavior))
    return Experiment(maze, values, q, policy, q_star, *shares, residual)


def settle_one_dummy(
    mdp: TabularMDP, frequencies: np.ndarray, behavior: np.ndarray, backup: Backup
) -> tuple[np.ndarray, float]:
    """p of one dummy at the end of training, and its residual, where p and pi err apart.

    p = frequencies * y, of the moves in the records that p is trained on, and the target y reads
    its values as p / behavior. Both policies: (S, A). Returns p (S, A) and max |y - next y|.
    """
    check_choice(backup, get_args(Backup), "backup")
    target = np.zeros_like(frequencies)
    for _ in range(SWEEPS):
        p, _ = q_sft_probabilities(frequencies, target, "dummy")
        following = bellman_backup(mdp, state_values(p, behavior, backup)).clip(0, 1)
        residual = float(np.abs(following - target).max())
        if residual <= 1e-12:
            break
        target = following
    return p, residual


def state_values(p: np.ndarray, behavior: np.ndarray, backup: Backup) -> np.ndarray:
    """(S,) values of states as a backup reads them from p (S, A), by pi = behavior (S, A)."""
    if backup == "behavior":
        return p.sum(axis=1)
    allowed = supported_actions(behavior, SUPPORT if backup == "support" else 0.0)
    return probability_ratio(p, behavior, allowed).max(axis=1)


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


def draw_gridworld(
    *, episodes: int = 100, leftover: Leftover = "paired", **settings: Any
) -> Figure:
    """Left what Q-SFT learned from the data, right the exact answer; see `run_gridworld`.

    settings: its other arguments. The figure belongs to no window and needs no closing.
    """
    result = run_gridworld(episodes=episodes, leftover=leftover, **settings)
    unseen = np.isnan(result.values)
    share = max(result.policy_share, 0.0)  # rounding may leave it a hair below
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
            title=f"{FORMS[leftover]}, {count}\n"
            f"{share:.0%} of the best return (cloning {result.cloning_share:.0%})",
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
        figure.text(0.01, 0.035, _note(result, leftover), fontsize=10, color="#555555")
    return figure


def _note(result: Experiment, leftover: Leftover) -> str:
    """The line below the maze: how Q is read, and what is unusual about this result."""
    reading = {
        "paired": "Q is the mean of y over a move's records (also p/π of one dummy, with π "
        "counted in the same episodes).",
        "dummy": "Q is p/π, with π counted in other episodes.",
        "uniform": "Q is p/π, with π counted in the same episodes.",
    }
    notes = [reading[leftover]]
    if np.isnan(result.values).any():
        notes.append("White: never visited.")
    if np.nanmax(result.values) > 1.005:
        cause = "leaked mass" if leftover == "uniform" else "the noise of π"
        notes.append(f"Values above 1: no return is that high, they are {cause}.")
    if result.residual > 1e-10:
        notes.append(f"Not settled: targets still move by {result.residual:.0e} a sweep.")
    return "  ".join(notes)


def gridworld_explorer(
    *,
    beta: float = 20.0,
    gamma: float = 0.95,
    episodes: int = 100,
    leftover: str = "paired",
    backup: str = "max",
    score: str = "value",
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
