"""Supports and state values of the paired form against plain loops in double precision."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from largest_tensor import LargestTensor

from qsft_lite.loss import Backup, Support, linear_support, paired_state_value, paired_values

INF = math.inf
BACKUPS = ("max", "support", "behavior", "policy")


# The truth: one state at a time, in double precision


def products(hidden: torch.Tensor, weight: torch.Tensor) -> list[list[float]]:
    """All logits (N, V)."""
    states, rows = hidden.double().tolist(), weight.double().tolist()
    dot = lambda a, b: math.fsum(x * y for x, y in zip(a, b, strict=True))  # noqa: E731
    return [[dot(state, row) for row in rows] for state in states]


def softmax(logits: list[float]) -> list[float]:
    largest = max(logits)
    total = math.fsum(math.exp(z - largest) for z in logits)
    return [math.exp(z - largest) / total for z in logits]


def naive_support(logits: list[float], support: float) -> dict[int, float]:
    """pi of the likely actions by id, the likeliest always among them."""
    pi = softmax(logits)
    return {a: p for a, p in enumerate(pi) if p >= support or p == max(pi)}


def naive_value(logits, pi_logits, support, kind, prior, beta) -> float:
    pi = naive_support(pi_logits, support)
    c = math.log(prior / (1 - prior))
    q = {a: 1 / (1 + math.exp(-(logits[a] - pi_logits[a] + c))) for a in pi}
    if kind in ("max", "support"):
        return max(q.values())
    largest = max(beta * q[a] for a in pi)
    weight = {a: pi[a] * (math.exp(beta * q[a] - largest) if kind == "policy" else 1) for a in pi}
    return math.fsum(weight[a] * q[a] for a in pi) / math.fsum(weight.values())


# Random cases


def random(*shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


class States:
    """Hidden states and heads of a behavior policy, whose logits spread by sharpness, and a q."""

    def __init__(self, tokens, hidden_size, vocabulary, sharpness, seed, dtype=torch.float64):
        self.pi_hidden = random(tokens, 3, seed=seed, dtype=dtype)
        self.pi_weight = random(vocabulary, 3, seed=seed + 1, dtype=dtype) * sharpness
        self.hidden = random(tokens, hidden_size, seed=seed + 2, dtype=dtype)
        self.weight = random(vocabulary, hidden_size, seed=seed + 3, dtype=dtype)

    def support(self, support, **options) -> Support:
        return linear_support(self.pi_hidden, self.pi_weight, support, **options)


states = st.builds(
    States,
    tokens=st.integers(0, 9),
    hidden_size=st.integers(1, 6),  # to either side of where all logits are less than K rows
    vocabulary=st.integers(1, 40),
    sharpness=st.sampled_from((0.0, 1.0, 4.0)),
    seed=st.integers(0, 1000),
)
supports = st.sampled_from((0.0, 1e-6, 0.01, 0.1, 0.3, 1.0))
chunk_sizes = st.integers(1, 10)


@given(states, supports, chunk_sizes)
@settings(max_examples=200)
def test_support_equals_plain_python(case, support, chunk_size):
    found = case.support(support, chunk_size=chunk_size)
    all_logits = products(case.pi_hidden, case.pi_weight)
    expected = [naive_support(logits, support) for logits in all_logits]
    most = max((len(pi) for pi in expected), default=1)
    assert all(column.shape == (len(expected), most) for column in found)
    assert found.ids.dtype == torch.int64
    for i, (pi, logits) in enumerate(zip(expected, all_logits, strict=True)):
        is_in = found.log_pi[i] > -INF
        ids = found.ids[i][is_in].tolist()
        assert sorted(ids) == sorted(pi)  # each once
        in_order = found.log_pi[i].tolist()
        assert in_order == sorted(in_order, reverse=True)  # and -inf at the end
        for place, action in enumerate(ids):
            assert found.log_pi[i, place].item() == pytest.approx(math.log(pi[action]), abs=1e-9)
            assert found.behavior_logits[i, place].item() == pytest.approx(logits[action], abs=1e-9)
    assert ((found.ids >= 0) & (found.ids < len(case.pi_weight))).all()  # padding, too, can be read


@given(
    case=states,
    support=supports,
    chunks=st.tuples(chunk_sizes, chunk_sizes),
    kind=st.sampled_from(BACKUPS),
    prior=st.sampled_from((0.5, 0.03, 0.9)),
    beta=st.sampled_from((0.0, 1.0, 30.0, 1000.0)),
)
@settings(max_examples=300)
def test_state_values_equal_plain_python(case, support, chunks, kind, prior, beta):
    backup = Backup(kind, support, beta, "paired")
    values = paired_state_value(
        case.hidden,
        case.weight,
        case.support(support, chunk_size=chunks[0]),
        backup=backup,
        prior=prior,
        chunk_size=chunks[1],
    )
    logits = products(case.hidden, case.weight)
    pi_logits = products(case.pi_hidden, case.pi_weight)
    expected = [
        naive_value(z, z_phi, support, kind, prior, beta)
        for z, z_phi in zip(logits, pi_logits, strict=True)
    ]
    assert values.dtype == torch.float64
    truth = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(values, truth, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("kind", BACKUPS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("vocabulary", [60, 5000])  # by all logits, and by rows
def test_half_precision_parameters_are_multiplied_in_float32(kind, dtype, vocabulary):
    """Rounded to bfloat16, logits near 20 would err by .06, and values by up to .3."""
    case = States(50, 16, vocabulary, 3.0, seed=5, dtype=dtype)
    backup = Backup(kind, 0.01, 5.0, "paired")

    def values(dtype):
        pi_hidden, pi_weight, hidden, weight = (
            tensor.to(dtype)
            for tensor in (case.pi_hidden, case.pi_weight, case.hidden, case.weight)
        )
        support = linear_support(pi_hidden, pi_weight, 0.01)
        return paired_state_value(hidden, weight, support, backup=backup, prior=0.5)

    assert values(dtype).dtype == torch.float32
    torch.testing.assert_close(values(dtype).double(), values(torch.float64), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["support", "behavior", "policy"])
def test_both_ways_to_a_logit_give_the_same_value(kind):
    """10 actions of 3 numbers: by all logits of 29 tokens, which are fewer, but not of 31."""
    case = States(6, 3, 40, 0.0, seed=1)
    ids = torch.arange(10).expand(6, 10)
    support = Support(ids, random(6, 10, seed=9), random(6, 10).log_softmax(-1))
    backup = Backup(kind, 0.0, 2.0, "paired")
    values = []
    for vocabulary, numbers in ((29, 6 * 29), (31, 6 * 10 * 3)):
        with LargestTensor() as largest:
            weight = case.weight[:vocabulary]
            value = paired_state_value(case.hidden, weight, support, backup=backup, prior=0.5)
        assert largest.elements == numbers
        values.append(value)
    torch.testing.assert_close(*values)


def test_never_more_than_a_chunk_of_logits_or_of_rows():
    case = States(100, 6, 500, 4.0, seed=2, dtype=torch.float32)
    with LargestTensor() as largest:
        support = case.support(0.02, chunk_size=8)
    assert largest.elements == 8 * 500
    assert 2 < support.ids.shape[1] < 50
    for kept, numbers in ((support, 8 * support.ids.shape[1] * 6), (case.support(0.0), 8 * 500)):
        with LargestTensor() as largest:
            backup = Backup("behavior", 0.0, 1.0, "paired")
            paired_state_value(
                case.hidden, case.weight, kept, backup=backup, prior=0.5, chunk_size=8
            )
        # The support itself is given, and sliced; what is made is a chunk, or the head turned.
        assert largest.elements <= max(numbers, 500 * 6)


def test_support_by_hand():
    """pi = 1/2, 1/4, 1/4 and, of a second state, 1/4, 1/4, 1/2."""
    log2 = math.log(2)
    hidden = torch.eye(2, dtype=torch.float64)
    weight = torch.tensor([[2.0, 1], [1, 1], [1, 2]], dtype=torch.float64) * log2
    half = linear_support(hidden, weight, 0.3)
    assert half.ids.tolist() == [[0], [2]]
    torch.testing.assert_close(half.log_pi.exp(), torch.full((2, 1), 0.5, dtype=torch.float64))
    assert half.behavior_logits.tolist() == [[2 * log2], [2 * log2]]  # raw, not normalized
    edge = linear_support(hidden, weight, 0.25)
    assert edge.ids.shape == (2, 3)  # an action at the edge is in
    assert linear_support(hidden, weight, 0.9).ids.tolist() == [[0], [2]]
    assert linear_support(hidden, weight, 0.0).ids.shape == (2, 3)
    unlike = torch.tensor([[2.0, 9], [1, 1], [1, 2]], dtype=torch.float64) * log2
    padded = linear_support(hidden, unlike, 0.1, chunk_size=1)
    assert padded.log_pi[1].tolist()[1:] == [-INF, -INF] and padded.ids[1, 0] == 0


def test_a_support_of_no_states():
    case = States(0, 4, 7, 1.0, seed=0)
    support = case.support(0.1)
    backup = Backup("policy", 0.1, 1.0, "paired")
    values = paired_state_value(case.hidden, case.weight, support, backup=backup, prior=0.5)
    assert values.shape == (0,)


def test_support_and_values_carry_no_gradient():
    case = States(4, 4, 7, 1.0, seed=0)
    for tensor in (case.pi_hidden, case.pi_weight, case.hidden, case.weight):
        tensor.requires_grad_()
    support = case.support(0.1)
    backup = Backup("behavior", 0.1, 1.0, "paired")
    values = paired_state_value(case.hidden, case.weight, support, backup=backup, prior=0.5)
    assert not values.requires_grad and not support.log_pi.requires_grad


def test_the_values_lie_in_order():
    """The behavior's value, that of sharper and sharper policies, and the maximum."""
    case = States(30, 4, 20, 1.0, seed=3)
    support = case.support(0.0)

    def value(kind, beta=1.0):
        backup = Backup(kind, 0.0, beta, "paired")
        return paired_state_value(case.hidden, case.weight, support, backup=backup, prior=0.5)

    in_order = [value("behavior"), *(value("policy", beta) for beta in (0.0, 1.0, 10.0, 1e5))]
    torch.testing.assert_close(in_order[0], in_order[1])
    for lower, higher in zip(in_order[1:], in_order[2:], strict=False):
        assert (lower < higher).all()
    torch.testing.assert_close(in_order[-1], value("max"), rtol=0, atol=1e-3)


