"""Recorded walks through a maze, or any tabular MDP."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from datasets import Dataset

from qsft_lite.data.recording import Episodes, record
from qsft_lite.tabular import TabularMDP
from qsft_lite.tabular.mdps import GRIDWORLD, Maze
from qsft_lite.tabular.offline import ENDED, OfflineData, sample_trajectories
from qsft_lite.tasks.gridworld.env import MAX_STEPS, Gridworld
from qsft_lite.tasks.gridworld.players import behavior_policy
from qsft_lite.tasks.gridworld.text import END


def generate_gridworld(
    n: int,
    seed: int,
    *,
    maze: Maze | TabularMDP | Sequence[str] = GRIDWORLD,
    behavior: np.ndarray | Sequence[float] | None = None,
    starts: np.ndarray | None = None,
    max_steps: int = MAX_STEPS,
    processes: int = 1,
    path: str | Path | None = None,
    shard: tuple[int, int] | None = None,
) -> Dataset:
    """Episodes of a tabular behavior policy, each at most max_steps long.

    behavior: see `behavior_policy`. starts: (S,) distribution of the first state, the MDP's own
    when None. An episode cut off by max_steps has done False. processes, path and shard are
    those of `record`.
    """
    env = Gridworld(maze, max_steps)
    mdp = env.mdp
    behavior = behavior_policy(env, behavior)
    starts = mdp.initial if starts is None else np.asarray(starts, dtype=np.float64)
    settings = {
        "task": "gridworld",
        "P": mdp.P.tolist(),
        "R": mdp.R.tolist(),
        "behavior": behavior.tolist(),
        "starts": starts.tolist(),
        "max_steps": max_steps,
    }
    play = partial(_play_block, env, behavior, starts)
    return record(play, n, seed, settings, processes=processes, path=path, shard=shard)


def _play_block(
    env: Gridworld, behavior: np.ndarray, starts: np.ndarray, n: int, seed: np.random.SeedSequence
) -> Episodes:
    data = sample_trajectories(
        env.mdp, behavior, n, seed=seed, max_steps=env.max_steps, starts=starts
    )
    return as_episodes(env, data)


def as_episodes(env: Gridworld, data: OfflineData) -> Episodes:
    """Recorded steps as texts, an episode after the other."""
    state_texts = (*env.state_texts, END)  # ENDED is -1: the last one
    episodes: Episodes = {"text": [], "is_action": [], "reward": [], "done": []}
    first_steps = np.unique(data.episodes, return_index=True)[1].tolist()
    states, actions = data.states.tolist(), data.actions.tolist()
    rewards, next_states = data.rewards.tolist(), data.next_states.tolist()
    for first, end in zip(first_steps, [*first_steps[1:], len(states)], strict=True):
        text = [state_texts[states[first]]]
        reward = [0.0]
        for step in range(first, end):
            text += (env.action_texts[actions[step]], state_texts[next_states[step]])
            reward += (rewards[step], 0.0)
        episodes["text"].append(text)
        episodes["is_action"].append([False] + [True, False] * (end - first))
        episodes["reward"].append(reward)
        episodes["done"].append(next_states[end - 1] == ENDED)
    return episodes
