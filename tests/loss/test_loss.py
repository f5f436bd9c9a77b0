"""qsft_lite.loss against plain Python in double precision, torch's own losses, and its promises."""

import json
import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from largest_tensor import LargestTensor
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import loss as benchmark
from qsft_lite.loss import (
    Backup,
    bellman_target,
    linear_cross_entropy,
    linear_q_sft_loss,
    linear_state_value,
    q_sft_loss,
)

NAN, INF = math.nan, math.inf
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
LEFTOVERS = ("uniform", "dummy")


# The truth: one position at a time, in double precision, as the paper writes it


def log_softmax(logits: list[float]) -> list[float]:
    largest = max(logits)
    lse = math.log(math.fsum(math.exp(z - largest) for z in logits))
    return [(z - largest) - lse for z in logits]


def target_distribution(action: int, y: float, vocabulary: int, leftover) -> list[float]:
    """What the loss is a cross-entropy to."""
    if leftover == "uniform":
        q = [(1 - y) / (vocabulary - 1)] * vocabulary
    else:
        q = [0.0] * vocabulary
        q[leftover] = 1 - y
    q[action] = y
    return q


def naive_loss(logits: list[float], action: int, y: float, leftover) -> float:
    q = target_distribution(action, y, len(logits), leftover)
    return -math.fsum(w * lp for w, lp in zip(q, log_softmax(logits), strict=True) if w > 0)


def naive_gradient(logits: list[float], action: int, y: float, leftover) -> list[float]:
    q = target_distribution(action, y, len(logits), leftover)
    return [math.exp(lp) - w for w, lp in zip(q, log_softmax(logits), strict=True)]


def naive_target(
    reward,
    done,
    q_logits,
    pi_logits,
    *,
    gamma,
    backup,
    support,
    beta=1.0,
    score="ratio",
    leftover="uniform",
    clamp=True,
) -> float:
    if not done:
        actions = [a for a, z in enumerate(pi_logits) if z > -INF and a != leftover]
        log_p, log_pi = log_softmax(q_logits), log_softmax(pi_logits)
        if backup in ("support", "policy"):
            likely = [a for a in actions if math.exp(log_pi[a]) >= support]
            actions = likely or [max(actions, key=lambda a: log_pi[a])]
        if backup == "behavior":
            value = math.fsum(math.exp(log_p[a]) for a in actions)
        elif backup == "policy":
            q = {a: math.exp(min(log_p[a] - log_pi[a], 0)) for a in actions}
            scores = q if score == "ratio" else {a: math.exp(log_p[a]) for a in actions}
            largest = max(log_pi[a] for a in actions)
            weight = {a: math.exp(log_pi[a] - largest + beta * scores[a]) for a in actions}
            value = math.fsum(weight[a] * q[a] for a in actions) / math.fsum(weight.values())
        else:
            value = math.exp(min(max(log_p[a] - log_pi[a] for a in actions), 700))
        reward += gamma * value
    return min(max(reward, 0.0), 1.0) if clamp else reward


# Random cases


class Case:
    """Random inputs of a loss; masked positions hold garbage that must never matter."""

    def __init__(self, shape, vocabulary, scale, leftover, masked, dtype, seed):
        rng = np.random.default_rng(seed)
        self.vocabulary, self.scale, self.dtype = vocabulary, scale, dtype
        self.leftover = vocabulary - 1 if leftover == "dummy" else leftover
        logits = rng.uniform(-scale, scale, (*shape, vocabulary))
        y = rng.choice([0.0, 1.0, 0.5, rng.random()], shape)
        actions = rng.integers(0, vocabulary - 1 if leftover == "dummy" else vocabulary, shape)
        self.logits = torch.tensor(logits).to(dtype)
        self.target = torch.tensor(y).to(dtype)
        self.actions = torch.tensor(actions)
        self.mask = None
        if masked:
            self.mask = torch.tensor(rng.random(shape) < 0.6)
            self.mask.view(-1)[rng.integers(self.mask.numel())] = True
            self.logits[~self.mask] = NAN
            self.target[~self.mask] = NAN
            self.actions[~self.mask] = -100
        self.positions = [i for i in np.ndindex(*shape) if self.mask is None or bool(self.mask[i])]

    def loss(self, logits=None, **options):
        logits = self.logits if logits is None else logits
        options.setdefault("leftover", self.leftover)
        return q_sft_loss(logits, self.actions, self.target, self.mask, **options)

    def at(self, function):
        """A naive function's values at the used positions, as a dict by position."""
        return {
            i: function(
                self.logits[i].tolist(),
                int(self.actions[i]),
                self.target[i].item(),
                self.leftover,
            )
            for i in self.positions
        }


@st.composite
def cases(draw, dtypes=DTYPES):
    return Case(
        shape=tuple(draw(st.lists(st.integers(1, 4), max_size=2))),
        vocabulary=draw(st.integers(2, 30)),
        scale=draw(st.sampled_from((0.1, 5.0, 100.0, 1e4))),
        leftover=draw(st.sampled_from(LEFTOVERS)),
        masked=draw(st.booleans()),
        dtype=draw(st.sampled_from(dtypes)),
        seed=draw(st.integers(0, 2**32 - 1)),
    )


