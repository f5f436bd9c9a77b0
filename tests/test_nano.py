"""qsft_lite.nano against the package, step for step, and against exact tables."""

import ast
import copy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import GPT2Config, GPT2LMHeadModel

from qsft_lite import data, envs, models, nano, tabular
from qsft_lite.loss import Backup
from qsft_lite.policy import QSFTPolicy
from qsft_lite.trainer import QSFTConfig, QSFTTrainer, paired_step, train_q_sft

STEPS, ROWS = 6, 3  # of training, and of a batch
GAMMA = 0.5  # its powers are exact in the data's float32, as are the returns
LAYOUT = ("S..", ".#.", "T.G")
ENV = envs.make("gridworld", maze=LAYOUT)
TOKENIZER = models.word_tokenizer(ENV.texts)
# nano's backups; "returns" is returns_first=1, and "max" is "support" that leaves nothing out.
BACKUPS = ("behavior", "support", "returns", "max")


def packed(episodes: int, seed: int, max_steps: int = 6, length: int = 40, **options) -> list[dict]:
    """Rows of recorded walks from any cell, some of which are cut off."""
    anywhere = np.full(ENV.mdp.n_states, 1 / ENV.mdp.n_states)
    walks = envs.generate(
        "gridworld", episodes, seed, maze=LAYOUT, starts=anywhere, max_steps=max_steps, **options
    )
    scale = data.RewardScale(0, 1, place="step")
    encoded = data.encode(walks, TOKENIZER, scale=scale, gamma=GAMMA)
    return list(data.pack(encoded, length))


@pytest.fixture(scope="module")
def rows():
    return packed(150, seed=0)[: STEPS * ROWS]


@pytest.fixture(scope="module")
def batches(rows):
    found = [data.collate(rows[i : i + ROWS]) for i in range(0, len(rows), ROWS)]
    assert len(found) == STEPS
    # All that the target tells apart is there: several episodes in a row, ends, and cuts.
    assert all((batch["segment_ids"] > 1).any() for batch in found)
    following = torch.cat([batch["next_action"][batch["action_mask"]] for batch in found])
    assert (following == -1).any()
    assert any(batch["reward"].any() for batch in found)
    return found


def new_model(seed: int, sharp: float = 1.0):
    """A small transformer in double precision; sharp ones are less close to uniform."""
    model = models.small_model(TOKENIZER, layers=2, width=32, heads=2, context=40, seed=seed)
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(sharp)
    return model.double()


def nano_settings(backup: str, **options) -> nano.Settings:
    usual = {"support": 0.06, "target_rate": 0.3, "learning_rate": 5e-3, "returns_first": 0.0}
    known = {
        "returns": {"returns_first": 1.0},
        "max": {"backup": "support", "support": 0.0},
    }
    return nano.Settings(**(usual | known.get(backup, {"backup": backup}) | options))


def package_settings(folder: Path, stage: str, backup: str, **options) -> QSFTConfig:
    usual = {
        "support": 0.06,
        "target_rate": 0.3,
        "learning_rate": 5e-3,
        "optim": "adamw_torch",
        "per_device_train_batch_size": ROWS,
        "max_steps": STEPS,
        "train_sampling_strategy": "sequential",
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
    }
    usual |= {"leftover": "paired", "backup": backup}
    return QSFTConfig(output_dir=str(folder / stage), stage=stage, **(usual | options))


def flat(tensors) -> torch.Tensor:
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors]).clone()


def weights_after_each_step(train, parameters=None):
    """What train() returns, and the weights (steps, P) after each step of its optimizer.

    parameters: whose weights; those of the optimizer, in its order, when None.
    """
    seen = []

    def note(optimizer, *_):
        [group] = optimizer.param_groups if parameters is None else [None]
        seen.append(flat(group["params"] if parameters is None else parameters))

    handle = register_optimizer_step_post_hook(note)
    try:
        return train(), torch.stack(seen)
    finally:
        handle.remove()


class Noting(QSFTTrainer):
    """The package's trainer, with the exact loss of each step."""

    def compute_loss(self, *args, **options):
        loss = super().compute_loss(*args, **options)
        self.losses = [*getattr(self, "losses", []), loss.item()]
        return loss


