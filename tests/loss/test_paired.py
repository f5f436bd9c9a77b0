"""The paired loss against its formula in plain Python, on logits and from hidden states."""

import decimal
import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from largest_tensor import LargestTensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import loss as benchmark
from qsft_lite.loss import linear_paired_q_sft_loss, paired_q_sft_loss, paired_values, single_logits

NAN, INF = math.nan, math.inf
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
PRIORS = (0.5, 0.03, 0.9, 1e-6)


# The truth: one position at a time, in double precision, from the formula


def naive_value(z_theta: float, z_phi: float, prior: float) -> float:
    """q = sigmoid(z_theta - z_phi + c), by its odds, which go to 0 and never overflow."""
    x = z_theta - z_phi + math.log(prior / (1 - prior))
    odds = math.exp(-abs(x))
    return 1 / (1 + odds) if x >= 0 else odds / (1 + odds)


def naive_loss(z_theta: float, z_phi: float, y: float, prior: float) -> float:
    """-[y log q + (1 - y) log(1 - q)], with log q = -log(1 + exp(-x))."""
    x = z_theta - z_phi + math.log(prior / (1 - prior))
    smaller = math.log1p(math.exp(-abs(x)))
    log_q, log_rest = min(x, 0) - smaller, min(-x, 0) - smaller
    return -(y * log_q + (1 - y) * log_rest)


def naive_gradient(z_theta: float, z_phi: float, y: float, prior: float) -> float:
    """With respect to z_theta."""
    return naive_value(z_theta, z_phi, prior) - y