def check_against_the_truth(case: Case) -> None:
    logits = case.logits.clone().requires_grad_()
    losses = case.loss(logits, reduction="none")
    double = case.dtype == torch.float64
    assert losses.dtype == (torch.float64 if double else torch.float32)
    epsilon = 1e-14 if double else 5e-7
    tolerance = epsilon * (1 + case.scale) * 4

    expected = torch.zeros(losses.shape, dtype=torch.float64)
    for i, value in case.at(naive_loss).items():
        expected[i] = value
    torch.testing.assert_close(losses.detach().double(), expected, rtol=0, atol=tolerance)
    total, used = math.fsum(expected.reshape(-1).tolist()), len(case.positions)
    assert case.loss(reduction="sum").item() == pytest.approx(total, abs=tolerance * used)
    assert case.loss().item() == pytest.approx(total / used, abs=tolerance)

    upstream = torch.rand(losses.shape, dtype=losses.dtype) + 0.5
    losses.backward(upstream)
    expected = torch.zeros(logits.shape, dtype=torch.float64)
    for i, row in case.at(naive_gradient).items():
        expected[i] = upstream[i].double() * torch.tensor(row, dtype=torch.float64)
    assert logits.grad.dtype == case.dtype
    rounding = {torch.bfloat16: 2**-8, torch.float16: 2**-10}.get(case.dtype, epsilon * 10)
    torch.testing.assert_close(logits.grad.double(), expected, rtol=rounding, atol=tolerance + 1e-7)
    if case.mask is not None:  # zero to the last bit
        assert torch.equal(logits.grad[~case.mask], torch.zeros_like(logits[~case.mask]))


@given(cases())
@settings(max_examples=200)
def test_loss_and_gradient_equal_plain_python(case):
    check_against_the_truth(case)


