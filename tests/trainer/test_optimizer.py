"""Muon against the singular value decomposition, AdamW against torch's, and which gets what."""

import copy

import pytest
import torch
from torch import nn

from qsft_lite.models import small_model, word_tokenizer
from qsft_lite.trainer.optimizer import MuonAdamW, layer_matrices, orthogonalize, orthogonalize_all


@pytest.fixture
def model():
    return small_model(word_tokenizer("a b c "), layers=2, width=16, heads=2, context=8, seed=0)


@pytest.mark.parametrize("shape", [(24, 24), (8, 40), (40, 8)])
def test_orthogonalize_keeps_the_directions_and_evens_out_their_sizes(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    found = left.T @ orthogonalize(matrix) @ right.T
    sizes = found.diagonal()
    assert (sizes > 0.3).all() and (sizes < 1.3).all() and sizes.median() > 0.65
    assert (found - sizes.diag()).abs().max() < 1e-9  # no direction turns


def test_matrices_together_are_as_each_alone():
    generator = torch.Generator().manual_seed(0)
    shapes = [(8, 20), (20, 8), (8, 8), (8, 20), (1, 5), (300, 400), (400, 300)]
    matrices = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    together = orthogonalize_all(matrices)
    for matrix, found in zip(matrices, together, strict=True):
        alone = orthogonalize(matrix)
        assert found.shape == matrix.shape
        torch.testing.assert_close(found, alone, rtol=1e-9, atol=1e-12)
    assert orthogonalize_all([]) == []


def test_layers_get_muon_and_everything_else_adam(model):
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    chosen = {names[id(parameter)] for parameter in layer_matrices(model)}
    expected = {name for name in names.values() if ".layers." in name and "norm" not in name}
    assert chosen == expected and len(chosen) == 14
    with_head = nn.ModuleDict({"model": model, "heads": nn.ModuleList([nn.Linear(16, 16)])})
    assert len(layer_matrices(with_head)) == 14


def test_the_rest_moves_as_by_torch_adamw(model):
    other = small_model(word_tokenizer("a b c "), layers=2, width=16, heads=2, context=8, seed=0)
    ours = MuonAdamW(model, lr=1e-2, weight_decay=0.1, betas=(0.9, 0.98))
    names = dict(other.named_parameters())
    rest = [p for name, p in names.items() if ".layers." not in name or "norm" in name]
    theirs = torch.optim.AdamW(rest, lr=1e-2, weight_decay=0.0, betas=(0.9, 0.98))
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        for mine, yours in zip(model.parameters(), other.parameters(), strict=True):
            mine.grad = torch.randn(mine.shape, generator=generator)
            yours.grad = mine.grad.clone()
        ours.step()
        theirs.step()
    for name, parameter in model.named_parameters():
        if any(parameter_rest is names[name] for parameter_rest in rest):
            torch.testing.assert_close(parameter, names[name], rtol=1e-5, atol=1e-7)


def test_a_matrix_steps_by_the_learning_rate(model):
    before = [parameter.clone() for parameter in layer_matrices(model)]
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    MuonAdamW(model, lr=1e-3).step()
    for old, new in zip(before, layer_matrices(model), strict=True):
        size = (new - old).square().mean().sqrt()
        assert 0.6e-3 < size < 1.3e-3


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch.optim.Muon came with torch 2.9")
def test_matrices_move_as_by_torch_muon():
    class Layers(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = small_model(
                word_tokenizer("a b c "), layers=1, width=32, heads=2, context=8, seed=0
            )

    ours, theirs = Layers(), Layers()
    scale = 5.0  # torch matches the size of Adam's usual steps, .2 of the learning rate
    mine = MuonAdamW(ours, lr=1e-2, weight_decay=0.0)
    yours = torch.optim.Muon(
        layer_matrices(theirs), lr=scale * 1e-2, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"
    )
    before = [parameter.clone() for parameter in layer_matrices(ours)]
    generator = torch.Generator().manual_seed(1)
    for _ in range(5):
        for a, b in zip(layer_matrices(ours), layer_matrices(theirs), strict=True):
            a.grad = torch.randn(a.shape, generator=generator)
            b.grad = a.grad.clone()
        mine.step()
        yours.step()
    for old, a, b in zip(before, layer_matrices(ours), layer_matrices(theirs), strict=True):
        moved = (b - old).norm()
        assert (a - b).norm() < 0.03 * moved  # torch computes in bfloat16


def test_a_saved_state_goes_on_where_it_was(model):
    def steps(optimizer, count, seed):
        generator = torch.Generator().manual_seed(seed)
        for _ in range(count):
            for parameter in model.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=generator)
            optimizer.step()

    optimizer = MuonAdamW(model, lr=1e-2)
    steps(optimizer, 3, seed=1)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    state = copy.deepcopy(optimizer.state_dict())
    steps(optimizer, 2, seed=2)
    unbroken = {name: value.clone() for name, value in model.state_dict().items()}
    model.load_state_dict(weights)
    resumed = MuonAdamW(model, lr=1e-2)
    resumed.load_state_dict(state)
    steps(resumed, 2, seed=2)
    assert all(torch.equal(value, unbroken[name]) for name, value in model.state_dict().items())
