"""A model that sees: its images reach the loss of every stage, whatever the text around them."""

import pytest
import torch
from test_trainer import collate_columns, config
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from qsft_lite.baselines.heads import ActionValues, HeadStage
from qsft_lite.baselines.q_transformer import QTransformerStage, TokenValues
from qsft_lite.models import final_hidden
from qsft_lite.trainer import BehaviorStage, ValueStage
from qsft_lite.trainer.stages import PairedStage
from qsft_lite.trainer.step import token_states

IMAGE, PATCHES, WORDS, DUMMY = 3, 4, 20, 2


@pytest.fixture
def model():
    """A random Llava whose images are 4 x 4 pixels, four tokens each."""
    torch.manual_seed(0)
    text = LlamaConfig(
        vocab_size=WORDS, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=32, pad_token_id=0,
    )  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        image_size=4, patch_size=2, projection_dim=16,
    )  # fmt: skip
    made = LlavaConfig(vision_config=vision, text_config=text, image_token_id=IMAGE)
    return LlavaForConditionalGeneration(made).eval()


def batch_of(images):
    """Two episodes in a row, with an image each: <image> word action word action."""
    generator = torch.Generator().manual_seed(1)
    n = PATCHES + 5
    batch = {name: torch.full((1, 2 * n), value) for name, value in collate_columns().items()}
    for episode in range(2):
        start = episode * n
        ids = torch.randint(4, WORDS, (n,), generator=generator)
        ids[0], ids[1 : 1 + PATCHES] = 1, IMAGE
        batch["input_ids"][0, start : start + n] = ids
        batch["position_ids"][0, start : start + n] = torch.arange(n)
        batch["segment_ids"][0, start : start + n] = episode + 1
        first, second = start + n - 3, start + n - 1
        batch["action_mask"][0, [first, second]] = True
        batch["next_action"][0, first] = second
        batch["discount"][0, first] = 0.9
        batch["reward"][0, second] = batch["return_to_go"][0, second] = 0.7
    return {**batch, "pixel_values": images}


@torch.no_grad()
def test_packed_episodes_see_their_own_image_alone(model):
    images = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    batch = batch_of(images)
    states = token_states(model, batch)
    for episode in (0, 1):
        (inside,) = torch.where(batch["segment_ids"][0] == episode + 1)
        alone = model.model(
            input_ids=batch["input_ids"][:, inside], pixel_values=images[[episode]]
        ).last_hidden_state[0]
        torch.testing.assert_close(states[inside], alone, rtol=1e-4, atol=1e-5)
    blind = token_states(model, {**batch, "pixel_values": None})
    assert (states - blind).abs().max() > 0.01
    # The text stack is asked no differently where there is no image.
    ids = batch["input_ids"].masked_fill(batch["input_ids"] == IMAGE, 5)
    words = final_hidden(model, ids, batch["position_ids"], batch["segment_ids"])
    [first] = torch.where(batch["segment_ids"][0] == 1)
    alone = model.model.language_model(input_ids=ids[:, first]).last_hidden_state[0]
    torch.testing.assert_close(words[0, first], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stage", ["behavior", "paired", "dummy", "heads", "q_transformer"])
def test_every_stage_learns_from_the_image(model, tmp_path, stage):
    other = LlavaForConditionalGeneration(model.config)
    if stage == "behavior":
        module = BehaviorStage(model)
    elif stage == "paired":
        module = PairedStage(model, other, config(tmp_path), 0.5)
    elif stage == "dummy":
        args = config(tmp_path, leftover="dummy", backup="support", train_behavior=True)
        module = ValueStage(model, other, args, DUMMY)
    elif stage == "q_transformer":
        values = TokenValues.on(model)
        torch.nn.init.normal_(values.q_head[-1].weight)
        module = QTransformerStage(values, conservatism=0.5, target_rate=0.1, behavior=other)
    else:
        values = ActionValues.on(model)
        torch.nn.init.normal_(values.q_heads[0][-1].weight)
        options = {"conservatism": 0.1, "target_rate": 0.1, "ruled_out": [0, 1, DUMMY]}
        module = HeadStage(values, method="cql", **options)
    images = torch.randn(2, 3, 4, 4, requires_grad=True)
    loss = module(**batch_of(images))["loss"]
    loss.backward()
    assert loss.isfinite() and images.grad.abs().amax((1, 2, 3)).min() > 0
    tower = [
        p
        for name, p in module.named_parameters()
        if "vision_tower" in name and "target" not in name
    ]
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in tower)
