"""Tiny random image-text-to-text models of two families of transformers, as folders."""

import torch
from small_pictures import TOKENIZER
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

FAMILIES = ("llava", "smolvlm")
TOKENS = {"llava": 9, "smolvlm": 4}


def text_config():
    return LlamaConfig(
        vocab_size=len(TOKENIZER), hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=64, pad_token_id=0,
        bos_token_id=1, eos_token_id=None,
    )  # fmt: skip


def write_model(family, folder):
    """A folder with random weights, the tokenizer, and an image processor of the family."""
    torch.manual_seed(0)
    if family == "llava":
        vision = CLIPVisionConfig(
            hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
            image_size=12, patch_size=4, projection_dim=16,
        )  # fmt: skip
        model = LlavaForConditionalGeneration(
            LlavaConfig(vision_config=vision, text_config=text_config(), image_token_index=3)
        )
        processor = CLIPImageProcessorPil(
            size={"shortest_edge": 12}, crop_size={"height": 12, "width": 12}
        )
    else:
        vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
                  "num_attention_heads": 2, "image_size": 16, "patch_size": 4}  # fmt: skip
        model = SmolVLMForConditionalGeneration(
            SmolVLMConfig(
                vision_config=vision,
                text_config=text_config(),
                scale_factor=2,
                image_token_id=3,
                pad_token_id=0,
            )  # fmt: skip
        )
        edge = {"longest_edge": 16}
        processor = SmolVLMImageProcessorPil(size=edge, max_image_size=edge)
    model.save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    processor.save_pretrained(folder)
    return processor