@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("y", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("difference", [-40.0, -3.0, 0.0, 0.7, 40.0])
def test_the_twin_is_the_formula_in_sixty_digits(difference, y, prior):
    with decimal.localcontext(prec=60):
        c = (decimal.Decimal(prior) / (1 - decimal.Decimal(prior))).ln()
        q = 1 / (1 + (-(decimal.Decimal(difference) + c)).exp())
        weight = decimal.Decimal(y)
        exact = -(weight * q.ln() + (1 - weight) * (1 - q).ln())
    assert naive_loss(difference, 0.0, y, prior) == pytest.approx(float(exact), rel=1e-12)
    assert naive_value(difference, 0.0, prior) == pytest.approx(float(q), rel=1e-12)


# Random cases


class Case:
    """Random inputs of the loss; masked positions hold garbage that must never matter."""

    def __init__(self, shape, vocabulary, scale, prior, masked, dtypes, seed):
        rng = np.random.default_rng(seed)
        self.vocabulary, self.scale, self.prior = vocabulary, scale, prior
        scores = rng.uniform(-scale, scale, (2, *shape, vocabulary))
        self.logits = torch.tensor(scores[0]).to(dtypes[0])
        self.behavior_logits = torch.tensor(scores[1]).to(dtypes[1])
        self.double = torch.float64 in dtypes
        self.target = torch.tensor(rng.choice([0.0, 1.0, 0.5, rng.random()], shape)).float()
        self.actions = torch.tensor(rng.integers(0, vocabulary, shape))
        self.mask = None
        if masked:
            self.mask = torch.tensor(rng.random(shape) < 0.6)
            self.mask.view(-1)[rng.integers(self.mask.numel())] = True
            for tensor in (self.logits, self.behavior_logits, self.target):
                tensor[~self.mask] = NAN
            self.actions[~self.mask] = -100
        self.positions = [i for i in np.ndindex(*shape) if self.mask is None or bool(self.mask[i])]

    def loss(self, logits=None, **options):
        logits = self.logits if logits is None else logits
        options.setdefault("prior", self.prior)
        given = (self.behavior_logits, self.actions, self.target, self.mask)
        return paired_q_sft_loss(logits, *given, **options)

    def at(self, function) -> torch.Tensor:
        """A naive function at the used positions, 0 at the others, in float64."""
        found = torch.zeros(self.actions.shape, dtype=torch.float64)
        for i in self.positions:
            taken = (*i, int(self.actions[i]))
            scores = self.logits[taken].item(), self.behavior_logits[taken].item()
            found[i] = function(*scores, self.target[i].item(), self.prior)
        return found


@st.composite
def cases(draw, dtypes=DTYPES):
    return Case(
        shape=tuple(draw(st.lists(st.integers(1, 4), max_size=2))),
        vocabulary=draw(st.integers(1, 300)),
        scale=draw(st.sampled_from((0.1, 5.0, 100.0, 1e4))),
        prior=draw(st.sampled_from(PRIORS)),
        masked=draw(st.booleans()),
        dtypes=(draw(st.sampled_from(dtypes)), draw(st.sampled_from(dtypes))),
        seed=draw(st.integers(0, 2**32 - 1)),
    )


def check_against_the_truth(case: Case) -> None:
    logits = case.logits.clone().requires_grad_()
    losses = case.loss(logits, reduction="none")
    assert losses.dtype == (torch.float64 if case.double else torch.float32)
    # What is lost is the rounding of a difference of numbers as large as scale.
    epsilon = 4 * torch.finfo(losses.dtype).eps
    tolerance = epsilon * (20 + case.scale)
    expected = case.at(naive_loss)
    torch.testing.assert_close(losses.detach().double(), expected, rtol=epsilon, atol=tolerance)
    assert (losses >= 0).all()
    total, used = expected.sum().item(), len(case.positions)
    summed = case.loss(reduction="sum").item()
    assert summed == pytest.approx(total, rel=epsilon * used, abs=tolerance * used)
    assert case.loss().item() == pytest.approx(
        total / used, rel=epsilon * used, abs=tolerance * used
    )

    losses.sum().backward()
    assert logits.grad.dtype == case.logits.dtype
    taken, found = where_taken(case), case.at(naive_gradient)
    expected = torch.zeros(logits.shape, dtype=torch.float64)
    expected[taken] = torch.stack([found[i] for i in case.positions])
    rounding = {torch.bfloat16: 2**-8, torch.float16: 2**-10}.get(logits.dtype, epsilon)
    gradient = logits.grad.double()
    torch.testing.assert_close(gradient, expected, rtol=rounding, atol=tolerance + 1e-7)
    assert (gradient[~taken] == 0).all()  # zero to the last bit


def where_taken(case: Case) -> torch.Tensor:
    """Where the actions taken are among the logits."""
    places = torch.zeros(case.logits.shape, dtype=torch.bool)
    for i in case.positions:
        places[(*i, int(case.actions[i]))] = True
    return places


@given(cases())
@settings(max_examples=200)
def test_loss_and_gradient_equal_plain_python(case):
    check_against_the_truth(case)


@given(cases())
@settings(max_examples=100)
def test_everything_stays_finite_and_every_value_in_the_unit_interval(case):
    logits = case.logits.clone().requires_grad_()
    loss = case.loss(logits)
    loss.backward()
    assert loss.isfinite() and logits.grad.isfinite().all()
    for i in case.positions:
        q = paired_values(case.logits[i], case.behavior_logits[i], case.prior)
        assert ((q >= 0) & (q <= 1)).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_large_vocabulary(dtype):
    case = Case((3,), 50_257, 20.0, 0.3, True, (dtype, dtype), seed=1)
    check_against_the_truth(case)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_costs_the_rounding_of_the_logits_and_no_more(dtype):
    """The loss changes by at most 1 for a change of 1 in either logit, and q by a quarter."""
    exact = Case((300,), 5, 20.0, 0.5, False, (torch.float64, torch.float64), seed=2)
    half = exact.logits.to(dtype), exact.behavior_logits.to(dtype)
    taken = exact.actions[:, None]
    rounding = (half[0].double() - exact.logits).abs()
    rounding = (rounding + (half[1].double() - exact.behavior_logits).abs()).gather(1, taken)[:, 0]
    losses = exact.loss(reduction="none")
    rounded = paired_q_sft_loss(*half, exact.actions, exact.target, reduction="none")
    assert ((rounded - losses).abs() <= rounding + 1e-5).all()
    values = paired_values(exact.logits, exact.behavior_logits).gather(1, taken)[:, 0]
    rounded = paired_values(*half).gather(1, taken)[:, 0]
    assert rounded.dtype == torch.float32
    assert ((rounded - values).abs() <= rounding / 4 + 1e-6).all()
    if dtype == torch.bfloat16:  # and that much is lost: caches must be float32
        assert (rounded - values).abs().max() > 0.005


def test_hand_sized_numbers():
    """q = 3/4 where training has tripled the odds of a prior of 1/2; y = 1, 0 and 1/2."""
    logits = torch.tensor([[math.log(6.0), 9.0]] * 3, dtype=torch.float64)
    behavior_logits = torch.tensor([[math.log(2.0), 1.0]] * 3, dtype=torch.float64)
    target = torch.tensor([1.0, 0.0, 0.5], dtype=torch.float64)
    actions = torch.zeros(3, dtype=torch.long)
    losses = paired_q_sft_loss(logits, behavior_logits, actions, target, reduction="none")
    log4, log3 = math.log(4), math.log(3)
    expected = [log4 - log3, log4, (2 * log4 - log3) / 2]
    torch.testing.assert_close(losses, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("prior", PRIORS)
def test_values_begin_as_the_prior(prior):
    logits = 1e4 * torch.randn(4, 7, dtype=torch.float64)
    values = paired_values(logits, logits.clone(), prior)
    torch.testing.assert_close(values, torch.full_like(values, prior), rtol=1e-14, atol=0)
    y = torch.rand(4, dtype=torch.float64)
    loss = paired_q_sft_loss(logits, logits, torch.tensor([0, 3, 3, 6]), y, prior=prior)
    expected = -(y * math.log(prior) + (1 - y) * math.log1p(-prior)).mean()
    torch.testing.assert_close(loss, expected)


@given(cases(dtypes=(torch.float64,)), st.floats(-50, 50))
@settings(max_examples=50)
def test_only_a_shift_of_both_networks_changes_nothing(case, shift):
    """The reference must be the network that training began with, its raw logits unnormalized."""
    loss = case.loss()
    case.logits += shift
    case.behavior_logits += shift
    torch.testing.assert_close(case.loss(), loss, rtol=1e-12, atol=1e-11 * (1 + case.scale))
    values = paired_values(case.logits, case.behavior_logits)
    case.behavior_logits -= shift
    shifted = paired_values(case.logits, case.behavior_logits)
    odds = (values.logit() + shift).sigmoid()
    moderate = (values > 1e-6) & (values < 1 - 1e-6)
    torch.testing.assert_close(shifted[moderate], odds[moderate], rtol=1e-6, atol=1e-6)


def test_a_shift_of_one_network_changes_the_loss():
    case = Case((5,), 7, 3.0, 0.5, False, (torch.float64, torch.float64), seed=3)
    loss = case.loss()
    normalized = case.logits.log_softmax(-1)  # which changes no probability of the network
    assert abs(case.loss(normalized) - loss) > 0.1


@pytest.mark.parametrize("mask_dtype", [torch.bool, torch.int64, torch.float32])
def test_mask_may_be_bool_or_numbers(mask_dtype):
    case = Case((3, 4), 5, 2.0, 0.5, True, (torch.float64, torch.float64), seed=2)
    expected = case.loss()
    case.mask = case.mask.to(mask_dtype)
    assert torch.equal(case.loss(), expected)


# From hidden states


class LinearCase:
    """The same problem twice: as hidden states and head, and as the logits that they make."""

    def __init__(self, case: Case, hidden_size: int, dtype: torch.dtype = torch.float64):
        generator = torch.Generator().manual_seed(0)
        shape = (*case.actions.shape, hidden_size)
        hidden = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
        weight = torch.randn(case.vocabulary, hidden_size, generator=generator, dtype=torch.float64)
        weight = weight.to(dtype)
        safe = case.actions.clamp(min=0)[..., None]
        self.case, self.taken = case, case.behavior_logits.gather(-1, safe)[..., 0]
        # Masked states are 0 for the logits, for NaN times a gradient of 0 is NaN.
        self.clean = hidden.clone()
        if case.mask is not None:
            self.clean[~case.mask] = 0
            hidden[~case.mask] = NAN
        self.hidden, self.weight = hidden.requires_grad_(), weight.requires_grad_()

    def loss(self, hidden=None, weight=None, **options):
        case = self.case
        options.setdefault("prior", case.prior)
        return linear_paired_q_sft_loss(
            self.hidden if hidden is None else hidden,
            self.weight if weight is None else weight,
            *(self.taken, case.actions, case.target, case.mask),
            **options,
        )

    def on_logits(self) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Loss and gradients by all logits, in float64."""
        hidden = self.clean.double().requires_grad_()
        weight = self.weight.detach().double().requires_grad_()
        loss = self.case.loss(hidden @ weight.T)
        return loss, list(torch.autograd.grad(loss, (hidden, weight)))


@given(case=cases(dtypes=(torch.float64, torch.float32)), hidden_size=st.integers(1, 5))
@settings(max_examples=100)
def test_from_hidden_states_as_on_logits(case, hidden_size):
    linear = LinearCase(case, hidden_size)
    loss = linear.loss()
    assert loss.dtype == torch.float64 and loss.ndim == 0
    expected, truth = linear.on_logits()
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-10)
    hidden_gradient, weight_gradient = torch.autograd.grad(loss, (linear.hidden, linear.weight))
    torch.testing.assert_close(hidden_gradient, truth[0], rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(weight_gradient, truth[1], rtol=1e-9, atol=1e-11)
    if case.mask is not None:  # zero to the last bit
        assert (hidden_gradient[~case.mask] == 0).all()
    taken = torch.zeros(case.vocabulary, dtype=torch.bool)
    taken[[int(case.actions[i]) for i in case.positions]] = True
    assert (weight_gradient[~taken] == 0).all()


@pytest.mark.parametrize("masked", [False, True])
def test_first_and_second_derivatives(masked):
    double = (torch.float64, torch.float64)
    case = Case((3, 3), 7, 2.0, 0.3, masked, double, seed=3)
    logits = torch.nan_to_num(case.logits).requires_grad_()
    for reduction in ("mean", "sum", "none"):
        function = lambda z, r=reduction: case.loss(z, reduction=r)  # noqa: E731
        assert torch.autograd.gradcheck(function, logits)
        assert torch.autograd.gradgradcheck(function, logits)
    linear = LinearCase(case, 4)
    leaves = (linear.clean.requires_grad_(), linear.weight)
    assert torch.autograd.gradcheck(linear.loss, leaves)
    assert torch.autograd.gradgradcheck(linear.loss, leaves)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("vocabulary", [5, 1000])
def test_half_precision_parameters(dtype, vocabulary):
    """Products and gradients add up in float32, those of a token taken 800 times, too."""
    case = Case((4000,), vocabulary, 3.0, 0.5, False, (torch.float32, torch.float32), seed=4)
    linear = LinearCase(case, 16, dtype)
    loss = linear.loss()
    assert loss.dtype == torch.float32
    exact, truth = linear.on_logits()
    assert abs(loss.item() - exact.item()) < 1e-6  # of float32: the parameters are what they are
    epsilon = torch.finfo(dtype).eps
    ours = torch.autograd.grad(loss, (linear.hidden, linear.weight))
    for gradient, true in zip(ours, truth, strict=True):
        assert gradient.dtype == dtype
        assert (gradient.double() - true).norm() < epsilon / 2 * true.norm()


def test_autocast_changes_nothing():
    case = Case((30,), 9, 3.0, 0.5, False, (torch.float32, torch.float32), seed=5)
    linear = LinearCase(case, 4, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        loss, on_logits = linear.loss(), case.loss()
    assert loss.dtype == on_logits.dtype == torch.float32
    assert torch.equal(loss, linear.loss()) and torch.equal(on_logits, case.loss())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@given(tokens=st.integers(0, 9), vocabulary=st.integers(1, 9), hidden_size=st.integers(1, 5))
@settings(max_examples=30)
def test_single_logits_are_those_of_the_product(dtype, tokens, vocabulary, hidden_size):
    hidden, weight = torch.randn(tokens, hidden_size), torch.randn(vocabulary, hidden_size)
    ids = torch.randint(vocabulary, (tokens,))
    found = single_logits(hidden.to(dtype), weight.to(dtype), ids)
    assert found.dtype == dtype and found.shape == (tokens,)
    for value, state, token in zip(found, hidden, ids, strict=True):
        exact = math.fsum((state.double() * weight[token].double()).tolist())
        assert value.item() == pytest.approx(exact, rel=1e-5, abs=1e-5)


# Constants


def test_no_gradient_reaches_the_behavior_policy_or_the_target():
    double = (torch.float64, torch.float64)
    case = Case((4,), 7, 2.0, 0.3, False, double, seed=6)
    case.behavior_logits.requires_grad_()
    case.target.requires_grad_()
    linear = LinearCase(case, 3)
    assert linear.taken.requires_grad
    (case.loss(case.logits.requires_grad_()) + linear.loss()).backward()
    assert case.logits.grad is not None and linear.weight.grad is not None
    assert case.behavior_logits.grad is None and case.target.grad is None
    assert not case.loss(case.logits.detach()).requires_grad
    with torch.no_grad():
        assert not linear.loss().requires_grad


# What it costs, counted


def test_no_logits_of_the_vocabulary_are_made_from_hidden_states():
    case = Case((300,), 500, 3.0, 0.5, True, (torch.float32, torch.float32), seed=7)
    linear = LinearCase(case, 6, torch.float32)
    with LargestTensor() as largest, FlopCounterMode(display=False) as counter:
        linear.loss().backward()
    assert largest.elements == 500 * 6  # the gradient of the weight, and not the 300 * 500 of
    assert counter.get_total_flops() == 0  # and no matrix product
    with LargestTensor() as largest:
        case.loss(torch.nan_to_num(linear.clean @ linear.weight.T)).backward()
    assert largest.elements == 300 * 500


def test_workspace_is_a_few_times_the_hidden_states():
    case = Case((1024,), 4000, 3.0, 0.5, False, (torch.float32, torch.float32), seed=8)
    linear = LinearCase(case, 16, torch.float32)
    workspace = benchmark.workspace_bytes(linear.loss, [linear.hidden, linear.weight])
    assert workspace < 8 * 1024 * 16 * 4  # where all logits are 250 times the hidden states


# Errors: each names the argument, the first bad position and its value


def arguments(**changes):
    good = dict(
        logits=torch.zeros(2, 3, 4),
        behavior_logits=torch.zeros(2, 3, 4),
        actions=torch.tensor([[0, 1, 2], [2, 1, 0]]),
        target=torch.full((2, 3), 0.5),
    )
    return {**good, **changes}


def linear_arguments(**changes):
    good = arguments()
    del good["logits"], good["behavior_logits"]
    good |= dict(hidden=torch.zeros(2, 3, 5), weight=torch.zeros(4, 5))
    return {**good, "behavior_logits_taken": torch.zeros(2, 3), **changes}


def changed(tensor, position, value):
    tensor = tensor.clone()
    tensor[position] = value
    return tensor


GOOD = arguments()
ERRORS = {  # of both; "SCORES" stands for logits or hidden, "SHAPE" for its shape
    "target above 1": (
        {"target": changed(GOOD["target"], (1, 2), 1.5)},
        ValueError,
        "target: 1 of 6 positions outside [0, 1]; the first is at (1, 2), 1.5.",
    ),
    "target NaN": (
        {"target": changed(GOOD["target"], (0, 1), NAN)},
        ValueError,
        "target: 1 of 6 positions outside [0, 1]; the first is at (0, 1), nan.",
    ),
    "target shape": (
        {"target": torch.zeros(2, 4)},
        ValueError,
        "target has shape (2, 4), but SCORES has SHAPE: expected (2, 3).",
    ),
    "target is no tensor": ({"target": 0.5}, TypeError, "target must be a tensor of real numbers"),
    "target elsewhere": (
        {"target": torch.zeros(2, 3, device="meta")},
        ValueError,
        "target is on meta, but SCORES is on cpu.",
    ),
    "action too large": (
        {"actions": changed(GOOD["actions"], (1, 0), 4)},
        ValueError,
        "actions: 1 of 6 positions outside the vocabulary, ids 0 to 3; the first is at (1, 0), 4.",
    ),
    "action negative": (
        {"actions": changed(GOOD["actions"], (0, 0), -100)},
        ValueError,
        "the first is at (0, 0), -100. Mask out positions that are not actions.",
    ),
    "actions floating": (
        {"actions": torch.zeros(2, 3)},
        TypeError,
        "actions must be an integer tensor of token ids, not torch.float32.",
    ),
    "mask shape": ({"mask": torch.ones(2, 3, 4)}, ValueError, "mask has shape (2, 3, 4), but"),
    "mask all false": (
        {"mask": torch.zeros(2, 3)},
        ValueError,
        "mask uses none of the 6 positions",
    ),
    "mask not binary": (
        {"mask": changed(torch.ones(2, 3), (1, 1), 0.5)},
        ValueError,
        "mask: 1 of 6 positions neither 0 nor 1; the first is at (1, 1), 0.5.",
    ),
    **{
        f"prior {prior}": (
            {"prior": prior},
            ValueError,
            f"prior must lie strictly between 0 and 1, not {prior}.",
        )
        for prior in (0, 1, -0.1, 1.5, NAN)
    },
}
LOGITS_ERRORS = {
    "logits NaN": (
        {"logits": changed(GOOD["logits"], (1, 0, 2), NAN)},
        ValueError,
        "logits: 1 of 6 positions without a finite loss; the first is at (1, 0), nan. "
        "Both logits of an action must be finite.",
    ),
    **{
        f"{name} {value}, target {y}": (
            {name: changed(GOOD[name], (0, 1, 1), value), "target": torch.full((2, 3), y)},
            ValueError,
            "logits: 1 of 6 positions without a finite loss; the first is at (0, 1)",
        )
        for name in ("logits", "behavior_logits")
        for value in (INF, -INF)
        for y in (0.0, 0.5, 1.0)
    },
    "both -inf": (
        {name: changed(GOOD[name], (0, 1, 1), -INF) for name in ("logits", "behavior_logits")},
        ValueError,
        "logits: 1 of 6 positions without a finite loss; the first is at (0, 1), nan.",
    ),
    "logits integer": (
        {"logits": torch.zeros(2, 3, 4, dtype=torch.int64)},
        TypeError,
        "logits must be a floating tensor, not torch.int64.",
    ),
    "logits scalar": ({"logits": torch.tensor(0.0)}, ValueError, "logits must have a last"),
    "behavior logits integer": (
        {"behavior_logits": torch.zeros(2, 3, 4, dtype=torch.int64)},
        TypeError,
        "behavior_logits must be a floating tensor, not torch.int64.",
    ),
    "behavior logits missing": (
        {"behavior_logits": None},
        TypeError,
        "behavior_logits must be a floating tensor, not NoneType.",
    ),
    "behavior logits of another vocabulary": (
        {"behavior_logits": torch.zeros(2, 3, 5)},
        ValueError,
        "behavior_logits has shape (2, 3, 5), but logits has (2, 3, 4)",
    ),
    "behavior logits of other positions": (
        {"behavior_logits": torch.zeros(3, 3, 4)},
        ValueError,
        "actions has shape (2, 3), but behavior_logits has (3, 3, 4): expected (3, 3).",
    ),
    "behavior logits elsewhere": (
        {"behavior_logits": torch.zeros(2, 3, 4, device="meta")},
        ValueError,
        "actions is on cpu, but behavior_logits is on meta.",
    ),
    "reduction unknown": (
        {"reduction": "men"},
        ValueError,
        'reduction must be one of "mean", "sum", "none", not \'men\'. Nearest: "mean".',
    ),
}
LINEAR_ERRORS = {
    "hidden NaN": (
        {"hidden": changed(torch.zeros(2, 3, 5), (1, 1, 4), NAN)},
        ValueError,
        "hidden: 1 of 6 positions without a finite loss; the first is at (1, 1), nan.",
    ),
    "weight infinite": (
        {"weight": changed(torch.zeros(4, 5), (2, 3), INF)},
        ValueError,
        "hidden: 2 of 6 positions without a finite loss; the first is at (0, 2), nan. "
        "Hidden states, weight and behavior logits must be finite.",
    ),
    "weight shape": (
        {"weight": torch.zeros(5, 4)},
        ValueError,
        "weight has shape (5, 4), but hidden has (2, 3, 5): expected (V, 5), one row for each",
    ),
    "weight dtype": (
        {"weight": torch.zeros(4, 5, dtype=torch.float64)},
        TypeError,
        "weight must be a torch.float32 tensor like hidden, not torch.float64.",
    ),
    "weight elsewhere": (
        {"weight": torch.zeros(4, 5, device="meta")},
        ValueError,
        "weight is on meta, but hidden is on cpu.",
    ),
    "behavior logits NaN": (
        {"behavior_logits_taken": changed(torch.zeros(2, 3), (0, 2), NAN)},
        ValueError,
        "hidden: 1 of 6 positions without a finite loss; the first is at (0, 2), nan.",
    ),
    "behavior logits of the whole vocabulary": (
        {"behavior_logits_taken": torch.zeros(2, 3, 4)},
        ValueError,
        "behavior_logits_taken has shape (2, 3, 4), but hidden has (2, 3, 5): expected (2, 3).",
    ),
    "behavior logits missing": (
        {"behavior_logits_taken": None},
        TypeError,
        "behavior_logits_taken must be a floating tensor, not NoneType.",
    ),
    "behavior logits integer": (
        {"behavior_logits_taken": torch.zeros(2, 3, dtype=torch.int64)},
        TypeError,
        "behavior_logits_taken must be a floating tensor, not torch.int64.",
    ),
    "behavior logits elsewhere": (
        {"behavior_logits_taken": torch.zeros(2, 3, device="meta")},
        ValueError,
        "behavior_logits_taken is on meta, but hidden is on cpu.",
    ),
}


@pytest.mark.parametrize("name", [*ERRORS, *LOGITS_ERRORS])
def test_bad_input_on_logits(name):
    changes, kind, message = {**ERRORS, **LOGITS_ERRORS}[name]
    message = message.replace("SCORES", "logits").replace("SHAPE", "(2, 3, 4)")
    paired_q_sft_loss(**GOOD)
    with pytest.raises(kind, match=re.escape(message)):
        paired_q_sft_loss(**arguments(**changes))


@pytest.mark.parametrize("name", [*ERRORS, *LINEAR_ERRORS])
def test_bad_input_from_hidden_states(name):
    changes, kind, message = {**ERRORS, **LINEAR_ERRORS}[name]
    message = message.replace("SCORES", "hidden").replace("SHAPE", "(2, 3, 5)")
    linear_paired_q_sft_loss(**linear_arguments())
    with pytest.raises(kind, match=re.escape(message)):
        linear_paired_q_sft_loss(**linear_arguments(**changes))


def test_without_checks_an_all_false_mask_gives_zero():
    options = dict(mask=torch.zeros(2, 3), validate=False)
    logits = torch.full((2, 3, 4), NAN, requires_grad=True)
    for reduction in ("mean", "sum", "none"):
        loss = paired_q_sft_loss(**arguments(logits=logits), **options, reduction=reduction)
        assert (loss == 0).all()
        assert (torch.autograd.grad(loss.sum(), logits)[0] == 0).all()
    hidden = torch.full((2, 3, 5), NAN, requires_grad=True)
    weight = torch.ones(4, 5, requires_grad=True)
    loss = linear_paired_q_sft_loss(**linear_arguments(hidden=hidden, weight=weight), **options)
    assert loss.item() == 0
    assert all((gradient == 0).all() for gradient in torch.autograd.grad(loss, (hidden, weight)))


def test_checks_of_the_data_can_be_switched_off():
    bad = changed(GOOD["target"], (1, 2), 1.5)
    assert paired_q_sft_loss(**arguments(target=bad), validate=False).isfinite()
    assert linear_paired_q_sft_loss(**linear_arguments(target=bad), validate=False).isfinite()
