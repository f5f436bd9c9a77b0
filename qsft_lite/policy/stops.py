"""Where an action ends: at one of some texts, of one token or more."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedTokenizerBase

from qsft_lite.data.transcripts import Reader, special_ids

__all__ = ["Stops"]


class Stops:
    """The stop texts of actions, and what they mean for each token of the vocabulary (V).

    An action ends with the first token after which its text ends with a stop text. A token that
    would put a stop text into the middle of an action is never written. The text of the tokenizer's
    eos token means this token, as that of any special token does with a chat template.

    Attributes:
        texts: the stop texts.
        special: (V,) bool, special tokens, but for those that are a stop.
        never: (V,) bool, these, and tokens with a stop text in their middle.
        ends: (V,) bool, tokens whose own text ends with a stop text.

    Raises:
        ValueError: no stop, or none that can be written in max_new_tokens.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        stop: str | Sequence[str],
        max_new_tokens: int,
        device: torch.device | str,
        chat_template: bool = False,
    ):
        texts = [stop] if isinstance(stop, str) else stop
        self.texts = tuple(texts) if isinstance(texts, Sequence) else ()
        if not self.texts or not all(isinstance(text, str) for text in self.texts):
            raise ValueError(f"stop must be a text or several, not {stop!r}.")
        self.max_new_tokens = max_new_tokens
        self._tokenizer = tokenizer
        # Enough of the last tokens to show a stop text: a token has at least a byte of it.
        longest = max(len(text.encode()) for text in self.texts)
        self._shown = longest + 1 if longest > 1 else 1

        reader = Reader(tokenizer, chat_template)
        tokens = self._decode([[token_id] for token_id in range(len(tokenizer))])
        special = special_ids(tokenizer)
        special -= {i for i in reader.writable if tokens[i] in self.texts}

        def mask(ids: list[int] | set[int]) -> torch.Tensor:
            found = torch.zeros(len(tokenizer), dtype=torch.bool)
            found[list(ids)] = True
            return found.to(device)

        past = [i for i, text in enumerate(tokens) if self._goes_past(text)]
        ends = [i for i, text in enumerate(tokens) if text.endswith(self.texts)]
        self.special = mask(special)
        self.never = self.special | mask(past)
        self.ends = mask(ends) & ~self.never
        self._end_ids = set(ends).difference(special, past)
        # After the beginning of a stop text, what ends it and goes on.
        self._beyond: dict[str, torch.Tensor] = {}
        for begin in {text[:size] for text in self.texts for size in range(1, len(text))}:
            rest = tuple(text[len(begin) :] for text in self.texts if text.startswith(begin))
            beyond = [
                i
                for i, text in enumerate(tokens)
                if text.startswith(rest) and self._goes_past(begin + text)
            ]
            if beyond:
                self._beyond[begin] = mask(beyond)
        # What an action that has not ended must be written with in the end, token by token.
        self._last = [self.ends]
        if not self._end_ids:
            spelt = reader.ids([(text, True) for text in self.texts])
            spelt = [ids for ids in spelt if ids and self.ended([ids]) == [True]]
            if not spelt or len(min(spelt, key=len)) > max_new_tokens:
                raise ValueError(
                    f"No token of the tokenizer ends with the stop text {stop!r}, nor do "
                    f"max_new_tokens={max_new_tokens} of them."
                )
            self._last = [mask({token_id}) for token_id in min(spelt, key=len)]

    def ended(self, actions: list[list[int]]) -> list[bool]:
        """Whether each action (B, of token ids) has ended with its last token."""
        if self._shown == 1:
            return [ids[-1] in self._end_ids for ids in actions]
        return [text.endswith(self.texts) for text in self._shown_of(actions)]

    def ruled_out(self, actions: list[list[int]]) -> torch.Tensor:
        """What may not follow actions of one length that have not ended: (B, V) bool."""
        ruled_out = self.never.repeat(len(actions), 1)
        if self._beyond:
            for row, text in enumerate(self._shown_of(actions)):
                for begin, beyond in self._beyond.items():
                    if text.endswith(begin):
                        ruled_out[row] |= beyond
        left = self.max_new_tokens - len(actions[0])
        if left > len(self._last):
            return ruled_out
        others = ~self._last[-left]
        nothing = (ruled_out | others).all(-1, keepdim=True)  # then an end is worth more
        return torch.where(nothing, others, ruled_out | others)

    def _goes_past(self, text: str) -> bool:
        """Whether something follows a stop text; stop texts one after the other are an end."""
        if "" in self.texts:
            return False
        while text.endswith(self.texts):
            last = next(stop for stop in self.texts if text.endswith(stop))
            text = text.removesuffix(last)
        return any(stop in text for stop in self.texts)

    def _shown_of(self, actions: list[list[int]]) -> list[str]:
        return self._decode([ids[-self._shown :] for ids in actions])

    def _decode(self, ids: list[list[int]]) -> list[str]:
        return self._tokenizer.batch_decode(ids, clean_up_tokenization_spaces=False)