@given(
    st.lists(st.tuples(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4)), min_size=1, max_size=20),
    st.sampled_from((0.5, 1e-6, 0.97)),
    st.sampled_from((torch.float64, torch.float32, torch.bfloat16)),
)
def test_values_equal_plain_python(scores, prior, dtype):
    logits, behavior_logits = torch.tensor(scores, dtype=torch.float64).to(dtype).T
    values = paired_values(logits, behavior_logits, prior)
    assert values.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    c = math.log(prior / (1 - prior))
    for value, z, z_phi in zip(values, logits.tolist(), behavior_logits.tolist(), strict=True):
        x = z - z_phi + c
        q = 1 / (1 + math.exp(-x)) if x > -700 else 0.0
        assert value.item() == pytest.approx(q, rel=1e-2 if abs(x) > 60 else 1e-4, abs=1e-38)
        assert 0 <= value <= 1


def test_what_both_networks_rule_out_has_no_value():
    ruled_out = torch.tensor([-INF, 0.0])
    assert paired_values(ruled_out, ruled_out).isnan().tolist() == [True, False]
    assert paired_values(ruled_out, torch.zeros(2)).tolist() == [0.0, 0.5]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c: c.support(0.1, chunk_size=0), "chunk_size must be at least 1, not 0"),
        (lambda c: c.support(0.1, chunk_size=-1), "chunk_size must be at least 1, not -1"),
        (lambda c: c.support(1.5), "support must lie in"),
        (lambda c: c.support(math.nan), "support must lie in"),
        (lambda c: value_of(c, chunk_size=-1), "chunk_size must be at least 1, not -1"),
        (lambda c: value_of(c, kind="returns"), "backup must be one of \"max\", .* not 'returns'"),
        (lambda c: value_of(c, kind="recorded"), "backup must be one of"),
        (lambda c: value_of(c, prior=1.0), "prior must lie strictly between 0 and 1, not 1.0"),
    ],
)
def test_bad_options(call, message):
    with pytest.raises(ValueError, match=message):
        call(States(3, 4, 5, 1.0, seed=0))


def value_of(case, kind="support", prior=0.5, **options):
    backup = Backup(kind, 0.1, 1.0, "paired")
    given = (case.hidden, case.weight, case.support(0.1))
    return paired_state_value(*given, backup=backup, prior=prior, **options)
