"""Tokenizers of every kind that is met in the wild, made here from a few texts."""

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from qsft_lite.models import character_tokenizer, line_tokenizer, word_tokenizer


def _fast(core, texts, **options):
    # The single letters, too, so that every text of them has tokens.
    special = ["<pad>", "<s>", "</s>", "<dummy>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=special, show_progress=False, **options
    )
    core.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )


def byte_level(texts):
    """Byte pairs of bytes, with runs of line ends as one word: Llama 3, Qwen."""
    core = tokenizers.Tokenizer(models.BPE())
    pattern = tokenizers.Regex(r"\s*[\r\n]+|\S+|\s+")
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pattern, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    return _fast(core, [*texts] * 20, initial_alphabet=alphabet)


def with_prefix(texts):
    """Byte pairs of letters, with a space before every text: Llama 2."""
    core = tokenizers.Tokenizer(models.BPE())
    core.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _fast(core, texts, initial_alphabet=[chr(i) for i in range(32, 127)] + ["\n", "▁"])


MAKERS = {
    "byte_level": byte_level,
    "with_prefix": with_prefix,
    "words": word_tokenizer,
    "characters": character_tokenizer,
    "lines": line_tokenizer,
}


# Of chat models: the templates that these write, and no bos token for the first.
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA_3 = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim }}"
    "{{ '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)


def chat(template, texts):
    """A chat model's tokenizer with the template: bytes, byte pairs, and the template's marks."""
    if template == CHATML:  # as Qwen's: no bos token
        names = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
        more = ["<|im_start|>"]
    else:  # as Llama 3's: the end of a turn is not the end of the text
        names = {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"}
        more = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    core = byte_level(texts).backend_tokenizer
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, **names)
    tokenizer.add_special_tokens({"additional_special_tokens": more})
    tokenizer.chat_template = template
    return tokenizer