@pytest.mark.parametrize("leftover", LEFTOVERS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_loss_and_gradient_of_a_large_vocabulary(leftover, dtype):
    check_against_the_truth(Case((3,), 50_000, 20.0, leftover, True, dtype, seed=1))


@given(cases(dtypes=(torch.float64,)))
@settings(max_examples=30)
def test_loss_equals_torch_cross_entropy_to_the_dense_distribution(case):
    used = case.positions
    rows = [
        target_distribution(
            int(case.actions[i]), case.target[i].item(), case.vocabulary, case.leftover
        )
        for i in used
    ]
    logits = torch.stack([case.logits[i] for i in used])
    expected = cross_entropy(logits, torch.tensor(rows, dtype=torch.float64))
    torch.testing.assert_close(case.loss(), expected, rtol=1e-12, atol=1e-12 * case.scale)


@pytest.mark.parametrize("leftover", LEFTOVERS)
def test_a_target_of_one_is_plain_cross_entropy(leftover):
    case = Case((4, 5), 11, 3.0, leftover, False, torch.float64, seed=0)
    loss = q_sft_loss(
        case.logits, case.actions, torch.ones(4, 5), leftover=case.leftover, reduction="none"
    )
    expected = cross_entropy(case.logits.movedim(-1, 1), case.actions, reduction="none")
    torch.testing.assert_close(loss, expected)


def test_hand_sized_numbers():
    """Probabilities 1/2, 1/4, 1/4, action 0 with y = 3/4, in units of log 2."""
    logits = torch.tensor([2.0, 1.0, 1.0], dtype=torch.float64) * math.log(2)
    action, y = torch.tensor(0), torch.tensor(0.75)
    expected = 0.75 * 1 + 0.25 * 2  # either way 1/4 goes to tokens of probability 1/4
    for leftover in ("uniform", 2):
        loss = q_sft_loss(logits, action, y, leftover=leftover)
        assert loss.item() == pytest.approx(expected * math.log(2), abs=1e-15)


@pytest.mark.parametrize("mask_dtype", [torch.bool, torch.int64, torch.float32])
def test_mask_may_be_bool_or_numbers(mask_dtype):
    case = Case((3, 4), 5, 2.0, "uniform", True, torch.float64, seed=2)
    expected = case.loss()
    case.mask = case.mask.to(mask_dtype)
    assert torch.equal(case.loss(), expected)


def test_a_logit_of_minus_infinity_costs_nothing_where_the_dummy_form_gives_no_weight():
    logits = torch.tensor([[0.0, -INF, 0.0, 0.0]] * 2, dtype=torch.float64, requires_grad=True)
    actions, target = torch.tensor([0, 1]), torch.tensor([0.5, 0.0])
    losses = q_sft_loss(logits, actions, target, leftover=3, reduction="none")
    torch.testing.assert_close(losses, torch.full_like(losses, math.log(3)))
    losses.sum().backward()
    assert logits.grad.isfinite().all() and (logits.grad[:, 1] == 0).all()


# Gradients


@pytest.mark.parametrize("leftover", LEFTOVERS)
@pytest.mark.parametrize("masked", [False, True])
def test_gradcheck(leftover, masked):
    case = Case((3, 3), 7, 2.0, leftover, masked, torch.float64, seed=3)
    logits = torch.nan_to_num(case.logits).requires_grad_()
    for reduction in ("mean", "sum", "none"):
        assert torch.autograd.gradcheck(lambda z, r=reduction: case.loss(z, reduction=r), logits)

    hidden = torch.randn(3, 3, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(7, 4, dtype=torch.float64, requires_grad=True)

    def linear(hidden, weight):
        return linear_q_sft_loss(
            hidden,
            weight,
            case.actions,
            case.target,
            case.mask,
            leftover=case.leftover,
            chunk_size=4,
        )

    assert torch.autograd.gradcheck(linear, (hidden, weight))


def test_no_gradient_reaches_the_target():
    logits = torch.randn(2, 5, requires_grad=True)
    reward = torch.zeros(2, requires_grad=True)
    target = bellman_target(reward, torch.zeros(2), logits, logits)
    assert not target.requires_grad
    y = torch.full((2,), 0.5, requires_grad=True)
    q_sft_loss(logits, torch.tensor([0, 1]), y).backward()
    linear_q_sft_loss(logits, torch.randn(3, 5), torch.tensor([0, 1]), y, leftover=2).backward()
    assert y.grad is None and logits.grad is not None
    assert not q_sft_loss(logits.detach(), torch.tensor([0, 1]), y).requires_grad


def test_second_derivatives():
    logits = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(6, 5, dtype=torch.float64)
    actions = torch.tensor([0, 1, 0])
    target = torch.tensor([0.2, 0.3, 1.0], dtype=torch.float64)
    for leftover in ("uniform", 4):
        assert torch.autograd.gradgradcheck(
            lambda z, form=leftover: q_sft_loss(z, actions, target, leftover=form), logits
        )
    with pytest.raises(RuntimeError, match="second derivative"):
        loss = linear_q_sft_loss(logits, weight, actions, target, leftover=5)
        torch.autograd.grad(loss, logits, create_graph=True)


# The chunked form


def gradients(loss, *leaves):
    return torch.autograd.grad(loss, leaves)


@given(
    case=cases(dtypes=(torch.float64, torch.float32)),
    hidden_size=st.integers(1, 5),
    chunk_size=st.integers(1, 20),
)
@settings(max_examples=100)
def test_chunked_equals_unchunked(case, hidden_size, chunk_size):
    generator = torch.Generator().manual_seed(0)
    shape = (*case.actions.shape, hidden_size)
    hidden = torch.randn(shape, generator=generator, dtype=case.dtype)
    weight = torch.randn(case.vocabulary, hidden_size, generator=generator, dtype=case.dtype)
    if case.mask is not None:
        hidden[~case.mask] = NAN
    hidden.requires_grad_()
    weight.requires_grad_()

    # Unchunked: masked states are set to 0 first, for NaN times a gradient of 0 is NaN.
    clean = hidden if case.mask is None else hidden.masked_fill(~case.mask[..., None], 0)
    expected = case.loss(clean @ weight.T)
    loss = linear_q_sft_loss(
        hidden,
        weight,
        case.actions,
        case.target,
        case.mask,
        leftover=case.leftover,
        chunk_size=chunk_size,
    )
    torch.testing.assert_close(loss, expected)
    tolerance = {} if case.dtype == torch.float64 else {"rtol": 1e-4, "atol": 1e-5}
    truth = gradients(expected, hidden, weight)
    for ours, theirs in zip(gradients(loss, hidden, weight), truth, strict=True):
        torch.testing.assert_close(ours, theirs, **tolerance)


def small_problem(tokens=10, hidden_size=4, vocabulary=9, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, hidden_size, generator=generator, dtype=torch.float64).to(dtype)
    weight = torch.randn(vocabulary, hidden_size, generator=generator, dtype=torch.float64)
    actions = torch.randint(vocabulary - 1, (tokens,), generator=generator)
    target = torch.rand(tokens, generator=generator, dtype=torch.float64)
    return hidden.requires_grad_(), weight.to(dtype).requires_grad_(), actions, target.to(dtype)


@pytest.mark.parametrize("leftover", ["uniform", 8])
def test_gradients_of_the_chunked_form_wherever_they_are_wanted(leftover):
    hidden, weight, actions, target = small_problem()
    loss = linear_q_sft_loss(hidden, weight, actions, target, leftover=leftover)
    both = gradients(loss, hidden, weight)
    loss = linear_q_sft_loss(hidden.detach(), weight, actions, target, leftover=leftover)
    assert torch.equal(gradients(loss, weight)[0], both[1])
    loss = linear_q_sft_loss(hidden, weight.detach(), actions, target, leftover=leftover)
    assert torch.equal(gradients(loss, hidden)[0], both[0])
    with torch.no_grad():
        assert torch.equal(
            linear_q_sft_loss(hidden, weight, actions, target, leftover=leftover), loss
        )


@pytest.mark.parametrize("leftover", ["uniform", 8])
def test_a_retained_graph_gives_the_same_gradients_again(leftover):
    hidden, weight, actions, target = small_problem()
    loss = linear_q_sft_loss(hidden, weight, actions, target, leftover=leftover)
    first = torch.autograd.grad(loss, (hidden, weight), retain_graph=True)
    copies = [gradient.clone() for gradient in first]
    second = torch.autograd.grad(3 * loss, (hidden, weight))
    for a, b, copy in zip(first, second, copies, strict=True):
        assert torch.equal(a, copy)
        torch.testing.assert_close(b, 3 * copy)


@pytest.mark.parametrize("leftover", ["uniform", 999])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_parameters(leftover, dtype):
    hidden, weight, actions, target = small_problem(2000, 16, 1000, dtype)
    loss = linear_q_sft_loss(hidden, weight, actions, target, leftover=leftover, chunk_size=10)
    exact_hidden = hidden.detach().double().requires_grad_()
    exact_weight = weight.detach().double().requires_grad_()
    exact = q_sft_loss(exact_hidden @ exact_weight.T, actions, target.double(), leftover=leftover)
    assert loss.dtype == torch.float32
    epsilon = torch.finfo(dtype).eps
    assert abs(loss.item() - exact.item()) < epsilon * exact.item()
    truth = gradients(exact, exact_hidden, exact_weight)
    for ours, true in zip(gradients(loss, hidden, weight), truth, strict=True):
        # Summed in float32: 200 chunks summed in bfloat16 would err by several times epsilon.
        assert ours.dtype == dtype
        assert (ours.double() - true).norm() < epsilon * true.norm()


def test_autocast():
    hidden, weight, actions, target = small_problem(dtype=torch.float32)
    expected = linear_q_sft_loss(hidden, weight, actions, target, leftover="uniform")
    with torch.autocast("cpu", torch.bfloat16):
        loss = linear_q_sft_loss(hidden, weight, actions, target, leftover="uniform")
    truth = gradients(expected, hidden, weight)
    for ours, exact in zip(gradients(loss, hidden, weight), truth, strict=True):
        assert ours.dtype == torch.float32
        assert (ours - exact).norm() < 0.02 * exact.norm()


# What it costs, counted


@pytest.mark.parametrize("leftover", ["uniform", 499])
def test_the_chunked_form_never_holds_more_than_a_chunk_of_logits(leftover):
    hidden, weight, actions, target = small_problem(300, 6, 500, torch.float32)
    with LargestTensor() as largest:
        linear_q_sft_loss(
            hidden, weight, actions, target, leftover=leftover, chunk_size=20
        ).backward()
    assert largest.elements == 20 * 500  # and not the 300 * 500 of

    with LargestTensor() as largest:
        q_sft_loss(hidden @ weight.T, actions, target, leftover=leftover).backward()
    assert largest.elements == 300 * 500


def test_workspace_is_one_chunk_of_logits():
    losses, leaves = benchmark.losses_on_hidden_states(1024, 8, 2000)
    chunk = 256 * 2000 * 4
    assert chunk < benchmark.workspace_bytes(losses["uniform"], leaves) < 1.05 * chunk
    assert 4 * 4 * chunk < benchmark.workspace_bytes(losses["naive"], leaves)


@pytest.mark.parametrize("leftover", ["uniform", 49])
def test_floating_point_operations_are_those_of_cross_entropy(leftover):
    hidden, weight, actions, target = small_problem(30, 6, 50)
    mask = torch.arange(30) % 3 != 0

    # In place, addmm_ adds up the weight's gradient; torch's counter knows only addmm.
    def count_addmm(accumulated, a, b, *_, **__):
        return 2 * a[0] * a[1] * b[1]

    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: count_addmm})
    with counter:
        linear_q_sft_loss(
            hidden, weight, actions, target, mask, leftover=leftover, chunk_size=7
        ).backward()
    assert counter.get_total_flops() == 6 * 6 * 50 * int(mask.sum())


