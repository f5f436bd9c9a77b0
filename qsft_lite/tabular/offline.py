"""Offline reinforcement learning in a table: recorded data, Q-SFT on counts, and its rivals.

N is the number of recorded steps. Every method sees the data alone, never the true MDP.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from qsft_lite.tabular import TabularMDP, bellman_backup, check_policy

ENDED = -1


@dataclass(frozen=True, eq=False)
class OfflineData:
    """Recorded steps, episode after episode.

    states, actions, next_states, episodes: (N,) int64; next_states is ENDED (-1) where the episode
    ended. rewards: (N,) float64. A trajectory cut by a step limit keeps its next state.
    """

    states: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    next_states: np.ndarray
    episodes: np.ndarray
    n_states: int
    n_actions: int

    @property
    def n_episodes(self) -> int:
        """Number of episodes."""
        return len(np.unique(self.episodes))

    def take(self, rows: np.ndarray) -> OfflineData:
        """The steps selected by a boolean or integer index, in their order."""
        columns = ("states", "actions", "rewards", "next_states", "episodes")
        return replace(self, **{name: getattr(self, name)[rows] for name in columns})


def sample_trajectories(
    mdp: TabularMDP,
    policy: np.ndarray,
    episodes: int,
    *,
    seed: int,
    max_steps: int = 100,
    starts: np.ndarray | None = None,
) -> OfflineData:
    """Play `episodes` episodes of a policy (S, A), all at once, each at most `max_steps` long.

    starts: (S,) distribution of the first state, the MDP's own when None. The recorded reward is
    the expected one, R(s, a). Raises ValueError for a policy or starts that are no distributions,
    and for fewer than one episode or step.
    """
    policy = check_policy(mdp, policy, "policy")
    for name, value in (("episodes", episodes), ("max_steps", max_steps)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    rng = np.random.default_rng(seed)
    first = mdp.initial if starts is None else starts
    state = rng.choice(mdp.n_states, size=episodes, p=first)
    alive = np.arange(episodes)
    columns: list[tuple[np.ndarray, ...]] = []
    for _ in range(max_steps):
        action = _draw(policy[state], rng)
        # A row of P may sum to less than 1; the draw beyond its last entry ends the episode.
        successor = _draw(mdp.P[state, action], rng)
        successor = np.where(successor < mdp.n_states, successor, ENDED)
        columns.append((state, action, mdp.R[state, action], successor, alive))
        going = successor != ENDED
        alive, state = alive[going], successor[going]
        if not len(alive):
            break
    whole = [np.concatenate(column) for column in zip(*columns, strict=True)]
    order = np.argsort(whole[-1], kind="stable")  # by episode
    return OfflineData(*(column[order] for column in whole), mdp.n_states, mdp.n_actions)


def _draw(probabilities: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One index per row of (n, k) probabilities; k where the draw lies beyond the row's sum."""
    cumulative = probabilities.cumsum(axis=1)
    complete = np.abs(cumulative[:, -1] - 1) < 1e-9
    cumulative[complete, -1] = 1
    return (rng.random(len(probabilities))[:, None] >= cumulative).sum(axis=1)


def record_paths(mdp: TabularMDP, paths: list[list[tuple[int, int]]]) -> OfflineData:
    """Data from given (state, action) paths of an MDP whose steps on them are deterministic.

    Raises ValueError for a step with several outcomes, and for a path that does not follow them.
    """
    rows = []
    for episode, path in enumerate(paths):
        for step, (state, action) in enumerate(path):
            outcome = mdp.P[state, action]
            if np.any((outcome > 0) & (outcome < 1)):
                raise ValueError(f"state {state}, action {action} has several outcomes")
            successor = int(outcome.argmax()) if outcome.any() else ENDED
            following = path[step + 1][0] if step + 1 < len(path) else successor
            if successor != following:
                raise ValueError(
                    f"path {episode}, step {step}: state {state}, action {action} leads to "
                    f"{successor}, the path goes on in {following}"
                )
            rows.append((state, action, mdp.R[state, action], successor, episode))
    columns = (np.array(column) for column in zip(*rows, strict=True))
    return OfflineData(*columns, mdp.n_states, mdp.n_actions)


def action_counts(data: OfflineData) -> np.ndarray:
    """(S, A) how often each action was recorded in each state."""
    counts = np.zeros((data.n_states, data.n_actions))
    np.add.at(counts, (data.states, data.actions), 1)
    return counts


def cloned_policy(data: OfflineData) -> np.ndarray:
    """Behavior cloning: (S, A) action frequencies, uniform in states never seen."""
    counts = action_counts(data)
    seen = counts.sum(axis=1, keepdims=True)
    return np.where(seen > 0, counts / np.maximum(seen, 1), 1 / data.n_actions)


