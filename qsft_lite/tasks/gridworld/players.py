"""The gridworld's behavior policy. Reference players are exact: see `qsft_lite.tabular`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qsft_lite.tabular import check_policy
from qsft_lite.tasks.gridworld.env import Gridworld

# A walker that knows nothing of the maze. Cloning it earns 5 % of the optimum.
DRIFT = (0.15, 0.40, 0.30, 0.15)  # up, right, down, left


def behavior_policy(
    env: Gridworld, behavior: np.ndarray | Sequence[float] | None = None
) -> np.ndarray:
    """(S, A) probabilities of actions; ValueError for those that are none.

    behavior: (S, A), or (A,) for the same in every state; None is DRIFT in a maze and uniform in
    another MDP.
    """
    mdp = env.mdp
    if behavior is None:
        behavior = DRIFT if env.maze else np.full(mdp.n_actions, 1 / mdp.n_actions)
    behavior = np.asarray(behavior, dtype=np.float64)
    if behavior.ndim == 1:
        behavior = np.tile(behavior, (mdp.n_states, 1))
    return check_policy(mdp, behavior, "behavior")