# The Bellman target


@st.composite
def transitions(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = tuple(draw(st.lists(st.integers(1, 3), max_size=2)))
    vocabulary = draw(st.integers(3, 12))
    # Unnormalised log-probabilities: pi goes down to 1e-30 and p with it.
    pi_logits = rng.uniform(-69, 0, (*shape, vocabulary))
    q_logits = pi_logits + rng.uniform(-3, 1, pi_logits.shape)
    ruled_out = rng.random(pi_logits.shape) < draw(st.sampled_from((0.0, 0.3)))
    ruled_out[..., 0] = False
    pi_logits[ruled_out] = -INF
    done = rng.random(shape) < 0.3
    q_logits[done], pi_logits[done] = NAN, NAN
    reward = rng.choice([0.0, 1.0, 0.1, -0.2], shape)
    return reward, done, q_logits, pi_logits


@given(
    transition=transitions(),
    backup=st.sampled_from(("max", "support", "behavior", "policy")),
    support=st.sampled_from((0.0, 1e-20, 1e-3, 0.3, 1.0)),
    beta=st.sampled_from((0.0, 1.0, 30.0)),
    score=st.sampled_from(("p", "ratio")),
    gamma=st.sampled_from((0.0, 0.9, 1.0)),
    leftover=st.sampled_from(("uniform", 1)),
    clamp=st.booleans(),
    dtype=st.sampled_from((torch.float64, torch.float32)),
)
@settings(max_examples=300)
def test_target_equals_plain_python(
    transition, backup, support, beta, score, gamma, leftover, clamp, dtype
):
    reward, done, q_logits, pi_logits = (torch.tensor(array) for array in transition)
    reward, q_logits, pi_logits = reward.to(dtype), q_logits.to(dtype), pi_logits.to(dtype)
    options = dict(gamma=gamma, backup=backup, support=support, beta=beta, score=score)
    options |= dict(leftover=leftover, clamp=clamp)
    target = bellman_target(reward, done, q_logits, pi_logits, **options)
    assert target.dtype == dtype and target.shape == reward.shape
    for i in np.ndindex(*reward.shape):
        expected = naive_target(
            reward[i].item(), bool(done[i]), q_logits[i].tolist(), pi_logits[i].tolist(), **options
        )
        relative = 1e-12 if dtype == torch.float64 else 1e-4
        assert target[i].item() == pytest.approx(expected, rel=relative, abs=relative)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_ratio_of_probabilities_far_below_what_floats_hold(dtype):
    """A ratio of 1/2 between probabilities of about exp(-9000)."""
    pi = torch.tensor([0.0, -9000.0], dtype=dtype)
    q = torch.tensor([0.0, -9000.0 - math.log(2)], dtype=torch.float64).to(dtype)
    zero = torch.tensor(0.0)
    target = bellman_target(zero, zero, q, pi, leftover=0)
    assert target.item() == pytest.approx(0.5, rel=1e-3)


def test_half_precision_loses_the_ratio_and_log_probabilities_keep_it():
    """Logits rounded to bf16 err by .05 in the log-ratio; fp16 probabilities give Inf or NaN."""
    generator = torch.Generator().manual_seed(0)
    pi = 4 * torch.randn(200, 1000, generator=generator, dtype=torch.float64)
    pi -= pi.logsumexp(-1, keepdim=True)
    true_log_ratio = math.log(0.5)
    dummy = torch.full((200, 1), true_log_ratio, dtype=torch.float64)
    q = torch.cat([pi + true_log_ratio, dummy], dim=-1)  # p = pi / 2, and the rest on the dummy
    pi = torch.cat([pi, torch.full_like(dummy, -INF)], dim=-1)
    zero = torch.zeros(200)

    single = bellman_target(zero, zero, q.float(), pi.float(), leftover=1000)
    assert (single.log() - true_log_ratio).abs().max() < 1e-5
    rounded = bellman_target(zero, zero, q.bfloat16(), pi.bfloat16(), leftover=1000)
    assert rounded.dtype == torch.float32
    assert (rounded.log() - true_log_ratio).abs().max() > 0.02
    ratio = q.softmax(-1).half()[:, :-1] / pi.softmax(-1).half()[:, :-1]
    assert not ratio.isfinite().all()


def test_support_includes_its_edge_and_falls_back_to_the_likeliest_action():
    zero = torch.tensor(0.0)
    pi = torch.tensor([0.5, 0.25, 0.25]).log()
    q = torch.tensor([0.1, 0.2, 0.05, 0.65]).log()
    pi = torch.cat([pi, torch.tensor([-INF])])

    def target(support):
        return bellman_target(zero, zero, q, pi, backup="support", support=support).item()

    assert target(0.25) == pytest.approx(0.8)
    assert target(0.26) == pytest.approx(0.2)
    assert target(0.9) == pytest.approx(0.2)


def test_behavior_backup_with_a_dummy_is_what_the_dummy_leaves():
    q, pi = torch.randn(5, 8, dtype=torch.float64), torch.randn(5, 8, dtype=torch.float64)
    zero = torch.zeros(5, dtype=torch.float64)
    target = bellman_target(zero, zero, q, pi, backup="behavior", leftover=3)
    torch.testing.assert_close(target, 1 - q.softmax(-1)[:, 3])
    uniform = bellman_target(zero, zero, q, pi, backup="behavior")
    torch.testing.assert_close(uniform, torch.ones_like(uniform))


def test_policy_backup_goes_from_the_behavior_value_to_the_best_action():
    pi = torch.tensor([0.6, 0.3, 0.1, 0.0], dtype=torch.float64).log()
    q = torch.tensor([0.06, 0.15, 0.08, 0.71], dtype=torch.float64).log()  # p / pi: .1, .5, .8
    zero = torch.tensor(0.0, dtype=torch.float64)

    def target(beta, support=0.0, score="ratio"):
        options = dict(backup="policy", support=support, beta=beta, score=score, leftover=3)
        return bellman_target(zero, zero, q, pi, **options).item()

    assert target(beta=0) == pytest.approx(0.06 + 0.15 + 0.08)
    assert target(beta=1000) == pytest.approx(0.8)
    assert target(beta=1000, support=0.2) == pytest.approx(0.5)
    assert target(beta=1000, score="p") == pytest.approx(0.5)  # the largest p is no largest ratio


# State values on hidden states


@given(
    tokens=st.integers(0, 9),
    chunk_size=st.integers(1, 10),
    backup=st.sampled_from(("max", "support", "behavior", "policy")),
    support=st.sampled_from((0.01, 0.2, 1.0)),
    score=st.sampled_from(("p", "ratio")),
    leftover=st.sampled_from(("uniform", 5)),
    seed=st.integers(0, 1000),
)
def test_chunked_state_values_equal_targets_without_reward(
    tokens, chunk_size, backup, support, score, leftover, seed
):
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    hidden, weight = random(tokens, 4), random(7, 4)
    pi_hidden, pi_weight = random(tokens, 3), 2 * random(7, 3)
    zero = torch.zeros(tokens, dtype=torch.float64)
    logits, pi_logits = hidden @ weight.T, pi_hidden @ pi_weight.T
    options = dict(backup=backup, support=support, beta=3.0, score=score, leftover=leftover)
    expected = bellman_target(zero, zero, logits, pi_logits, clamp=False, **options)
    options = dict(
        backup=Backup(backup, support, 3.0, score),
        dummy=None if leftover == "uniform" else leftover,
        chunk_size=chunk_size,
    )
    value = linear_state_value(hidden, weight, pi_hidden, pi_weight, **options)
    torch.testing.assert_close(value, expected)
    if backup == "behavior":
        value = linear_state_value(hidden, weight, None, None, **options)
        torch.testing.assert_close(value, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("backup", [Backup("support", 0.01), Backup("behavior", score="ratio")])
def test_state_values_of_half_precision_parameters_are_multiplied_in_float32(backup, dtype):
    """Rounded to bfloat16, logits near 20 would err by .06, and p by as much of itself."""
    generator = torch.Generator().manual_seed(0)
    shapes = (50, 16), (60, 16), (50, 16), (60, 16)
    tensors = [torch.randn(*shape, generator=generator).mul(2).to(dtype) for shape in shapes]

    def values(dtype):
        given = [tensor.to(dtype) for tensor in tensors]
        return linear_state_value(*given, backup=backup, dummy=0)

    torch.testing.assert_close(values(dtype).double(), values(torch.float64), rtol=1e-4, atol=1e-5)


def test_plain_cross_entropy_is_torchs():
    hidden, weight, actions, _ = small_problem()
    loss = linear_cross_entropy(hidden, weight, actions, chunk_size=3)
    expected = cross_entropy(hidden @ weight.T, actions)
    torch.testing.assert_close(loss, expected)
    both = zip(gradients(loss, hidden, weight), gradients(expected, hidden, weight), strict=True)
    for ours, theirs in both:
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda h, w: linear_state_value(h, w, None, None, backup=Backup("max"), dummy=0),
            "needs behavior_hidden",
        ),
        (
            lambda h, w: linear_state_value(h, w, h, w, backup=Backup("returns"), dummy=0),
            "backup must be one of",
        ),
        (
            lambda h, w: linear_state_value(
                h, w, None, None, backup=Backup("behavior"), dummy=0, chunk_size=0
            ),
            "chunk_size must be at least 1",
        ),
        (lambda h, w: Backup("maximum"), 'backup must be one of .* Nearest: "max"'),
        (lambda h, w: Backup(score="ratios"), 'score must be one of .* Nearest: "ratio"'),
        (lambda h, w: Backup(support=1.1), "support must lie in"),
        (lambda h, w: Backup("policy", beta=INF), "beta must be finite"),
    ],
)
def test_bad_options_of_the_state_values(call, message):
    with pytest.raises(ValueError, match=message):
        call(torch.zeros(3, 4), torch.zeros(5, 4))


