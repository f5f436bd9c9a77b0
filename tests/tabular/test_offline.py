"""Recorded data and the tabular rivals, against counts by hand and independent optimisers."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qsft_lite.tabular import (
    extract_policy,
    greedy_policy,
    mdps,
    offline,
    policy_return,
    policy_value,
    probability_ratio,
    q_sft,
    value_iteration,
)

seeds = st.integers(0, 1000)


def tiny_data():
    """Two states, two actions, three episodes: (0,1) -> (1,0) paid 0.5; (0,1) ended; (0,0) paid."""
    return offline.OfflineData(
        states=np.array([0, 1, 0, 0]),
        actions=np.array([1, 0, 1, 0]),
        rewards=np.array([0.0, 0.5, 0.0, 0.2]),
        next_states=np.array([1, offline.ENDED, offline.ENDED, offline.ENDED]),
        episodes=np.array([0, 0, 1, 2]),
        n_states=2,
        n_actions=2,
    )


def test_counts_by_hand():
    data = tiny_data()
    assert data.n_episodes == 3
    assert np.array_equal(offline.action_counts(data), [[1, 2], [1, 0]])
    assert np.allclose(offline.cloned_policy(data), [[1 / 3, 2 / 3], [1, 0]])
    assert np.allclose(offline.returns_to_go(data, 0.5), [0.25, 0.5, 0, 0.2])
    q = offline.monte_carlo_q(data, 0.5)
    assert np.allclose(q, [[0.2, 0.125], [0.5, -np.inf]])
    mdp = offline.empirical_mdp(data, 0.5)
    assert np.allclose(mdp.P[0, 1], [0, 0.5]) and np.allclose(mdp.R, [[0.2, 0], [0.5, 0]])
    assert np.allclose(mdp.initial, [1, 0])


def test_best_episodes_by_hand():
    data = tiny_data()
    kept = offline.best_episodes(data, 1 / 3, gamma=0.5)
    assert np.array_equal(kept.states, [0, 1])
    assert np.allclose(offline.filtered_cloning(data, 1 / 3, 0.5), [[0, 1], [1, 0]])
    with pytest.raises(ValueError, match="fraction must be in"):
        offline.best_episodes(data, 0.0, 0.5)


def test_fitted_q_believes_what_it_never_saw():
    q = offline.fitted_q(tiny_data(), 0.5, unseen=0.9)
    assert np.allclose(q, [[0.2, 0.5 * 0.5 * 0.9], [0.5, 0.9]])
    assert np.allclose(offline.fitted_q(tiny_data(), 0.5, unseen=0.0)[0], [0.2, 0.125])


@given(seeds)
@settings(max_examples=15, deadline=None)
def test_frequencies_tend_to_the_truth(seed):
    mdp = mdps.random_mdp(4, 3, gamma=0.8, concentration=1.0, seed=seed)
    policy = mdps.random_policy(mdp, concentration=3.0, seed=seed)
    data = offline.sample_trajectories(mdp, policy, 2000, seed=seed, max_steps=20)
    assert data.n_episodes == 2000
    assert np.abs(offline.cloned_policy(data) - policy).max() < 0.06
    estimate = offline.empirical_mdp(data, 0.8)
    seen = offline.action_counts(data) > 500
    assert np.abs((estimate.P - mdp.P)[seen]).max() < 0.1
    assert np.allclose(estimate.R[seen], mdp.R[seen])


def test_sampled_returns_agree_with_the_exact_value():
    maze = mdps.gridworld(slip=0.2, gamma=0.9)
    policy = np.full((maze.mdp.n_states, 4), 0.25)
    data = offline.sample_trajectories(maze.mdp, policy, 20_000, seed=0, max_steps=200)
    first_steps = np.unique(data.episodes, return_index=True)[1]
    returns = offline.returns_to_go(data, 0.9)[first_steps]
    error = returns.std() / np.sqrt(len(returns))
    assert returns.mean() == pytest.approx(policy_return(maze.mdp, policy), abs=5 * error)


def test_sampling_is_a_function_of_the_seed_and_respects_the_start():
    maze = mdps.gridworld()
    policy = np.full((maze.mdp.n_states, 4), 0.25)
    starts = np.eye(maze.mdp.n_states)[3]
    one, two, other = (
        offline.sample_trajectories(maze.mdp, policy, 50, seed=s, starts=starts) for s in (1, 1, 2)
    )
    assert np.array_equal(one.actions, two.actions)
    assert not np.array_equal(one.actions, other.actions)
    assert (one.states[np.unique(one.episodes, return_index=True)[1]] == 3).all()


@given(seeds, st.floats(0.02, 2.0))
@settings(max_examples=10, deadline=None)
def test_conservative_q_minimises_its_loss(seed, alpha):
    # Independent truth: LBFGS on the loss as written, with the target held at its fixed point.
    mdp = mdps.random_mdp(3, 4, gamma=0.5, seed=seed)
    policy = mdps.random_policy(mdp, seed=seed)
    data = offline.sample_trajectories(mdp, policy, 200, seed=seed, max_steps=5)
    q = offline.conservative_q(data, 0.5, alpha=alpha)
    seen = offline.action_counts(data) > 0
    assert np.array_equal(np.isfinite(q), seen)
    estimate = offline.empirical_mdp(data, 0.5)
    values = np.where(seen.any(axis=1), q.max(axis=1), 0)
    target = torch.tensor(estimate.R + 0.5 * estimate.P @ values)
    behavior = torch.tensor(np.where(seen, offline.cloned_policy(data), 0))
    played = torch.tensor(seen)
    free = torch.zeros_like(target, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [free],
        max_iter=500,
        tolerance_grad=1e-12,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def loss():
        optimizer.zero_grad()
        masked = free.masked_fill(~played, -1e9)
        rows = played.any(dim=1)
        conservative = torch.logsumexp(masked, dim=1) - (behavior * free).sum(dim=1)
        fit = 0.5 * (behavior * (free - target) ** 2).sum(dim=1)
        total = (alpha * conservative + fit)[rows].sum()
        total.backward()
        return total

    optimizer.step(loss)
    assert np.allclose(free.detach().numpy()[seen], q[seen], atol=1e-5)


def test_conservative_q_refuses_a_useless_alpha():
    with pytest.raises(ValueError, match="alpha must be positive"):
        offline.conservative_q(tiny_data(), 0.5, alpha=0.0)


def stitching_data(copies=10):
    maze = mdps.stitching_maze(gamma=0.95)
    return maze, offline.record_paths(maze.mdp, mdps.stitching_paths(maze) * copies)


def test_no_recorded_trajectory_solves_the_stitching_maze():
    maze, data = stitching_data()
    start = int(maze.mdp.initial.argmax())
    for episode in np.unique(data.episodes):
        steps = data.take(data.episodes == episode)
        assert steps.rewards.sum() == 0 or start not in steps.states
    assert data.rewards.sum() == 10


def test_who_solves_the_stitching_maze():
    maze, data = stitching_data()
    best = policy_return(maze.mdp, greedy_policy(value_iteration(maze.mdp)))
    assert best == pytest.approx(0.95**9)
    # Three junctions, each leaves the corridor half of the time: exactly an eighth.
    cloned = offline.cloned_policy(data)
    assert policy_return(maze.mdp, cloned) == pytest.approx(best / 8)
    assert policy_return(maze.mdp, offline.filtered_cloning(data, 0.25, 0.95)) < 0.5 * best
    result = q_sft(offline.empirical_mdp(data, 0.95), cloned, leftover="dummy")
    ratio = probability_ratio(result.p, cloned)
    policy = extract_policy(cloned, ratio, 500.0)
    assert policy_return(maze.mdp, policy) == pytest.approx(best, rel=1e-6)
    q = offline.conservative_q(data, 0.95, alpha=0.01)
    assert policy_return(maze.mdp, greedy_policy(q)) == pytest.approx(best)


def test_q_sft_on_counts_equals_q_sft_on_the_truth_when_data_are_plenty():
    mdp = mdps.random_mdp(5, 3, gamma=0.8, concentration=1.0, seed=3)
    policy = mdps.random_policy(mdp, concentration=5.0, seed=3)
    data = offline.sample_trajectories(mdp, policy, 20_000, seed=3, max_steps=20)
    sampled = q_sft(
        offline.empirical_mdp(data, 0.8),
        offline.cloned_policy(data),
        leftover="dummy",
        backup="behavior",
    )
    assert np.allclose(1 - sampled.dummy, policy_value(mdp, policy), atol=0.01)


def test_paths_that_do_not_follow_the_mdp_are_refused():
    mdp = mdps.chain(3)
    with pytest.raises(ValueError, match="path 0, step 0: state 0, action 1 leads to 1"):
        offline.record_paths(mdp, [[(0, 1), (2, 1)]])
    with pytest.raises(ValueError, match="several outcomes"):
        offline.record_paths(mdps.gridworld(slip=0.5).mdp, [[(0, 1)]])


@pytest.mark.parametrize("seed", range(5))
def test_data_of_a_slippery_maze_are_accepted(seed):
    # The recorded reward is the expected one, so a lucky record can promise a return above 1.
    maze = mdps.gridworld(slip=0.2, gamma=0.95)
    policy = np.full((maze.mdp.n_states, 4), 0.25)
    data = offline.sample_trajectories(maze.mdp, policy, 200, seed=seed, max_steps=50)
    result = q_sft(offline.empirical_mdp(data, 0.95), offline.cloned_policy(data), leftover="dummy")
    assert result.target.min() >= 0 and result.target.max() <= 1
    assert np.isfinite(offline.fitted_q(data, 0.95)).all()


@pytest.mark.parametrize("options", [{"episodes": 0}, {"episodes": 3, "max_steps": 0}])
def test_sampling_nothing_is_refused(options):
    mdp = mdps.chain(3)
    with pytest.raises(ValueError, match="must be at least 1, got 0"):
        offline.sample_trajectories(mdp, np.full((3, 2), 0.5), seed=0, **options)
