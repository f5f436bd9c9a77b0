"""Layers that run compiled train to the same weights, and are themselves again afterwards."""

import shutil

import pytest
import torch
from test_trainer import TOKENIZER, config, model, random_rows
from torch import nn

from qsft_lite.trainer import QSFTTrainer
from qsft_lite.trainer.compiling import compiled_layers, transformer_layers

ROWS = random_rows(10, seed=3)


def test_layers_are_those_of_all_networks_once():
    stage = nn.ModuleDict({"one": model(), "other": model(layers=3)})
    layers = transformer_layers(stage)
    assert [type(layer).__name__ for layer in layers] == ["LlamaDecoderLayer"] * 5
    assert transformer_layers(nn.ModuleList([nn.Linear(2, 2)])) == []


def test_layers_are_not_compiled_outside_the_context():
    network = model()
    with pytest.raises(KeyboardInterrupt), compiled_layers(network):
        assert all(layer._compiled_call_impl for layer in network.model.layers)
        raise KeyboardInterrupt
    assert not any(layer._compiled_call_impl for layer in network.model.layers)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("stage", ["behavior", "values"])
def test_training_is_the_same(tmp_path, stage):
    """Ten rows in batches of four: the last one of a pass is smaller, and is not compiled."""
    torch._dynamo.reset()
    counted = torch._dynamo.utils.counters
    found = {}
    for compiled in (False, True):
        args = config(tmp_path / str(compiled), stage, max_steps=6, compile_layers=compiled)
        network = model()
        trainer = QSFTTrainer(network, args, ROWS, None, TOKENIZER)
        counted.clear()
        trainer.train()
        found[compiled] = nn.utils.parameters_to_vector(network.parameters()).detach()
        graphs = counted["stats"].get("unique_graphs", 0)
        # Forward passes that are differentiated, and in stage two those that are not.
        assert graphs == (0 if not compiled else 1 if stage == "behavior" else 2)
        assert not any(layer._compiled_call_impl for layer in network.model.layers)
    start = nn.utils.parameters_to_vector(model().parameters()).detach()
    moved = (found[False] - start).norm()
    assert (found[True] - found[False]).norm() < 1e-3 * moved


def test_transformers_own_option_is_refused(tmp_path):
    with pytest.raises(ValueError, match="compile_layers"):
        config(tmp_path, torch_compile=True)
