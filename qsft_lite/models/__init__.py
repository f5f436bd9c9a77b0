"""Models and tokenizers: small ones from scratch, pretrained ones, and the dummy token.

Everything here is a plain transformers model or tokenizer.
"""

from qsft_lite.models.heads import HeadedModel, NewHead
from qsft_lite.models.pretrained import add_dummy, load_model, refuse_missing, smollm2
from qsft_lite.models.reading import (
    attention_mask,
    check_head,
    check_packing,
    final_hidden,
    output_head,
)
from qsft_lite.models.small import share_embeddings, small_model
from qsft_lite.models.tokenizers import (
    character_tokenizer,
    dummy_id,
    line_tokenizer,
    word_tokenizer,
)

__all__ = [
    "HeadedModel",
    "NewHead",
    "add_dummy",
    "attention_mask",
    "character_tokenizer",
    "check_head",
    "check_packing",
    "dummy_id",
    "final_hidden",
    "line_tokenizer",
    "load_model",
    "output_head",
    "refuse_missing",
    "share_embeddings",
    "small_model",
    "smollm2",
    "word_tokenizer",
]
