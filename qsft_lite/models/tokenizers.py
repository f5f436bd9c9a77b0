"""Small tokenizers, and the dummy token.

They are made of texts that hold all there will be (characters, words or lines, with their ends),
read a text exactly as it is, so that decoding gives it back, and know three special tokens:
<pad> (0), <bos> (1), which starts every episode, and <dummy> (2), which no text contains: the dummy
action of section 4.1. With images=True also <image> (3), for texts with pictures.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from qsft_lite.data.transcripts import DUMMY, IMAGE

PAD, BOS = "<pad>", "<bos>"
CHARACTER = r" ?[^ \n]|\n| "
WORD = r"[^ \n]*[ \n]|[^ \n]+"
LINE = r"[^\n]*\n|[^\n]+"


def character_tokenizer(
    texts: str | Iterable[str], *, images: bool = False
) -> PreTrainedTokenizerFast:
    r"""A tokenizer whose tokens are characters, each with its leading space if it has one.

    ``"c r a n e\n"`` becomes ``"c"``, ``" r"``, ``" a"``, ``" n"``, ``" e"``, ``"\n"``. Each
    character of the texts but the space and the newline gets two tokens: with a space and without.
    """
    texts = _between_images(texts, images)
    characters = sorted({character for text in texts for character in text} - {" ", "\n"})
    return _tokenizer(CHARACTER, ["\n", " ", *characters, *(" " + c for c in characters)], images)


def word_tokenizer(texts: str | Iterable[str], *, images: bool = False) -> PreTrainedTokenizerFast:
    r"""A tokenizer whose tokens are words, each with the one space or newline that ends it.

    ``"crane\n"`` is one token, and so an action of one word is one token. ``"crane"`` without its
    end is another one, known only if the texts hold it.
    """
    return _tokenizer_of_pieces(WORD, texts, images)


def line_tokenizer(texts: str | Iterable[str], *, images: bool = False) -> PreTrainedTokenizerFast:
    r"""A tokenizer whose tokens are lines, each with the newline that ends it.

    ``"Is it a guitar?\n"`` is one token: an action of several words stays one choice among all.
    """
    return _tokenizer_of_pieces(LINE, texts, images)


def _between_images(texts: str | Iterable[str], images: bool) -> list[str]:
    """The texts, or what stands between their pictures."""
    texts = [texts] if isinstance(texts, str) else list(texts)
    return [part for text in texts for part in text.split(IMAGE)] if images else texts


def _tokenizer_of_pieces(
    pattern: str, texts: str | Iterable[str], images: bool
) -> PreTrainedTokenizerFast:
    """A tokenizer of all the pieces that a pattern cuts the texts into."""
    parts = _between_images(texts, images)
    pieces = sorted({p for text in parts for p in re.findall(pattern, text)})
    return _tokenizer(pattern, pieces, images)


def _tokenizer(pattern: str, tokens: list[str], images: bool) -> PreTrainedTokenizerFast:
    """A tokenizer that cuts a text wherever the pattern matches; it knows no other tokens."""
    if not tokens:
        raise ValueError("A tokenizer needs at least one token: the texts are empty.")
    special = [PAD, BOS, DUMMY, *([IMAGE] if images else [])]
    if set(special) & set(tokens):
        raise ValueError(f"The texts hold one of the special tokens {special}: rename it there.")
    vocabulary = {token: index for index, token in enumerate([*special, *tokens])}
    core = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary))
    core.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
    core.decoder = tokenizers.decoders.Fuse()
    core.add_special_tokens(special)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        bos_token=BOS,
        clean_up_tokenization_spaces=False,
        padding_side="right",
    )


def dummy_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Id of the dummy token; ValueError where the tokenizer has none."""
    token_id = tokenizer.get_vocab().get(DUMMY)
    if token_id is None:
        raise ValueError(f"The tokenizer has no token {DUMMY}: call add_dummy(model, tokenizer).")
    return token_id
