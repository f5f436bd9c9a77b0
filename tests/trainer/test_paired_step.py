"""A step of the paired form against plain loops over rows and tokens, in float64."""

import copy

import numpy as np
import pytest
import torch
from test_trainer import LENGTH, TOKENIZER, collate_columns, model, random_rows, weights_gradient
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from qsft_lite.data import collate
from qsft_lite.loss import Backup
from qsft_lite.models import NewHead
from qsft_lite.trainer.paired_step import behavior_columns, paired_step
from qsft_lite.trainer.step import behavior_step

VOCABULARY, WIDTH = len(TOKENIZER), 32
SUPPORT = 0.04
KINDS = ("returns", "recorded", "behavior", "support", "policy", "max")


def backup_of(kind: str) -> Backup:
    return Backup(kind, SUPPORT, 3.0)


def networks(values: str = "logits"):
    """q, its target and the behavior policy, far from uniform and far from one another."""
    q, target, behavior = (model(seed, width=WIDTH).double().eval() for seed in range(3))
    if values == "head":
        q, target = (NewHead.on(one, seed=seed).double() for seed, one in enumerate((q, target)))
    with torch.no_grad():
        for seed, one in enumerate((q, target, behavior)):
            if isinstance(one, NewHead):
                torch.manual_seed(seed)
                one.output.weight.normal_()
            else:
                one.lm_head.weight *= 40
    return q, target, behavior


def rows_of_turns(count: int) -> list[dict]:
    """An episode a row whose turns are segments of their own, as of memory="turn".

    The next action is in the next turn; the last turn of every other row was cut off.
    """
    rng = np.random.default_rng(3)
    rows = []
    for number in range(count):
        row = {name: np.full(LENGTH, padding) for name, padding in collate_columns().items()}
        sizes, start = [5, 4, 6], 0
        actions = []
        for turn, size in enumerate(sizes):
            place = slice(start, start + size)
            row["input_ids"][place] = [1, *rng.integers(3, VOCABULARY, size - 1)]
            row["position_ids"][place] = np.arange(size)
            row["segment_ids"][place] = turn + 1
            if turn < 2 or number % 2:
                actions += [start + size - 2, start + size - 1]  # two tokens an action
            start += size
        row["action_mask"][actions] = True
        row["reward"][actions] = rng.random(len(actions)) / 3
        row["discount"][actions] = 0.9
        row["return_to_go"][actions] = rng.random(len(actions))
        row["next_action"][actions[:-1]] = actions[1:]
        if not number % 2:
            row["next_action"][actions[-1]] = start  # after the state that nobody acted in
        rows.append(row)
    return rows


# The twin


def logits_of(network, row: dict) -> torch.Tensor:
    """(L, V): full logits at every token, each segment of the row by itself."""
    found = torch.zeros(LENGTH, VOCABULARY, dtype=torch.float64)
    for segment in sorted({*row["segment_ids"].tolist()} - {0}):
        (inside,) = np.nonzero(row["segment_ids"] == segment)
        ids = torch.tensor(row["input_ids"][inside])[None]
        found = found.index_put((torch.tensor(inside),), network(input_ids=ids).logits[0])
    return found


def logistic(x):
    return 1 / (1 + torch.exp(-x))


def state_value(target, pi_logits, reference, kind, prior) -> torch.Tensor:
    """Value of one state from logits (V,) and the formulas of loss.paired."""
    pi = pi_logits.exp() / pi_logits.exp().sum()
    q = logistic(target - reference + np.log(prior / (1 - prior)))
    inside = [a for a in range(VOCABULARY) if kind == "max" or pi[a] >= SUPPORT]
    inside = inside or [int(pi.argmax())]
    if kind in ("support", "max"):
        return max(q[a] for a in inside)
    sharpness = 3.0 if kind == "policy" else 0.0
    weight = [pi[a] * torch.exp(sharpness * q[a]) for a in inside]
    return sum(w * q[a] for w, a in zip(weight, inside, strict=True)) / sum(weight)


def twin(q, target, behavior, rows, kind, prior):
    """Loss, raw targets, values and returns of the actions, in plain loops."""
    losses, targets, values, returns = [], [], [], []
    for row in rows:
        z, z_bar, z_phi = (logits_of(one, row) for one in (q, target, behavior))
        reference = torch.zeros_like(z_phi) if isinstance(q, NewHead) else z_phi
        c = np.log(prior / (1 - prior))
        for i in np.flatnonzero(row["action_mask"]):
            token, after = int(row["input_ids"][i]), int(row["next_action"][i])
            y = torch.tensor(np.float32(row["reward"][i]), dtype=torch.float64)
            if kind == "returns":
                y = torch.tensor(np.float32(row["return_to_go"][i]), dtype=torch.float64)
            elif after >= 0:
                following = after < LENGTH and bool(row["action_mask"][after])
                if kind == "recorded" and following:
                    b = int(row["input_ids"][after])
                    value = logistic(z_bar[after - 1, b] - reference[after - 1, b] + c)
                else:
                    expected = "behavior" if kind == "recorded" else kind
                    states = z_bar[after - 1], z_phi[after - 1], reference[after - 1]
                    value = state_value(*states, expected, prior)
                y = y + float(np.float32(row["discount"][i])) * value.detach()
            p = logistic(z[i - 1, token] - reference[i - 1, token].detach() + c)
            bounded = y.clamp(0, 1)
            losses.append(-(bounded * torch.log(p) + (1 - bounded) * torch.log(1 - p)))
            for column, one in ((targets, y), (values, p)):
                column.append(float(one.detach()))
            returns.append(float(np.float32(row["return_to_go"][i])))
    return torch.stack(losses).mean(), *map(np.array, (targets, values, returns))