def assert_same_training(ours, theirs, start) -> None:
    """Losses and weights of each step; and training has moved the weights far more than that."""
    (losses, weights), (expected_losses, expected_weights) = ours, theirs
    assert len(losses) == len(weights) == len(expected_losses) == STEPS
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-9)
    torch.testing.assert_close(weights, expected_weights, rtol=1e-7, atol=1e-9)
    assert (weights[0] - start).abs().max() > 1e-3
    assert (weights[1:] - weights[:-1]).abs().amax(1).min() > 1e-4


# A step of either stage


@pytest.mark.parametrize("prior", [0.5, 0.2])
@pytest.mark.parametrize(
    ("backup", "support"),
    # With .9 no action has enough, and the likeliest one is taken.
    [
        ("behavior", 0.06),
        ("behavior", 0.9),
        ("behavior", 0.0),
        ("support", 0.06),
        ("support", 0.9),
        ("max", 0.0),
        ("returns", 0.06),
    ],
)
def test_the_loss_and_its_gradient_are_those_of_the_package(batches, backup, support, prior):
    q, target, pi = (new_model(seed, sharp=3.0) for seed in range(3))
    settings = nano_settings(backup, support=support, prior=prior)
    for batch in batches:
        kind = Backup(backup, support)
        expected, _ = paired_step(q, target, pi, batch, backup=kind, prior=prior)
        expected_gradient = flat(torch.autograd.grad(expected, list(q.parameters())))
        if backup == "returns":
            y = batch["return_to_go"][batch["action_mask"]]
        else:
            y = nano.bellman_target(target, pi, batch, settings)
        loss = nano.q_sft_loss(q, pi, batch, y, settings)
        gradient = flat(torch.autograd.grad(loss, list(q.parameters())))
        torch.testing.assert_close(loss, expected, rtol=1e-10, atol=0)
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-7, atol=1e-12)


def test_backups_and_their_settings_differ_in_these_tests(batches):
    """Else the test above could not tell them apart."""
    target, pi = new_model(1, sharp=3.0), new_model(2, sharp=3.0)

    def targets(backup, **options):
        return nano.bellman_target(target, pi, batches[0], nano_settings(backup, **options))

    usual = targets("support")
    torch.testing.assert_close(targets("support", support=1e-9), targets("max"))
    others = (targets("max"), targets("behavior"), targets("support", prior=0.2))
    for y in (usual, *others):
        assert ((y > 0) & (y < 1)).float().mean() > 0.3
    for y in others:
        assert (y - usual).abs().max() > 0.01


@torch.no_grad()
def test_an_action_at_the_very_edge_of_the_support_is_in(batches):
    target, pi = new_model(1, sharp=3.0), new_model(2, sharp=3.0)
    batch = batches[0]
    row, place = batch["action_mask"].nonzero(as_tuple=True)
    following = batch["next_action"][row, place]
    z, z_pi = (nano.logits_of(model, batch)[row, following - 1] for model in (target, pi))
    best = (z - z_pi).argmax(-1, keepdim=True)
    # Where the best action is not the likeliest, and the target depends on it.
    changed = (following >= 0) & (z_pi.argmax(-1) != best[:, 0])
    action = int(changed.nonzero()[0])
    edge = float(z_pi.softmax(-1)[action, best[action]])
    found = []
    for support in (0.99 * edge, edge * (1 + 5e-6), 1.01 * edge):
        settings = nano_settings("support", support=support)
        y = nano.bellman_target(target, pi, batch, settings)
        kind = Backup("support", support)
        expected, _ = paired_step(target, target, pi, batch, backup=kind, prior=0.5)
        loss = nano.q_sft_loss(target, pi, batch, y, settings)
        torch.testing.assert_close(loss, expected, rtol=1e-10, atol=0)
        found.append(y[action].item())
    assert found[0] == found[1] > found[2]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("backup", ["behavior", "support"])
def test_other_models_too_and_in_float32(batches, attention, backup):
    size = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 40, "resid_pdrop": 0.0}
    tokens = {"vocab_size": len(TOKENIZER), "bos_token_id": None, "eos_token_id": None}
    config = GPT2Config(attn_implementation=attention, **tokens, **size)
    torch.manual_seed(0)
    q, target, pi = (GPT2LMHeadModel(config).eval() for _ in range(3))
    settings = nano_settings(backup)
    kind = Backup(backup, settings.support)
    expected, _ = paired_step(q, target, pi, batches[0], backup=kind, prior=0.5)
    y = nano.bellman_target(target, pi, batches[0], settings)
    loss = nano.q_sft_loss(q, pi, batches[0], y, settings)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)


