"""What an action may be."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from qsft_lite.data.transcripts import Reader


class ActionList:
    """The constraint that an action is one of a list of texts, which may have several lines.

    tokenizer and chat_template are the policy's; each action has a stop text at its end. Raises
    ValueError for no actions, an empty or unknown one, or one that another one begins with.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        actions: Sequence[str],
        chat_template: bool = False,
    ):
        if isinstance(actions, str):
            raise TypeError(f"An action list needs a list of texts, not the text {actions!r}.")
        if not actions or "" in actions:
            raise ValueError("An action list needs at least one action, and none of them empty.")
        self.actions = tuple(actions)
        self._next: dict[tuple[int, ...], set[int]] = {}
        all_ids = Reader(tokenizer, chat_template).read([(text, True) for text in self.actions])
        for ids in all_ids:
            for i, token_id in enumerate(ids):
                self._next.setdefault(tuple(ids[:i]), set()).add(token_id)
        for text, ids in zip(self.actions, all_ids, strict=True):
            if tuple(ids) in self._next:
                raise ValueError(f"Another action of the list begins with {text!r}.")
        self.whole = set(map(tuple, all_ids))
        self.longest = max(map(len, all_ids))

    def allowed(self, ids: tuple[int, ...]) -> set[int]:
        """The token ids that may follow the action's tokens so far."""
        return self._next.get(ids, set())

    def ends(self, ids: tuple[int, ...]) -> bool:
        """Whether these tokens are a whole action."""
        return ids in self.whole
