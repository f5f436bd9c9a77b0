"""Theorem 4.1 and its edges on a known MDP; how values estimated from few records spread.

Arrays are float64, (S, A) for states by actions unless a function says otherwise.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from scipy import stats

from qsft_lite.tabular import probability_ratio, supported_actions


class Bounds(NamedTuple):
    """Theorem 4.1, Q*(s,a) >= p(a|s) >= pi(a|s) Q*(s,a): how often a half of it fails.

    upper_violations, lower_violations: shares of the entries where p > Q*, and where p < pi Q*, by
    more than rounding.
    """

    upper_violations: float
    lower_violations: float


def theorem_bounds(p: np.ndarray, behavior: np.ndarray, q_star: np.ndarray) -> Bounds:
    """Whether p (S, A) is inside the bounds of Theorem 4.1."""
    above, below = p - q_star > 1e-9, behavior * q_star - p > 1e-9
    return Bounds(float(above.mean()), float(below.mean()))


def max_bias(
    p: np.ndarray, behavior: np.ndarray, q: np.ndarray, support: float = 0.0
) -> np.ndarray:
    """(S,) by how much max_a p/pi exceeds max_a q, both over the actions with pi >= support.

    support=0 is the paper's backup, over every action that pi plays.
    """
    allowed = supported_actions(behavior, support)
    best = np.where(allowed, q, -np.inf).max(axis=1)
    return probability_ratio(p, behavior, allowed).max(axis=1) - best


def behavior_threshold(n_actions: int, target: float, tolerance: float) -> float:
    """Below which pi(a) the leak alone errs by more than `tolerance` in p/pi.

    When every action of a state has the same weight y, Eq. 3's minimiser is
    p/pi = y + (1 - y) (1/pi - 1) / (A - 1), so the error of p/pi stays within `tolerance` while
    pi >= 1 / (1 + tolerance (A - 1) / (1 - y)). For 1 - y = tolerance that is 1 / A.
    """
    if target >= 1:
        return 0.0
    return 1 / (1 + tolerance * (n_actions - 1) / (1 - target))


# How q(a) is read from records of one state: one dummy and p(a)/pi(a), with pi known, or counted in
# other records, or in the same ones; or a dummy for every action, which needs no division.
Estimate = Literal["known policy", "other counts", "same counts", "paired"]


class RecordFit(NamedTuple):
    """The minimisers of the three losses on records of one state.

    behavior: (..., A) of the cross-entropy. p: (..., A) and dummy: (...,) of the loss with one
    dummy. q: (..., A) of the paired loss; NaN where the records lack the action, since no term of
    that loss then holds q, and training would leave it where it was.
    """

    behavior: np.ndarray
    p: np.ndarray
    dummy: np.ndarray
    q: np.ndarray


def fit_records(actions: np.ndarray, outcomes: np.ndarray, n_actions: int) -> RecordFit:
    """Fit pi, p and q to N records of one state: the action, and its outcome y in [0, 1].

    Each loss is a sum of weights times logarithms, smallest at the weights' shares:
      cross-entropy  -log pi(a)                                   pi(a) = n(a) / N
      one dummy      -[y log p(a) + (1 - y) log p(d)]             p(a) = (sum of y where a) / N
      paired         -log pi(a) - [y log q(a) + (1 - y) log(1 - q(a))]   q(a) = mean of y where a

    actions: (..., N) integers below n_actions. outcomes: (..., N). Leading axes are sets of
    records, fitted one by one.
    """
    taken = actions[..., None] == np.arange(n_actions)
    counts = taken.sum(axis=-2)
    totals = np.einsum("...na,...n->...a", taken, outcomes)
    behavior, p = counts / actions.shape[-1], totals / actions.shape[-1]
    q = np.divide(totals, counts, out=np.full_like(p, np.nan), where=counts > 0)
    return RecordFit(behavior, p, 1 - p.sum(axis=-1), q)


class Spread(NamedTuple):
    """Mean and variance of an estimate, from one set of records to the next."""

    mean: float
    variance: float

    @property
    def deviation(self) -> float:
        """The standard deviation."""
        return self.variance**0.5


def value_spread(
    n_records: int, probability: float, value: float, variance: float
) -> dict[Estimate, Spread]:
    """How the estimates of q(a) spread, in closed form and exactly, for every N.

    n_records: N, drawn independently from one state, in which a is taken with `probability` pi. Its
    outcome y in [0, 1] has mean `value` q and variance sigma^2: q (1 - q) when y is 0 or 1, and 0
    when a always ends alike. n is how many records take a: binomial(N, pi).

    p(a) is the mean of N independent numbers, y where a is taken and else 0, so
    Var p(a) = (pi (sigma^2 + q^2) - pi^2 q^2) / N. From it, with the values for large N pi behind:
      known policy  p(a) / pi          variance (sigma^2 / pi + q^2 (1/pi - 1)) / N
      other counts  p(a) / (n' / N)    n' the count of a in N other records:
                                       about (sigma^2 / pi + 2 q^2 (1/pi - 1)) / N, and biased
      same counts   p(a) / (n / N)     the N cancels: mean of y where a is taken
      paired        q(a)               the same: variance sigma^2 E[1/n], about sigma^2 / (pi N)
    The last three need a record of a, and are meant given n >= 1 (or n' >= 1).

    Raises ValueError for N < 1, pi outside (0, 1], q outside [0, 1], or a variance that no outcome
    in [0, 1] of mean q has.
    """
    _check_outcomes(n_records, probability, value, variance)
    mean_p = probability * value
    variance_p = probability * (variance + value**2 * (1 - probability)) / n_records
    # p(a) and n' are independent, so the moments of their quotient are products.
    inverse = n_records * _mean_inverse_count(n_records, probability, 1)
    inverse_square = n_records**2 * _mean_inverse_count(n_records, probability, 2)
    noise_of_count = max(inverse_square - inverse**2, 0.0)  # 0 but for rounding when pi = 1
    mean_of_taken = Spread(value, variance * inverse / n_records)
    return {
        "known policy": Spread(value, variance_p / probability**2),
        "other counts": Spread(
            mean_p * inverse, variance_p * inverse_square + mean_p**2 * noise_of_count
        ),
        "same counts": mean_of_taken,
        "paired": mean_of_taken,
    }


def simulate_values(
    n_records: int,
    probability: float,
    value: float,
    variance: float,
    *,
    repetitions: int,
    seed: int,
) -> dict[Estimate, np.ndarray]:
    """The estimates of `value_spread`, by minimising the losses on drawn records.

    Returns an array (repetitions,) for each, NaN where the records (for "other counts" the other
    ones) never take the action. Outcomes of the given mean and variance are constant, 0 or 1, or
    between them beta-distributed.
    Raises ValueError as `value_spread` does.
    """
    _check_outcomes(n_records, probability, value, variance)
    rng = np.random.default_rng(seed)
    shape = (repetitions, n_records)

    def draw_and_fit() -> RecordFit:
        actions = (rng.random(shape) >= probability).astype(int)  # 0 is a, 1 stands for the rest
        return fit_records(actions, _draw_outcomes(rng, shape, value, variance), 2)

    fit, other = draw_and_fit(), draw_and_fit()
    p = fit.p[:, 0]

    def quotient(behavior: np.ndarray) -> np.ndarray:
        return np.divide(p, behavior, out=np.full_like(p, np.nan), where=behavior > 0)

    return {
        "known policy": p / probability,
        "other counts": quotient(other.behavior[:, 0]),
        "same counts": quotient(fit.behavior[:, 0]),
        "paired": fit.q[:, 0],
    }


def _mean_inverse_count(n_records: int, probability: float, power: int) -> float:
    """E[1 / n^power | n >= 1] for n binomial(n_records, probability)."""
    counts = np.arange(1.0, n_records + 1)
    weights = stats.binom.pmf(counts, n_records, probability)
    return float((weights / counts**power).sum() / weights.sum())


def _draw_outcomes(
    rng: np.random.Generator, shape: tuple[int, ...], value: float, variance: float
) -> np.ndarray:
    largest = value * (1 - value)
    if variance == 0:
        return np.full(shape, value)
    if variance >= largest:
        return (rng.random(shape) < value).astype(float)
    concentration = largest / variance - 1
    return rng.beta(value * concentration, (1 - value) * concentration, size=shape)


def _check_outcomes(n_records: int, probability: float, value: float, variance: float) -> None:
    if n_records < 1:
        raise ValueError(f"n_records must be at least 1, got {n_records}")
    if not 0 < probability <= 1:
        raise ValueError(f"probability must be in (0, 1], got {probability}")
    if not 0 <= value <= 1:
        raise ValueError(f"value must be in [0, 1], got {value}")
    largest = value * (1 - value)
    if not 0 <= variance <= largest + 1e-12:
        raise ValueError(
            f"variance must be in [0, {largest:.6g}] for outcomes in [0, 1] of mean {value}, "
            f"got {variance}"
        )