@pytest.mark.parametrize("values", ["logits", "head"])
@pytest.mark.parametrize("turns", [False, True], ids=["episodes", "turns"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_equals_plain_loops(kind, turns, values):
    rows = rows_of_turns(4) if turns else random_rows(4, seed=7)
    q, target, behavior = networks(values)
    prior, options = 0.3, {"backup": backup_of(kind), "prior": 0.3, "statistics": True}
    loss, found = paired_step(q, target, behavior, collate(rows), **options)
    expected, y, value, returns = twin(q, target, behavior, rows, kind, prior)
    torch.testing.assert_close(loss, expected, rtol=1e-7, atol=1e-10)  # norms are in float32
    loss.backward()
    gradient = weights_gradient(q)
    q.zero_grad()
    expected.backward()
    torch.testing.assert_close(gradient, weights_gradient(q), rtol=1e-5, atol=1e-8)
    assert all(p.grad is None for one in (target, behavior) for p in one.parameters())

    clamped = y.clip(0, 1)
    said = {
        "target_mean": clamped.mean(),
        "target_std": clamped.std(),
        "clamped": (clamped != y).mean(),
        "value_bias": (value - returns).mean(),
        "value_correlation": np.corrcoef(value, returns)[0, 1],
        "q_05": np.quantile(value, 0.05),
        "q_50": np.quantile(value, 0.5),
        "q_95": np.quantile(value, 0.95),
    }
    assert {name: one.item() for name, one in found.items()} == pytest.approx(said, abs=1e-6)

    # The same from what the behavior policy was asked before; it is not asked again.
    cached = collate(rows) | behavior_columns(behavior, collate(rows), backup_of(kind))
    again, _ = paired_step(q, target, None, cached, **options)
    torch.testing.assert_close(again, loss, rtol=0, atol=1e-5)  # it is kept in float32


def test_some_rows_are_cut_off_and_some_targets_clamped():
    """So that the test above has met what it is about."""
    for rows in (random_rows(4, seed=7), rows_of_turns(4)):
        recorded, cut_off = 0, 0
        for row in rows:
            for after in row["next_action"][row["next_action"] >= 0]:
                inside = after < LENGTH and row["action_mask"][after]
                recorded, cut_off = recorded + bool(inside), cut_off + (not inside)
        assert recorded > 4 and cut_off >= 2
    pi = torch.stack([logits_of(networks()[2], row) for row in random_rows(4, seed=7)]).softmax(-1)
    assert 1 < (pi >= SUPPORT).sum(-1).float().mean() < VOCABULARY - 2


def test_an_episode_that_fills_its_row_has_no_next_action_in_the_row_after():
    """Cut off at the row's end, its next state is the last token, whatever comes after that."""
    rng = np.random.default_rng(0)
    rows = []
    for action in (LENGTH - 2, 2):
        row = {name: np.full(LENGTH, padding) for name, padding in collate_columns().items()}
        row["input_ids"][:] = rng.integers(3, VOCABULARY, LENGTH)
        row["position_ids"][:], row["segment_ids"][:] = np.arange(LENGTH), 1
        row["action_mask"][action] = True
        row["discount"][action], row["next_action"][action] = 1.0, LENGTH
        rows.append(row)
    rows[1]["action_mask"][0] = True  # right after the first row, if the rows were one
    columns = behavior_columns(networks()[2], collate(rows), backup_of("recorded"))
    assert (columns["support_sizes"] > 0).nonzero().tolist() == [[0, LENGTH - 2], [1, 2]]


def test_random_targets_are_uniform_and_ask_nothing():
    q, _, behavior = networks()
    torch.manual_seed(0)
    batch = collate(random_rows(200))
    options = {"backup": Backup("random"), "prior": 0.5, "statistics": True}
    _, found = paired_step(q, None, behavior, batch, **options)
    assert found["target_mean"].item() == pytest.approx(0.5, abs=0.03)
    assert found["target_std"].item() == pytest.approx(12**-0.5, abs=0.02)


@pytest.mark.parametrize("kind", ["returns", "recorded"])
def test_without_clamping_a_target_outside_stops(kind):
    rows = random_rows(4, seed=7)
    for row in rows:
        row["reward"] = np.where(row["action_mask"], 0.9, 0.0)
        row["return_to_go"] = np.where(row["action_mask"], 1.1, 0.0)
    options = {"backup": backup_of(kind), "prior": 0.5}
    with pytest.raises(FloatingPointError, match="targets reach .* outside"):
        paired_step(*networks(), collate(rows), **options, clamp=False)
    loss, _ = paired_step(*networks(), collate(rows), **options)
    assert loss.isfinite()


@pytest.mark.parametrize("kind", ["returns", "recorded", "support"])
def test_rows_without_actions_cost_nothing_and_say_nothing(kind):
    empty = random_rows(2)
    for row in empty:
        row["action_mask"] = np.zeros_like(row["action_mask"])
    q, target, behavior = networks()
    batch = collate(empty)
    options = {"backup": backup_of(kind), "prior": 0.5, "statistics": True}
    loss, found = paired_step(q, target, behavior, batch, **options)
    assert loss == 0 and found == {}
    batch |= behavior_columns(behavior, batch, backup_of(kind))
    assert paired_step(q, target, None, batch, **options)[0] == 0


def test_values_begin_at_the_prior():
    _, _, behavior = networks()
    options = {"backup": backup_of("recorded"), "prior": 0.2, "statistics": True}
    for q in (copy.deepcopy(behavior), NewHead.on(behavior)):
        _, found = paired_step(q, q, behavior, collate(random_rows(4, seed=7)), **options)
        for share in ("q_05", "q_50", "q_95"):
            assert found[share].item() == pytest.approx(0.2, abs=1e-12)


# What is not worked out


class Shapes(TorchDispatchMode):
    """The shapes of all tensors that are worked out."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        found = function(*arguments, **options or {})
        for one in found if isinstance(found, (tuple, list)) else (found,):
            if isinstance(one, torch.Tensor):
                self.seen.append(tuple(one.shape))
        return found


def states_scored(q, target, behavior, rows, kind) -> list[int]:
    """Of how many states logits over the whole vocabulary were worked out, each time."""
    with Shapes() as shapes:
        options = {"backup": backup_of(kind), "prior": 0.5, "statistics": True}
        paired_step(q, target, behavior, collate(rows), **options)[0].backward()
    sizes = [shape[:-1] for shape in shapes.seen if shape and shape[-1] == VOCABULARY]
    return sorted({int(np.prod(size)) for size in sizes} - {WIDTH})  # which is the head, turned


@pytest.mark.parametrize("values", ["logits", "head"])
def test_single_logits_are_all_that_is_read(values):
    rows = random_rows(6, seed=7)
    for row in rows:  # no next state that nobody acted in
        row["next_action"] = np.where(
            row["next_action"] >= 0,
            np.where(
                row["action_mask"][row["next_action"].clip(0, LENGTH - 1)]
                & (row["next_action"] < LENGTH),
                row["next_action"],
                -1,
            ),
            -1,
        )
    assert sum((row["next_action"] >= 0).sum() for row in rows) > 10
    for kind in ("returns", "recorded"):
        assert states_scored(*networks(values), rows, kind) == []
    assert states_scored(*networks(values), rows, "support") != []


def test_of_episodes_that_were_cut_off_the_last_states_alone_are_scored():
    rows = random_rows(6, seed=7)
    cut_off = 0
    for row in rows:
        after = row["next_action"][row["next_action"] >= 0]
        cut_off += sum(a == LENGTH or not row["action_mask"][min(a, LENGTH - 1)] for a in after)
    assert cut_off > 2
    assert states_scored(*networks(), rows, "recorded") == [cut_off]


def step_flops(kind, batch, q, target, behavior) -> int:
    with FlopCounterMode(display=False) as counter:
        options = {"backup": backup_of(kind), "prior": 0.5}
        paired_step(q, target, behavior, batch, **options)[0].backward()
    return counter.get_total_flops()


def test_a_step_costs_what_it_should():
    """In units of cloning: 1 for forward and backward of q, a third for each further network."""
    batch = collate(random_rows(8))
    models = [model(seed, layers=4, width=WIDTH) for seed in range(3)]
    for frozen in models[1:]:
        frozen.requires_grad_(False)
    with FlopCounterMode(display=False) as counter:
        behavior_step(models[0], batch).backward()
    supervised = counter.get_total_flops()

    def costs(kind, cached=False):
        kept = behavior_columns(models[2], batch, backup_of(kind)) if cached else {}
        own = models[2] if not cached else None
        return step_flops(kind, batch | kept, models[0], models[1], own) / supervised

    assert 1.55 < costs("recorded") < 1.67
    assert 1.25 < costs("recorded", cached=True) < 1.34
    assert 0.9 < costs("returns", cached=True) < 1.0 < costs("returns") < 1.34
    assert costs("support", cached=True) < 1.37