@pytest.mark.parametrize("missing", ["actions", "target"])
def test_only_a_mask_may_be_missing(missing):
    hidden, weight, actions, target = small_problem()
    given = {"actions": actions, "target": target, missing: None}
    with pytest.raises(TypeError, match=f"{missing} must be a.* tensor"):
        q_sft_loss(hidden @ weight.T, **given, leftover="uniform")
    with pytest.raises(TypeError, match=f"{missing} must be a.* tensor"):
        linear_q_sft_loss(hidden, weight, **given, leftover="uniform")


def test_targets_are_clamped_unless_told_otherwise():
    reward = torch.tensor([-0.5, 0.25, 1.5, 4.0], dtype=torch.float64)
    done = torch.ones(4)
    logits = torch.full((4, 2), NAN)
    assert bellman_target(reward, done, logits, logits).tolist() == [0.0, 0.25, 1.0, 1.0]
    raw = bellman_target(reward, done, logits, logits, clamp=False)
    assert raw.tolist() == reward.tolist()
    empty = torch.zeros(0)
    assert bellman_target(empty, empty, logits[:0], logits[:0]).shape == (0,)


def test_an_overflowing_ratio_stays_a_number():
    q, pi = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, -1e4]])
    zero = torch.zeros(1)
    assert bellman_target(zero, zero, q, pi).item() == 1
    assert math.isfinite(bellman_target(zero, zero, q, pi, clamp=False).item())
    assert bellman_target(zero, zero, q, pi, gamma=0.0).item() == 0