def empirical_mdp(data: OfflineData, gamma: float) -> TabularMDP:
    """The MDP of the recorded frequencies; Q-SFT on it is Q-SFT on the data, trained to its end.

    A pair (s, a) never recorded earns nothing and ends, and so does a step into a state with no
    recorded action. Its returns are estimates and may leave [0, 1] a little; the target of Q-SFT
    is clipped to it.
    """
    counts = action_counts(data)
    P = np.zeros((data.n_states, data.n_actions, data.n_states))
    going = data.next_states != ENDED
    going[going] = counts.sum(axis=1)[data.next_states[going]] > 0
    np.add.at(P, (data.states[going], data.actions[going], data.next_states[going]), 1)
    R = np.zeros_like(counts)
    np.add.at(R, (data.states, data.actions), data.rewards)
    visits = np.maximum(counts, 1)
    first_steps = np.unique(data.episodes, return_index=True)[1]
    initial = np.bincount(data.states[first_steps], minlength=data.n_states)
    return TabularMDP(
        P / visits[:, :, None], R / visits, gamma, initial / initial.sum(), check_returns=False
    )


def returns_to_go(data: OfflineData, gamma: float) -> np.ndarray:
    """(N,) discounted sum of the rewards from each step to the end of its episode."""
    returns = data.rewards.astype(np.float64)
    for row in range(len(returns) - 2, -1, -1):
        if data.episodes[row] == data.episodes[row + 1]:
            returns[row] += gamma * returns[row + 1]
    return returns


def best_episodes(data: OfflineData, fraction: float, gamma: float) -> OfflineData:
    """The steps of the best `fraction` of the episodes by return, ties broken by their order."""
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must be in (0, 1], got {fraction}")
    episodes, first_steps = np.unique(data.episodes, return_index=True)
    returns = returns_to_go(data, gamma)[first_steps]
    kept = episodes[np.argsort(-returns, kind="stable")[: max(1, round(fraction * len(episodes)))]]
    return data.take(np.isin(data.episodes, kept))


def filtered_cloning(data: OfflineData, fraction: float, gamma: float) -> np.ndarray:
    """Filtered behavior cloning: (S, A) cloned policy of the best episodes."""
    return cloned_policy(best_episodes(data, fraction, gamma))


def monte_carlo_q(data: OfflineData, gamma: float) -> np.ndarray:
    """(S, A) mean recorded return after each pair; -inf where the pair was never recorded."""
    counts = action_counts(data)
    totals = np.zeros_like(counts)
    np.add.at(totals, (data.states, data.actions), returns_to_go(data, gamma))
    return np.where(counts > 0, totals / np.maximum(counts, 1), -np.inf)


def fitted_q(data: OfflineData, gamma: float, *, unseen: float = 0.5) -> np.ndarray:
    """(S, A) fitted Q-iteration with a max over all actions.

    unseen: the value of a pair that was never recorded. A network answers something there, and the
    max believes it; a table has to be told what.
    """
    counts = action_counts(data)
    mdp = empirical_mdp(data, gamma)
    # An unseen pair keeps its initial value: it is a step that pays `unseen` and ends.
    q = np.where(counts > 0, 0.0, unseen)
    while True:
        new_q = np.where(counts > 0, bellman_backup(mdp, q.max(axis=1)), unseen)
        if np.abs(new_q - q).max() < 1e-10:
            return new_q
        q = new_q


def conservative_q(data: OfflineData, gamma: float, *, alpha: float = 0.1) -> np.ndarray:
    """(S, A) conservative Q-learning (Kumar et al., 2020) to its end, -inf where never recorded.

    Minimises per state  alpha (logsumexp Q(s,.) - E_pi Q(s,a)) + 1/2 E_pi (Q(s,a) - y(s,a))^2 with
    pi the recorded frequencies and y = R + gamma P max_a Q. The first term drives the value of a
    pair without data to -inf, so it is left out of the max and of the logsumexp.
    """
    if not alpha > 0:
        raise ValueError(f"alpha must be positive, got {alpha}")
    counts = action_counts(data)
    seen = counts > 0
    behavior = np.where(seen, cloned_policy(data), 0)
    mdp = empirical_mdp(data, gamma)
    q = np.where(seen, 0.0, -np.inf)
    diagonal = np.eye(data.n_actions)
    for _ in range(5000):
        values = np.where(seen.any(axis=1), q.max(axis=1), 0)
        target = bellman_backup(mdp, values)
        finite_q = np.where(seen, q, 0)
        weight = np.where(seen, np.exp(finite_q - finite_q.max(axis=1, keepdims=True)), 0)
        softmax = weight / np.maximum(weight.sum(axis=1, keepdims=True), 1e-300)
        gradient = alpha * (softmax - behavior) + behavior * (finite_q - target)
        # Newton on the convex problem of each state; rows of unseen pairs are identities.
        spread = diagonal * softmax[:, :, None] - softmax[:, :, None] * softmax[:, None]
        curvature = alpha * spread + diagonal * np.where(seen, behavior, 1)[:, :, None]
        step = np.linalg.solve(curvature, np.where(seen, gradient, 0)[:, :, None])[:, :, 0]
        q = np.where(seen, q - step, -np.inf)
        if np.abs(step).max() < 1e-10:
            return q
    raise FloatingPointError(f"conservative_q(alpha={alpha}) did not settle in 5000 steps")
