"""Finite decision processes with exact answers, and Q-SFT's fixed points on them.

Arrays are float64. S is the number of states, A the number of actions. A state that ends the
episode is not a row of its own: a row of `P` that sums to less than 1 ends with the rest.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

Leftover = Literal["uniform", "dummy", "paired"]
Backup = Literal["max", "support", "behavior"]


@dataclass(frozen=True, eq=False)
class TabularMDP:
    """A finite Markov decision process whose discounted returns stay in [0, 1].

    P: (S, A, S) transition probabilities; a row may sum to less than 1, the rest ends the episode.
    R: (S, A) expected reward of taking the action.
    gamma: discount per step, in [0, 1).
    initial: (S,) distribution of the first state; uniform when None.
    check_returns: False for an MDP estimated from data, whose returns may leave [0, 1] by noise.

    Raises ValueError, naming the state and the action, for wrong shapes, NaN, negative
    probabilities, row sums above 1, gamma outside [0, 1), or rewards with which some policy's
    expected discounted return leaves [0, 1] (assumption 4.1 of the paper).
    """

    P: np.ndarray
    R: np.ndarray
    gamma: float
    initial: np.ndarray | None = None
    check_returns: bool = True

    def __post_init__(self) -> None:
        P = np.asarray(self.P, dtype=np.float64)
        R = np.asarray(self.R, dtype=np.float64)
        if P.ndim != 3 or P.shape[0] != P.shape[2]:
            raise ValueError(f"P must have shape (S, A, S), got {P.shape}")
        if P.size == 0:
            raise ValueError(f"P must have at least one state and one action, got shape {P.shape}")
        if R.shape != P.shape[:2]:
            raise ValueError(f"R must have shape (S, A) = {P.shape[:2]}, got {R.shape}")
        if not 0 <= self.gamma < 1:
            raise ValueError(f"gamma must be in [0, 1), got {self.gamma}")
        uniform = np.full(len(R), 1 / len(R))
        initial = np.asarray(uniform if self.initial is None else self.initial, dtype=np.float64)
        for name, value in (("P", P), ("R", R), ("gamma", float(self.gamma)), ("initial", initial)):
            object.__setattr__(self, name, value)
        _check_numbers(P, R)
        _check_distribution(initial, (len(R),), "initial")
        if self.check_returns:
            _check_returns(self)

    @property
    def n_states(self) -> int:
        """S."""
        return self.R.shape[0]

    @property
    def n_actions(self) -> int:
        """A."""
        return self.R.shape[1]


@dataclass(frozen=True, eq=False)
class QSFTFixedPoint:
    """What Q-SFT converges to on a known MDP.

    p: (S, A) the trained probabilities. dummy: (S,) the mass on the dummy action, or on all of them
    ("paired"), zero for the uniform leftover. target: (S, A) the weight y of the loss. residual:
    max |y - next y|. converged: residual <= tol.
    """

    p: np.ndarray
    dummy: np.ndarray
    target: np.ndarray
    residual: float
    converged: bool


def bellman_backup(mdp: TabularMDP, values: np.ndarray) -> np.ndarray:
    """Q(s, a) = R(s, a) + gamma * sum_s' P(s'|s, a) V(s').  values (S,) -> (S, A)."""
    continuation = mdp.P.reshape(-1, mdp.n_states) @ values
    return mdp.R + mdp.gamma * continuation.reshape(mdp.R.shape)


def policy_value(mdp: TabularMDP, policy: np.ndarray) -> np.ndarray:
    """V (S,) of a policy (S, A), by solving (I - gamma P_policy) V = R_policy."""
    policy = check_policy(mdp, policy, "policy")
    transition = np.einsum("sa,sat->st", policy, mdp.P)
    reward = np.einsum("sa,sa->s", policy, mdp.R)
    return np.linalg.solve(np.eye(mdp.n_states) - mdp.gamma * transition, reward)


def policy_return(mdp: TabularMDP, policy: np.ndarray) -> float:
    """Expected discounted return of a policy from the initial distribution."""
    return float(mdp.initial @ policy_value(mdp, policy))


def greedy_policy(q: np.ndarray) -> np.ndarray:
    """(S, A) policy that takes the first action of largest q in every state."""
    return np.eye(q.shape[1])[q.argmax(axis=1)]


def value_iteration(mdp: TabularMDP, tol: float = 1e-10) -> np.ndarray:
    """Q* (S, A), the fixed point of Q = R + gamma P max_a Q, to `tol` in every entry.

    Every sweep is followed by the exact value of the greedy policy (policy iteration), so a
    handful of sweeps is enough where plain sweeps need log(tol) / log(gamma).
    """
    values = np.zeros(mdp.n_states)
    greedy = None
    while True:
        q = bellman_backup(mdp, values)
        residual = np.abs(q.max(axis=1) - values).max()
        if residual * mdp.gamma <= tol * (1 - mdp.gamma):
            return q
        new_greedy = q.argmax(axis=1)
        # Equal actions must not flip back and forth on rounding: change only for a real gain.
        if greedy is not None:
            states = np.arange(mdp.n_states)
            gain = q[states, new_greedy] - q[states, greedy]
            new_greedy = np.where(gain > 1e-13, new_greedy, greedy)
            if np.array_equal(new_greedy, greedy):
                return q
        greedy = new_greedy
        values = policy_value(mdp, np.eye(mdp.n_actions)[greedy])


def q_sft_probabilities(
    behavior: np.ndarray, target: np.ndarray, leftover: Leftover
) -> tuple[np.ndarray, np.ndarray]:
    """The minimiser of the expected Q-SFT loss when the data's actions follow `behavior`.

    dummy:    p(a) = pi(a) y(a),   p(dummy) = 1 - sum_a p(a)
    paired:   p(a) = pi(a) y(a),   p(d_a) = pi(a) (1 - y(a)),   p(dummy) = sum_a p(d_a)   (ours)
    uniform:  p(a) = pi(a) y(a) + sum_{b != a} pi(b) (1 - y(b)) / (A - 1),   p(dummy) = 0

    "paired" gives every action a dummy d_a of its own and q(a) = p(a) / pi(a). Since pi sums to 1,
    its dummies together hold what the one dummy holds: both forms have the same p and p(dummy).

    behavior, target (S, A) -> p (S, A) and p(dummy) (S,). Raises ValueError for another leftover.
    """
    _check_choice(leftover, get_args(Leftover), "leftover")
    weighted = behavior * target
    if leftover == "uniform":
        return weighted + leaked_mass(behavior, target), np.zeros(len(behavior))
    return weighted, 1 - weighted.sum(axis=1)


def leaked_mass(behavior: np.ndarray, target: np.ndarray) -> np.ndarray:
    """What the uniform leftover adds to p: sum_{b != a} pi(b) (1 - y(b)) / (A - 1).  (S, A)."""
    spare = behavior * (1 - target)
    return (spare.sum(axis=1, keepdims=True) - spare) / (behavior.shape[1] - 1)


def q_sft(
    mdp: TabularMDP,
    behavior: np.ndarray,
    *,
    leftover: Leftover = "uniform",
    backup: Backup = "max",
    support: float = 0.0,
    clamp: bool = True,
    tol: float = 1e-10,
) -> QSFTFixedPoint:
    """Q-SFT trained to its end on unlimited data of the policy `behavior` (S, A).

    The fixed point of  y = R + gamma P v,  p = minimiser(behavior, y),  where v(s) is
      backup="max"       max of p/pi over the actions with pi > 0      (the paper's)
      backup="support"   the same over the actions with pi >= support  (ours)
      backup="behavior"  sum_a p(a|s) over the real actions            (ours)
    and y is clipped to [0, 1] when `clamp`. With leftover="paired", p/pi is q(a|s) and sum_a p(a|s)
    its expectation under pi: target and fixed point are those of "dummy", for every backup.
    In a state where no action reaches `support`, the most likely one (all of them in a tie) is
    used. With the uniform leftover p always sums to 1, so its "behavior" backup is 1 whatever the
    rewards: Eq. 3 cannot say what a state is worth.

    A fixed point that is not reached to `tol` is returned with a RuntimeWarning and
    `converged=False`: with the uniform leftover the map is no contraction once pi is small.
    """
    behavior = check_policy(mdp, behavior, "behavior")
    _check_choice(leftover, get_args(Leftover), "leftover")
    _check_choice(backup, get_args(Backup), "backup")
    if not 0 <= support <= 1:
        raise ValueError(f"support must be a probability in [0, 1], got {support}")
    if leftover == "uniform" and mdp.n_actions < 2:
        raise ValueError("leftover='uniform' needs at least two actions to spread over")
    allowed = supported_actions(behavior, support if backup == "support" else 0.0)

    def sweep(target: np.ndarray) -> np.ndarray:
        weight, constant = _linear_state_value(behavior, target, leftover, backup, allowed)
        values = constant + (weight * target).sum(axis=1)
        return _clip(bellman_backup(mdp, values), clamp)

    def newton(target: np.ndarray) -> np.ndarray:
        weight, constant = _linear_state_value(behavior, target, leftover, backup, allowed)
        return _clip(_solve_linear(mdp, target, weight, constant, clamp), clamp)

    target, residual = _find_fixed_point(sweep, newton, np.zeros_like(mdp.R), tol)
    converged = residual <= tol
    if not converged:
        warnings.warn(
            f"q_sft(leftover={leftover!r}, backup={backup!r}) did not settle: the target still "
            f"moves by {residual:.1e} per sweep (smallest behavior probability "
            f"{behavior[behavior > 0].min():.1e})",
            RuntimeWarning,
            stacklevel=2,
        )
    p, dummy = q_sft_probabilities(behavior, target, leftover)
    return QSFTFixedPoint(p, dummy, target, residual, converged)


def supported_actions(behavior: np.ndarray, support: float) -> np.ndarray:
    """(S, A) bool: the played actions with pi >= support; where there is none, the most likely."""
    likely = (behavior >= support) | (behavior == behavior.max(axis=1, keepdims=True))
    return likely & (behavior > 0)


def _linear_state_value(
    behavior: np.ndarray, target: np.ndarray, leftover: str, backup: str, allowed: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The backup at `target` written as v(s) = constant(s) + sum_a weight(s, a) y(s, a)."""
    n_states, n_actions = behavior.shape
    states = np.arange(n_states)
    if backup == "behavior":
        if leftover == "uniform":
            return np.zeros_like(behavior), np.ones(n_states)
        return behavior, np.zeros(n_states)
    p, _ = q_sft_probabilities(behavior, target, leftover)
    best = probability_ratio(p, behavior, allowed).argmax(axis=1)
    weight = np.zeros_like(behavior)
    constant = np.zeros(n_states)
    if leftover == "uniform":
        weight = -behavior / ((n_actions - 1) * behavior[states, best][:, None])
        weight[states, best] = 0
        constant = -weight.sum(axis=1)
    weight[states, best] = 1
    return weight, constant


def probability_ratio(
    p: np.ndarray, behavior: np.ndarray, allowed: np.ndarray | None = None
) -> np.ndarray:
    """p / pi (S, A), and -inf where the ratio does not exist (pi = 0) or is not allowed."""
    allowed = behavior > 0 if allowed is None else allowed & (behavior > 0)
    return np.where(allowed, p / np.where(allowed, behavior, 1), -np.inf)


def _solve_linear(
    mdp: TabularMDP, target: np.ndarray, weight: np.ndarray, constant: np.ndarray, clamp: bool
) -> np.ndarray:
    """One Newton step: the best actions and the clipped entries stay, the rest is solved for.

    For the dummy and the paired leftover this is a step of policy iteration.
    """
    raw = bellman_backup(mdp, constant + (weight * target).sum(axis=1))
    free = (raw > 0) & (raw < 1) if clamp else np.ones_like(raw, dtype=bool)
    fixed_part = constant + (weight * np.where(free, mdp.R, np.clip(raw, 0, 1))).sum(axis=1)
    matrix = np.eye(mdp.n_states) - mdp.gamma * np.einsum("sa,sat->st", weight * free, mdp.P)
    try:
        return bellman_backup(mdp, np.linalg.solve(matrix, fixed_part))
    except np.linalg.LinAlgError:
        return target


def _find_fixed_point(sweep, newton, target: np.ndarray, tol: float) -> tuple[np.ndarray, float]:
    """Averaged sweeps with a Newton step now and then; returns the target and its residual.

    The step is halved when sweeps stop helping, which is what the paper's moving average of the
    target network does. Gives up when the smallest step does not help either.
    """
    step, best, waited = 1.0, np.inf, 0
    for count in itertools.count():
        moved = sweep(target)
        residual = float(np.abs(moved - target).max())
        if not np.isfinite(residual):
            raise FloatingPointError("the target diverges: use clamp=True")
        if residual <= tol:
            return target, residual
        if count % 10 == 1:
            jump = newton(target)
            if np.abs(sweep(jump) - jump).max() < 0.5 * residual:
                target = jump
                continue
        waited = 0 if residual < 0.9 * best else waited + 1
        best = min(best, residual)
        if waited >= 20:
            if step <= 1 / 64:
                return target, residual
            step, best, waited = step / 2, np.inf, 0
        target = target + step * (moved - target)


def extract_policy(behavior: np.ndarray, score: np.ndarray, beta: float) -> np.ndarray:
    """pi_hat(a|s) proportional to behavior(a|s) * exp(beta * score(s, a)).  (S, A) each.

    The paper's score is p; p/pi is ours. Entries of `score` where behavior is 0 are ignored.
    Raises ValueError for a score that is NaN or infinite where behavior is positive.
    """
    behavior = np.asarray(behavior, dtype=np.float64)
    score = np.asarray(score, dtype=np.float64)
    if behavior.shape != score.shape:
        raise ValueError(f"behavior has shape {behavior.shape}, score {score.shape}: must be equal")
    if not np.isfinite(beta):
        raise ValueError(f"beta must be finite, got {beta}")
    played = behavior > 0
    for at in _places(played & ~np.isfinite(score)):
        raise ValueError(f"score at (state, action) {at} is {score[at]}, must be finite")
    exponent = np.where(played, beta * np.where(played, score, 0), -np.inf)
    weight = behavior * np.exp(exponent - exponent.max(axis=-1, keepdims=True))
    return weight / weight.sum(axis=-1, keepdims=True)


def _clip(target: np.ndarray, clamp: bool) -> np.ndarray:
    return np.clip(target, 0, 1) if clamp else target


def _check_choice(value: str, choices: tuple[str, ...], name: str) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def _check_distribution(array: np.ndarray, shape: tuple[int, ...], name: str) -> None:
    """Raise unless `array` has `shape` and its last axis sums to 1 without negative entries."""
    if array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {array.shape}")
    for at in _places(~(array >= 0)):
        raise ValueError(f"{name} has {array[at]} at index {at}, must be a probability")
    totals = array.sum(axis=-1)
    for at in _places(np.abs(totals - 1) > 1e-8):
        row = f" in state {at[0]}" if at else ""
        raise ValueError(f"{name} must sum to 1{row}, got {totals[at]}")


def check_policy(mdp: TabularMDP, policy: np.ndarray, name: str) -> np.ndarray:
    """The policy as float64 (S, A); ValueError, with `name`, unless each row is a distribution."""
    policy = np.asarray(policy, dtype=np.float64)
    _check_distribution(policy, mdp.R.shape, name)
    return policy


def _check_numbers(P: np.ndarray, R: np.ndarray) -> None:
    for state, action, successor in _places(~(P >= 0)):
        raise ValueError(
            f"P[{state}, {action}, {successor}] = {P[state, action, successor]}: the probability "
            f"of going from state {state} by action {action} to state {successor} is no probability"
        )
    totals = P.sum(axis=2)
    for state, action in _places(~(totals <= 1 + 1e-9)):
        raise ValueError(
            f"P[{state}, {action}] sums to {totals[state, action]}: the transitions of state "
            f"{state}, action {action} may sum to at most 1"
        )
    for state, action in _places(~np.isfinite(R)):
        raise ValueError(f"R at state {state}, action {action} is {R[state, action]}")


def _places(wrong: np.ndarray) -> Iterator[tuple[int, ...]]:
    """Indices of the true entries of a bool array: who raises at one has named the first."""
    return (tuple(int(i) for i in index) for index in np.argwhere(wrong))


def _check_returns(mdp: TabularMDP) -> None:
    """Assumption 4.1: no policy's expected discounted return leaves [0, 1]."""
    if mdp.R.min() >= 0 and mdp.R.max() <= 1 - mdp.gamma:
        return
    tolerance = 1e-9
    for sign, bound in ((1, 1), (-1, 0)):  # the highest returns, and the lowest
        signed = replace(mdp, R=sign * mdp.R, check_returns=False)
        extreme = value_iteration(signed, tolerance)
        if extreme.max() > sign * bound + tolerance:
            state, action = np.unravel_index(extreme.argmax(), extreme.shape)
            total = f"{sign * extreme.max():.6g}"
            remedy = f"Divide R by {total}, or lower gamma" if sign > 0 else "Shift or rescale R"
            raise ValueError(
                f"rewards can total {total} from state {state}, action {action}: returns must stay "
                f"in [0, 1]. {remedy}"
            )