# Errors: each names the argument, the first bad position and its value


def arguments(**changes):
    given = dict(
        logits=torch.zeros(2, 3, 4),
        actions=torch.tensor([[0, 1, 2], [2, 1, 0]]),
        target=torch.full((2, 3), 0.5),
    )
    return {**given, **changes}


def changed(tensor, position, value):
    tensor = tensor.clone()
    tensor[position] = value
    return tensor


GOOD = arguments()
LOSS_ERRORS = {
    "target above 1": (
        {"target": changed(GOOD["target"], (1, 2), 1.5)},
        ValueError,
        "target: 1 of 6 positions outside [0, 1]; the first is at (1, 2), 1.5.",
    ),
    "target below 0": (
        {"target": changed(GOOD["target"], 0, -1.0)},
        ValueError,
        "target: 3 of 6 positions outside [0, 1]; the first is at (0, 0), -1.0.",
    ),
    "target NaN": (
        {"target": changed(GOOD["target"], (0, 1), NAN)},
        ValueError,
        "target: 1 of 6 positions outside [0, 1]; the first is at (0, 1), nan.",
    ),
    "target shape": (
        {"target": torch.zeros(2, 4)},
        ValueError,
        "target has shape (2, 4), but logits has (2, 3, 4): expected (2, 3).",
    ),
    "target is no tensor": ({"target": 0.5}, TypeError, "target must be a tensor of real numbers"),
    "target is complex": (
        {"target": torch.zeros(2, 3, dtype=torch.complex64)},
        TypeError,
        "target must be a tensor of real numbers, not torch.complex64.",
    ),
    "target elsewhere": (
        {"target": torch.zeros(2, 3, device="meta")},
        ValueError,
        "target is on meta, but logits is on cpu.",
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
    "action is the dummy": (
        {"leftover": 1},
        ValueError,
        "actions: 2 of 6 positions at the dummy token; the first is at (0, 1), 1.",
    ),
    "actions floating": (
        {"actions": torch.zeros(2, 3)},
        TypeError,
        "actions must be an integer tensor of token ids, not torch.float32.",
    ),
    "actions bool": (
        {"actions": torch.zeros(2, 3, dtype=torch.bool)},
        TypeError,
        "actions must be an integer tensor of token ids, not torch.bool.",
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
    "dummy outside": (
        {"leftover": 4},
        ValueError,
        "leftover names token 4 as the dummy, but ids go from 0 to 3.",
    ),
    "dummy negative": ({"leftover": -1}, ValueError, "leftover names token -1"),
    "leftover unknown": (
        {"leftover": "unifrom"},
        ValueError,
        "leftover must be \"uniform\" or the token id of the dummy, an int, not 'unifrom'.",
    ),
    "leftover bool": ({"leftover": True}, ValueError, "not True"),
    "leftover float": ({"leftover": 1.0}, ValueError, "not 1.0"),
}
LOGITS_ERRORS = {
    "logits NaN": (
        {"logits": changed(GOOD["logits"], (1, 0, 2), NAN)},
        ValueError,
        "logits: 1 of 6 positions without a finite loss; the first is at (1, 0), nan.",
    ),
    "logits infinite": (
        {"logits": changed(GOOD["logits"], (0, 0, 1), INF), "leftover": 3},
        ValueError,
        "logits: 1 of 6 positions without a finite loss; the first is at (0, 0)",
    ),
    "logits -inf, uniform": (
        {"logits": changed(GOOD["logits"], (0, 0, 3), -INF)},
        ValueError,
        "the first is at (0, 0), inf.",
    ),
    "logits -inf, action": (
        {
            "logits": changed(changed(GOOD["logits"], (0, 1, 0), -INF), (0, 1, 1), -INF),
            "leftover": 3,
        },
        ValueError,
        "the first is at (0, 1), inf.",
    ),
    "logits -inf, dummy": (
        {"logits": changed(GOOD["logits"], (1, 1, 3), -INF), "leftover": 3},
        ValueError,
        "the first is at (1, 1), inf.",
    ),
    "logits integer": (
        {"logits": torch.zeros(2, 3, 4, dtype=torch.int64)},
        TypeError,
        "logits must be a floating tensor, not torch.int64.",
    ),
    "logits scalar": ({"logits": torch.tensor(0.0)}, ValueError, "logits must have a last"),
    "vocabulary of one": (
        {"logits": torch.zeros(2, 3, 1)},
        ValueError,
        "The vocabulary needs at least two tokens, not 1.",
    ),
    "reduction unknown": (
        {"reduction": "men"},
        ValueError,
        'reduction must be one of "mean", "sum", "none", not \'men\'. Nearest: "mean".',
    ),
}


@pytest.mark.parametrize("name", [*LOSS_ERRORS, *LOGITS_ERRORS])
def test_bad_input_of_the_loss(name):
    changes, kind, message = {**LOSS_ERRORS, **LOGITS_ERRORS}[name]
    q_sft_loss(**GOOD)
    with pytest.raises(kind, match=re.escape(message)):
        q_sft_loss(**arguments(**changes))


def linear_arguments(**changes):
    good = {key: GOOD[key] for key in ("actions", "target")}
    states = dict(hidden=torch.zeros(2, 3, 5), weight=torch.zeros(4, 5), leftover="uniform")
    return {**good, **states, **changes}


LINEAR_ERRORS = {
    "hidden NaN": (
        {"hidden": changed(torch.zeros(2, 3, 5), (1, 1, 4), NAN)},
        ValueError,
        "hidden: 1 of 6 positions without a finite loss; the first is at (1, 1), nan.",
    ),
    "product overflows": (
        {"hidden": torch.full((2, 3, 5), 1e30), "weight": torch.full((4, 5), 1e30)},
        ValueError,
        "hidden: 6 of 6 positions without a finite loss",
    ),
    "weight infinite": (
        {"weight": changed(torch.zeros(4, 5), (2, 3), INF)},
        ValueError,
        "weight: 1 of 20 positions not finite; the first is at (2, 3), inf.",
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
    "chunk size": ({"chunk_size": 0}, ValueError, "chunk_size must be at least 1, not 0."),
}


@pytest.mark.parametrize("name", [*LOSS_ERRORS, *LINEAR_ERRORS])
def test_bad_input_of_the_chunked_loss(name):
    changes, kind, message = {**LOSS_ERRORS, **LINEAR_ERRORS}[name]
    message = message.replace("but logits has (2, 3, 4)", "but hidden has (2, 3, 5)")
    message = message.replace("but logits is", "but hidden is")
    linear_q_sft_loss(**linear_arguments())
    with pytest.raises(kind, match=re.escape(message)):
        linear_q_sft_loss(**linear_arguments(**changes))


def target_arguments(**changes):
    good = dict(
        reward=torch.zeros(2),
        done=torch.tensor([False, False]),
        next_q_logits=torch.zeros(2, 3),
        next_behavior_logits=torch.zeros(2, 3),
    )
    return {**good, **changes}


TARGET_ERRORS = {
    "backup unknown": ({"backup": "suport"}, ValueError, "not 'suport'. Nearest: \"support\"."),
    "gamma": ({"gamma": 1.1}, ValueError, "gamma must lie in [0, 1], not 1.1."),
    "gamma NaN": ({"gamma": NAN}, ValueError, "gamma must lie in [0, 1], not nan."),
    "support": ({"support": -0.1}, ValueError, "support must lie in [0, 1], not -0.1."),
    "leftover": ({"leftover": "dummy"}, ValueError, 'leftover must be "uniform" or the token id'),
    "dummy outside": ({"leftover": 3}, ValueError, "leftover names token 3"),
    "reward shape": ({"reward": torch.zeros(3)}, ValueError, "reward has shape (3,), but next_q"),
    "reward NaN": (
        {"reward": torch.tensor([0.0, NAN])},
        ValueError,
        "reward: 1 of 2 positions not finite; the first is at (1,), nan.",
    ),
    "done": (
        {"done": torch.tensor([2, 0])},
        ValueError,
        "done: 1 of 2 positions neither 0 nor 1; the first is at (0,), 2.",
    ),
    "vocabularies differ": (
        {"next_behavior_logits": torch.zeros(2, 4)},
        ValueError,
        "next_behavior_logits has a vocabulary of 4, but next_q_logits one of 3",
    ),
    "q logits NaN": (
        {"next_q_logits": torch.tensor([[0.0, 0, 0], [0, NAN, 0]])},
        ValueError,
        "next_q_logits: 1 of 2 positions with NaN, +inf or nothing but -inf among the logits; "
        "the first is at (1,), nan.",
    ),
    "behavior logits NaN": (
        {"next_behavior_logits": torch.tensor([[0.0, 0, NAN], [0, 0, 0]]), "backup": "behavior"},
        ValueError,
        "next_behavior_logits: 1 of 2 positions with NaN",
    ),
    "no action left": (
        {"next_behavior_logits": torch.full((2, 3), -INF)},
        ValueError,
        "next_behavior_logits: 2 of 2 positions with NaN, +inf or nothing but -inf",
    ),
    "no action but the dummy": (
        {"next_behavior_logits": torch.tensor([[-INF, 0, -INF], [0, 0, 0]]), "leftover": 1},
        ValueError,
        "next_behavior_logits: 1 of 2 positions with NaN, +inf or nothing but -inf",
    ),
}


@pytest.mark.parametrize("name", TARGET_ERRORS)
def test_bad_input_of_the_target(name):
    changes, kind, message = TARGET_ERRORS[name]
    bellman_target(**target_arguments())
    with pytest.raises(kind, match=re.escape(message)):
        bellman_target(**target_arguments(**changes))


@pytest.mark.parametrize("leftover", ["uniform", 3])
def test_without_checks_an_all_false_mask_gives_zero(leftover):
    options = dict(mask=torch.zeros(2, 3), leftover=leftover, validate=False)
    logits = torch.full((2, 3, 4), NAN, requires_grad=True)
    for reduction in ("mean", "sum", "none"):
        loss = q_sft_loss(**arguments(logits=logits), **options, reduction=reduction)
        assert (loss == 0).all()
        assert torch.equal(gradients(loss.sum(), logits)[0], torch.zeros(2, 3, 4))

    hidden, weight = torch.full((2, 3, 5), NAN), torch.ones(4, 5)
    hidden.requires_grad_(), weight.requires_grad_()
    loss = linear_q_sft_loss(**linear_arguments(hidden=hidden, weight=weight, **options))
    assert loss.item() == 0
    assert all((gradient == 0).all() for gradient in gradients(loss, hidden, weight))


def test_checks_of_the_data_can_be_switched_off():
    bad = changed(GOOD["target"], (1, 2), 1.5)
    assert q_sft_loss(**arguments(target=bad), validate=False).isfinite()
    assert linear_q_sft_loss(**linear_arguments(target=bad), validate=False).isfinite()
    bad = target_arguments(reward=torch.tensor([0.0, NAN]))
    assert bellman_target(**bad, validate=False)[1].isnan()


# The benchmark


def test_benchmark_runs_and_records(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("QSFT_RESULTS", str(tmp_path))
    monkeypatch.setenv("QSFT_COMMAND", "the test")  # or main would leave its own behind
    benchmark.main(["--profile", "smoke"])
    result = json.loads((tmp_path / "benchmark_loss.smoke.json").read_text())
    rows = result["tables"]["benchmark_loss"]
    assert any(row["ratio"].startswith("memory") for row in rows)
    printed = capsys.readouterr().out
    assert all(row["ratio"] in printed for row in rows)