def test_values_begin_as_the_prior(batches):
    pi = new_model(0, sharp=3.0)
    settings = nano_settings("support", prior=0.3)
    y = nano.bellman_target(pi, pi, batches[0], settings)
    row, place = batches[0]["action_mask"].nonzero(as_tuple=True)
    goes_on = batches[0]["next_action"][row, place] >= 0
    reward, discount = (batches[0][name][row, place].double() for name in ("reward", "discount"))
    torch.testing.assert_close(y[goes_on], (reward + discount * 0.3)[goes_on])
    torch.testing.assert_close(y[~goes_on], reward[~goes_on])


def test_a_backup_that_means_nothing_is_refused(batches):
    with pytest.raises(KeyError):
        nano.bellman_target(new_model(0), new_model(1), batches[0], nano.Settings(backup="supprot"))


# Whole training


def test_stage_one_is_the_trainers_step_for_step(tmp_path, rows, batches):
    start = new_model(0)
    before = flat(start.parameters())
    settings = nano_settings("support", max_grad_norm=0.5)
    (pi, losses), weights = weights_after_each_step(
        lambda: nano.train_behavior(start, batches, settings)
    )
    assert torch.equal(flat(start.parameters()), before)  # a copy was trained
    assert torch.equal(flat(pi.parameters()), weights[-1])

    theirs = copy.deepcopy(start)
    args = package_settings(tmp_path, "behavior", "support", max_grad_norm=0.5)
    trainer = Noting(theirs, args, rows, None, TOKENIZER)
    _, expected = weights_after_each_step(trainer.train, list(theirs.parameters()))
    assert_same_training((losses, weights), (trainer.losses, expected), before)


@pytest.mark.parametrize("backup", BACKUPS)
def test_stage_two_is_the_trainers_step_for_step(tmp_path, rows, batches, backup):
    pi = new_model(0, sharp=3.0)
    before = flat(pi.parameters())
    settings = nano_settings(backup, prior=0.3, max_grad_norm=0.5)
    (q, losses), weights = weights_after_each_step(lambda: nano.train_values(pi, batches, settings))
    assert torch.equal(flat(pi.parameters()), before)
    assert torch.equal(flat(q.parameters()), weights[-1])

    theirs = copy.deepcopy(pi)
    args = package_settings(tmp_path, "values", backup, prior=0.3, max_grad_norm=0.5)
    trainer = Noting(theirs, args, rows, None, TOKENIZER)
    _, expected = weights_after_each_step(trainer.train, list(theirs.parameters()))
    assert_same_training((losses, weights), (trainer.losses, expected), before)


@pytest.mark.parametrize("backup", ["behavior", "support"])
def test_both_stages_end_with_the_weights_of_train_q_sft(tmp_path, rows, batches, backup):
    start = new_model(0)
    settings = nano_settings(backup, returns_first=0.5)
    pi, _ = nano.train_behavior(start, batches, settings)
    q, _ = nano.train_values(pi, batches, settings)
    args = [
        package_settings(tmp_path, stage, backup, returns_first=0.5)
        for stage in ("behavior", "values")
    ]
    trained = train_q_sft(start, TOKENIZER, rows, None, *args)
    for ours, theirs in ((pi, trained.behavior), (q, trained.q_model)):
        expected = flat(theirs.parameters())
        torch.testing.assert_close(flat(ours.parameters()), expected, rtol=1e-7, atol=1e-9)
    assert (flat(q.parameters()) - flat(pi.parameters())).abs().max() > 1e-2
    assert not pi.training and not q.training


# The policy


@pytest.mark.parametrize("prior", [0.5, 0.2])
@pytest.mark.parametrize(("beta", "support"), [(0.0, 0.0), (3.0, 0.0), (16.0, 0.2), (1e3, 0.6)])
def test_the_extracted_policy_is_the_packages(prior, beta, support):
    generator = torch.Generator().manual_seed(0)
    logits = [3 * torch.randn(50, len(TOKENIZER), generator=generator) for _ in range(2)]
    options = {"relative_support": support, "prior": prior}
    policy = QSFTPolicy(new_model(0), new_model(1), TOKENIZER, beta, "paired", **options)
    expected = policy.log_weights(logits).log_softmax(-1)
    settings = nano.Settings(beta=beta, prior=prior, play_support=support)
    found = nano.extract_policy(*logits, settings)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(found.exp().sum(-1), torch.ones(50))


