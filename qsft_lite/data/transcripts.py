"""Transcripts, and their tokens: the very same in training and in play.

A transcript is segments: what the agent wrote, and what the world said in between. Each segment is
tokenized by itself, so that a token is all action or all state.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from transformers import PreTrainedTokenizerBase

__all__ = [
    "DUMMY",
    "IMAGE",
    "ContextError",
    "Reader",
    "Segment",
    "Transcript",
    "cut",
    "image_id",
    "special_ids",
    "special_texts",
    "start_id",
]

DUMMY = "<dummy>"
IMAGE = "<image>"  # in a text: here is a picture

Segment = tuple[str, bool]  # a text, and whether it is an action


class ContextError(ValueError):
    """Transcripts are longer than the models' context: ``histories``, as they were given."""

    def __init__(self, message: str, histories: Sequence):
        super().__init__(message)
        self.histories = list(histories)


class Transcript(str):
    """A transcript as one text that remembers its segments, (text, is_action) each.

    It is a str in every other way. What is cut from it, or added to it, is a plain str.
    """

    segments: tuple[Segment, ...]

    def __new__(cls, segments: Iterable[Segment] = ()) -> Transcript:
        """The transcript of these segments; TypeError for an is_action like "user" or None."""
        segments = tuple(segments)
        for text, is_action in segments:
            if not isinstance(text, str) or is_action not in (True, False):
                raise TypeError(f"A segment is (text, is_action), not {(text, is_action)!r:.200}")
        segments = tuple((text, bool(is_action)) for text, is_action in segments)
        self = super().__new__(cls, "".join(text for text, _ in segments))
        self.segments = segments
        return self

    def __getnewargs__(self) -> tuple:
        return (self.segments,)


def cut(text: str, stops: Sequence[str]) -> list[str]:
    """The pieces of a text: each but the last one ends with a stop text, its first one."""
    if "" in stops:
        return [text] if text else []
    longest_first = sorted(stops, key=len, reverse=True)
    return re.findall(rf"(?s).*?(?:{'|'.join(map(re.escape, longest_first))})|.+", text)


def start_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Id of the token that every episode begins with: bos, or eos where there is no bos."""
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return token
    raise ValueError("the tokenizer has neither a bos nor an eos token: set tokenizer.bos_token")


def image_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Id of the token that stands where pictures are: tokenizer.image_token, or "<image>"."""
    token = getattr(tokenizer, "image_token", None) or IMAGE
    found = tokenizer.get_vocab().get(token)
    if found is None:
        raise ValueError(
            f"the tokenizer has no token {token}: make it with images=True, or take that of a "
            "model that sees"
        )
    return found


def special_ids(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Ids of all special tokens, the dummy included."""
    added = tokenizer.added_tokens_decoder.items()
    return {*tokenizer.all_special_ids, *(i for i, token in added if token.special)}


def special_texts(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The texts of all special tokens, the longest first."""
    texts = tokenizer.convert_ids_to_tokens(sorted(special_ids(tokenizer)))
    return sorted(texts, key=lambda text: (-len(text), text))


class Reader:
    """The tokens of segments.

    A special token that is spelt out in a text is read as its letters, but for that of the eos
    token at the end of an action. With ``chat_template``, the texts are those that the tokenizer's
    own chat template writes, and every special token in them is that token, but for the unknown one
    and the dummy. With ``image_tokens``, each "<image>" is read as so many tokens of ``image_id``.

    Attributes:
        writable: ids of the special tokens that texts may hold: these, or eos.
        image: id of the token of pictures; None without image_tokens.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        chat_template: bool = False,
        image_tokens: int = 0,
    ):
        if not isinstance(chat_template, bool):
            raise ValueError(f"chat_template must be True or False, not {chat_template!r}.")
        self.tokenizer = tokenizer
        self.chat_template = chat_template
        self._never = special_ids(tokenizer)
        self._eos = "" if chat_template else tokenizer.eos_token or ""
        self.writable = {tokenizer.eos_token_id} if self._eos else set()
        if chat_template:
            no_text = {tokenizer.unk_token_id, tokenizer.get_vocab().get(DUMMY)}
            self.writable, self._never = self._never - no_text, self._never & no_text
        self.image = image_id(tokenizer) if image_tokens else None
        self.image_tokens = image_tokens
        if self.image is not None:
            self.writable, self._never = (
                ids - {self.image} for ids in (self.writable, self._never)
            )

    def ends_with_eos(self, text: str) -> bool:
        """Whether this text, as an action, ends with the eos token."""
        return bool(self._eos) and text.endswith(self._eos)

    def ids(self, segments: Sequence[Segment]) -> list[list[int] | None]:
        """Token ids of each segment; None for one that the tokenizer cannot read.

        It cannot where it has no token for a part, or no other one than a special token.
        """
        # Each text once, however often it occurs.
        pieces = [(s, a and self.ends_with_eos(s)) for s, a in segments]
        unique = list(dict.fromkeys(pieces))
        texts = [text.removesuffix(self._eos) if ended else text for text, ended in unique]
        found = dict(zip(unique, self._all_ids(texts), strict=True))
        for piece in unique:
            ids = found[piece]
            if ids is None or not self._never.isdisjoint(ids):
                found[piece] = None
            elif piece[1]:
                found[piece] = [*ids, self.tokenizer.eos_token_id]
        return [found[piece] for piece in pieces]

    def read(self, segments: Sequence[Segment]) -> list[list[int]]:
        """Token ids of each segment; ValueError for a text that the tokenizer cannot read."""
        found = self.ids(segments)
        for (text, _), ids in zip(segments, found, strict=True):
            if ids is None:
                raise ValueError(f"The tokenizer does not know all of {text!r:.200}.")
        return found

    def _all_ids(self, texts: list[str]) -> list[list[int] | None]:
        if self.image is not None:
            return self._around_images(texts)
        return self._plain_ids(texts)

    def _around_images(self, texts: list[str]) -> list[list[int] | None]:
        """What is between pictures is read by itself; nothing in it may be taken for a picture."""
        pieces = [text.split(IMAGE) for text in texts]
        found = iter(self._plain_ids([piece for parts in pieces for piece in parts]))
        picture = [self.image] * self.image_tokens
        read: list[list[int] | None] = []
        for parts in pieces:
            first, *others = [next(found) for _ in parts]
            if any(ids is None or self.image in ids for ids in (first, *others)):
                read.append(None)
            else:
                read.append(first + [i for ids in others for i in (*picture, *ids)])
        return read

    def _plain_ids(self, texts: list[str]) -> list[list[int] | None]:
        if not texts:
            return []

        def ids(some: list[str]) -> list[list[int]]:
            return self.tokenizer(
                some,
                add_special_tokens=False,
                split_special_tokens=not self.chat_template,
                return_attention_mask=False,
                verbose=False,
            )["input_ids"]

        try:
            return ids(texts)
        except Exception:  # what a tokenizer without an unknown token raises: find the texts
            pieces: list[list[int] | None] = []
            for text in texts:
                try:
                    pieces += ids([text])
                except Exception:
                    pieces.append(None)
            return pieces
