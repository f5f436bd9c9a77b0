"""Models and tokenizers: small ones from scratch, pretrained ones, and the dummy token.

Some of the models see: `vision`. Everything here is a plain transformers model or tokenizer.
"""

from qsft_lite.models.heads import HeadedModel, NewHead
from qsft_lite.models.networks import share_base
from qsft_lite.models.pixels import image_tokens, pixel_rule, set_image_rule
from qsft_lite.models.pretrained import (
    add_dummy,
    add_image_token,
    load_model,
    refuse_missing,
    smollm2,
)
from qsft_lite.models.reading import (
    attention_mask,
    check_head,
    check_packing,
    final_hidden,
    image_inputs,
    output_head,
    text_config,
)
from qsft_lite.models.small import share_embeddings, small_model
from qsft_lite.models.tokenizers import (
    character_tokenizer,
    dummy_id,
    line_tokenizer,
    word_tokenizer,
)
from qsft_lite.models.vision import join_vision, small_vision_model, smollm2_vision

__all__ = [
    "HeadedModel",
    "NewHead",
    "add_dummy",
    "add_image_token",
    "attention_mask",
    "character_tokenizer",
    "check_head",
    "check_packing",
    "dummy_id",
    "final_hidden",
    "image_inputs",
    "image_tokens",
    "join_vision",
    "line_tokenizer",
    "load_model",
    "output_head",
    "pixel_rule",
    "refuse_missing",
    "set_image_rule",
    "share_base",
    "share_embeddings",
    "small_model",
    "small_vision_model",
    "smollm2",
    "smollm2_vision",
    "text_config",
    "word_tokenizer",
]