def test_play_draws_from_the_extracted_policy():
    """Actions of up to two tokens, against the policy's probabilities of each token."""
    pi, q = new_model(0, sharp=2.0), new_model(1, sharp=2.0)
    settings = nano.Settings(beta=2.0, play_support=0.3)
    ids = TOKENIZER.convert_tokens_to_ids([TOKENIZER.bos_token, ENV.state_texts[0]])

    def probabilities(history):
        logits = [model(input_ids=torch.tensor([history])).logits[0, -1] for model in (pi, q)]
        return nano.extract_policy(*logits, settings).exp().detach()

    first = probabilities(ids)
    stop, other = first.topk(2).indices.tolist()
    torch.manual_seed(0)
    actions = [nano.act(pi, q, ids, settings, stop, most=2) for _ in range(200)]
    assert all(len(action) == (1 if action[0] == stop else 2) for action in actions)
    second = [action[1] for action in actions if action[0] == other]
    drawn = [([action[0] for action in actions], first), (second, probabilities([*ids, other]))]
    for tokens, expected in drawn:
        shares = np.bincount(tokens, minlength=len(expected)) / len(tokens)
        spread = (expected * (1 - expected) / len(tokens)).sqrt().numpy()
        assert (np.abs(shares - expected.numpy()) <= 4 * spread).all()
        assert 3 <= (shares > 0).sum() < len(expected)


# Against exact values


class Table(nn.Module):
    """Logits that depend on the last token only, one free number for each pair of tokens."""

    def __init__(self, size: int):
        super().__init__()
        self.table = nn.Embedding(size, size, dtype=torch.float64)
        nn.init.zeros_(self.table.weight)

    def forward(self, input_ids, **_):
        return type("Output", (), {"logits": self.table(input_ids)})


@pytest.fixture(scope="module")
def fitted():
    """All rows of recorded walks as one batch; pi, fitted by nano; and what pi is, counted."""
    policy = np.random.default_rng(0).dirichlet(np.full(4, 4.0), ENV.mdp.n_states)
    batch = data.collate(packed(200, 1, max_steps=8, length=18, behavior=policy))
    size = len(TOKENIZER)
    state_ids = TOKENIZER.convert_tokens_to_ids(list(ENV.state_texts))
    row, place = batch["action_mask"].nonzero(as_tuple=True)
    counts = np.zeros((size, size))
    np.add.at(counts, (batch["input_ids"][row, place - 1], batch["input_ids"][row, place]), 1)
    counted = counts[state_ids] / counts[state_ids].sum(1, keepdims=True)
    pi, _ = nano.train_behavior(Table(size), [batch] * 300, nano.Settings(learning_rate=0.3))
    found = pi.table.weight[state_ids].softmax(-1).detach().numpy()
    assert np.abs(found - counted).max() < 1e-3
    return batch, pi, counted, state_ids


@pytest.mark.parametrize("backup", ["support", "behavior"])
def test_values_land_on_the_exact_fixed_point(fitted, backup, record_property):
    batch, pi, counted, state_ids = fitted
    action_ids = TOKENIZER.convert_tokens_to_ids(list(ENV.action_texts))
    moves = counted[:, action_ids]
    np.testing.assert_allclose(moves.sum(1), 1)
    assert moves.min() > 0.03  # no move is near the edge of the support
    mdp = tabular.TabularMDP(ENV.mdp.P, ENV.mdp.R, GAMMA)
    if backup == "support":
        exact = tabular.value_iteration(mdp)
    else:
        exact = tabular.q_sft(mdp, moves, leftover="paired", backup="behavior").target

    settings = nano_settings(backup, support=0.02, learning_rate=0.5, returns_first=0.25, prior=0.2)
    q, _ = nano.train_values(pi, [batch] * 400, settings)
    added = nano.value_logits(q.table.weight, pi.table.weight, settings)
    learned = added.sigmoid()[state_ids][:, action_ids].detach().numpy()
    error = np.abs(learned - exact).max()
    record_property("largest_error", float(error))
    print(f"largest error of Q, {backup}: {error:.1e}")
    assert error < 3e-3
    assert np.abs(exact - settings.prior).max() > 0.3  # far from where training began


# One page


def test_nano_is_one_page_of_plain_pytorch():
    source = Path(nano.__file__).read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 150
    imported = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add(node.module.split(".")[0])
    assert imported - sys.stdlib_module_names == {"torch"}
