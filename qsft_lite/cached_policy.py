"""Batched play of multi-turn texts with key-value caches that last from turn to turn.

CachedPolicy writes the agent's actions token by token from the logits of one or more models. What a
model has read of an episode stays in its cache, so that every token of a transcript is computed
once, however many turns it has.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Protocol

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from qsft_lite.encoding import start_id
from qsft_lite.models import DUMMY, attention_mask
from qsft_lite.row_cache import RowCache
from qsft_lite.stacked_llama import StackedLlama

__all__ = ["ActionList", "CachedPolicy", "Constraint", "LastLine"]


class Constraint(Protocol):
    """What an action may be."""

    def allowed(self, ids: tuple[int, ...]) -> Iterable[int]:
        """The token ids that may follow the action's tokens so far."""


class ActionList:
    """The constraint that an action is one of a list of texts.

    Args:
        tokenizer: the policy's.
        actions: the allowed actions, each with the stop text at its end.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, actions: Sequence[str]):
        if not actions or "" in actions:
            raise ValueError("An action list needs at least one action, and none of them empty.")
        self._next: dict[tuple[int, ...], set[int]] = {}
        for ids in token_ids(tokenizer, list(actions)):
            for i, token_id in enumerate(ids):
                self._next.setdefault(tuple(ids[:i]), set()).add(token_id)

    def allowed(self, ids: tuple[int, ...]) -> Iterable[int]:
        """The token ids that may follow the action's tokens so far."""
        return self._next[ids]


class CachedPolicy:
    """A policy that samples actions token by token from log-weights made of models' logits.

    A subclass says what the log-weights are. Special tokens and the dummy are never chosen. Small
    Llama models of one shape are run in one pass (see StackedLlama).

    Args:
        models: causal language models of one vocabulary, called as transformers' are: with
            input_ids, attention_mask, position_ids, past_key_values, use_cache, logits_to_keep,
            and with .logits in what they return. Each needs parameters and a .config.
        tokenizer: the models'.
        greedy: take the most likely token rather than sample.
        stop: text that ends an action. A token whose text ends with it ends the action.
        max_new_tokens: longest action. Its last token is taken from those that end an action.
        constraint: what an action may be; None for any text.
        seed: of the samples.

    Attributes:
        transcript_tokens: tokens of all transcripts so far, each counted once.
        computed_tokens: tokens that each model has computed for them, padding included.

    Raises:
        ValueError: no token ends with the stop text, or the vocabularies differ.
    """

    def __init__(
        self,
        models: Sequence[Any],
        tokenizer: PreTrainedTokenizerBase,
        *,
        greedy: bool = False,
        stop: str = "\n",
        max_new_tokens: int = 32,
        constraint: Constraint | None = None,
        seed: int = 0,
    ):
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, not {max_new_tokens}.")
        self.models = list(models)
        self.tokenizer = tokenizer
        self.greedy = greedy
        self.stop = stop
        self.max_new_tokens = max_new_tokens
        self.constraint = constraint
        vocabularies = [model.config.vocab_size for model in self.models]
        if len(set(vocabularies)) > 1 or vocabularies[0] < len(tokenizer):
            raise ValueError(
                f"The models have vocabularies of {vocabularies} tokens and the tokenizer one of "
                f"{len(tokenizer)}. Add the dummy to every model: add_dummy(model, tokenizer)."
            )
        for model in self.models:
            model.eval()
        self.device = next(self.models[0].parameters()).device
        self._never, self._ends = _token_masks(tokenizer, stop, self.device)
        self.reset(seed)

    def log_weights(
        self, logits: list[torch.Tensor], ruled_out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Unnormalised log-probabilities (B, V), float32, of the next token.

        Args:
            logits: (B, V) of each model, with those of special tokens and the dummy included.
            ruled_out: (B, V) bool, tokens that are not written whatever their weight is; a support
                is one of the others. None for none.
        """
        raise NotImplementedError

    def reset(self, seed: int) -> None:
        """Start the random stream anew, set the counters to 0, and forget what was read.

        Call it when a model's weights have changed, too.
        """
        self.transcript_tokens = 0
        self.computed_tokens = 0
        self._generator = torch.Generator(self.device).manual_seed(seed)
        self._texts: list[str] = []  # what each row has read or written
        self._pending: list[list[int]] = []  # the end of it that is not in the cache yet
        # Tokens of each row in the cache; on the CPU, so that a GPU need not wait for them.
        self._lengths = torch.zeros(0, dtype=torch.long)
        self._stack = StackedLlama(self.models) if StackedLlama.fits(self.models) else None
        separate = self.models if self._stack is None else self.models[:1]
        copies = 1 if self._stack is None else len(self.models)
        self._caches = [
            RowCache(model.config.num_hidden_layers, copies, self.device) for model in separate
        ]

    @torch.inference_mode()
    def act(
        self, histories: list[str], refused: Sequence[Collection[str]] | None = None
    ) -> list[str]:
        """The next action of each episode.

        A history that continues one of the last call's, its action included, costs only what is new
        in it; the new text is tokenized by itself, as in the data. Other histories are read from
        their start, and episodes that no history continues are forgotten.

        Args:
            histories: the transcript so far of each episode.
            refused: of each episode, whole actions that are not played. What is sampled is the
                policy given that it plays none of them.

        Returns:
            One text each, with the stop text at its end.

        Raises:
            ValueError: a text that the tokenizer does not know, or an episode longer than the
                models' context.
            FloatingPointError: log-weights without a finite maximum.
        """
        if not histories:
            return []
        self._take_up(histories)
        actions: list[list[int]] = [[] for _ in histories]
        refused_ids = [
            [ids for ids in token_ids(self.tokenizer, sorted(set(texts))) if self._allows(ids)]
            for texts in refused or []
        ]
        rows = list(range(len(histories)))
        for _ in range(self.max_new_tokens):
            begun = [actions[row] for row in rows]
            ruled_out = self._ruled_out(begun)
            left = None
            if any(refused_ids):
                texts = [histories[row] for row in rows]
                left = self._log_left(texts, begun, [refused_ids[row] for row in rows])
                # Beforehand, so that a support is one of what is left.
                ruled_out |= left.isneginf()
            log_weights = self._next_log_weights(rows, ruled_out)
            if left is not None:
                log_weights += left
            chosen = self._choose(log_weights)
            ended = self._ends[chosen].tolist()
            for row, token_id in zip(rows, chosen.tolist(), strict=True):
                actions[row].append(token_id)
                self._pending[row] = [token_id]
            rows = [row for row, end in zip(rows, ended, strict=True) if not end]
            if not rows:
                break
        else:
            raise ValueError(
                f"The constraint has actions of more than max_new_tokens={self.max_new_tokens} "
                f"tokens, or without the stop text {self.stop!r} at their end."
            )
        texts = self.tokenizer.batch_decode(actions)
        self._texts = [history + text for history, text in zip(histories, texts, strict=True)]
        self.transcript_tokens += sum(len(action) for action in actions)
        return texts

    def _take_up(self, histories: list[str]) -> None:
        """Give row i to history i: one that it continues, or a new one; note what is to be read."""
        known: dict[str, list[int]] = {}
        for row, text in enumerate(self._texts):
            known.setdefault(text, []).append(row)
        lengths = sorted({len(text) for text in known}, reverse=True)

        sources, increments = [], []
        for history in histories:
            prefixes = (history[:length] for length in lengths if length <= len(history))
            prefix = next((prefix for prefix in prefixes if known.get(prefix)), None)
            sources.append(None if prefix is None else known[prefix].pop(0))
            increments.append(history if prefix is None else history[len(prefix) :])

        old_pending, start = self._pending, [start_id(self.tokenizer)]
        self._pending = []
        for source, ids in zip(sources, token_ids(self.tokenizer, increments), strict=True):
            self._pending.append((start if source is None else old_pending[source]) + ids)
            self.transcript_tokens += len(ids) + (source is None)

        if sources != list(range(len(self._texts))):
            new = torch.tensor([source is None for source in sources])
            index = torch.tensor([source or 0 for source in sources])
            if self._texts:
                self._lengths = self._lengths[index].masked_fill_(new, 0)
            else:
                self._lengths = torch.zeros(len(histories), dtype=torch.long)
            for cache in self._caches:
                cache.select(index)
        # Known again when this call has ended well: an error leaves nothing half-read.
        self._texts = []

    def _next_log_weights(self, rows: list[int], ruled_out: torch.Tensor) -> torch.Tensor:
        """Read what is pending in the rows; log-weights (len(rows), V) of what comes next."""
        ids = [self._pending[row] for row in rows]
        counts = torch.tensor([len(row_ids) for row_ids in ids])
        longest = int(counts.max())
        input_ids = torch.tensor([row_ids + [0] * (longest - len(row_ids)) for row_ids in ids])
        index = None if len(rows) == len(self._pending) else torch.tensor(rows)
        old_lengths = self._lengths if index is None else self._lengths[index]
        new_lengths = old_lengths + counts
        end = int(new_lengths.max())
        self._check_context(end)

        # Padding comes after a row's own tokens: none of them sees it, and the next ones take its
        # place in the cache. Its position may lie outside the context, so it is clamped.
        places = old_lengths[:, None] + torch.arange(longest)
        for cache in self._caches:
            cache.aim(index, places)
        keys = torch.arange(int(old_lengths.max()) + longest)
        last = (counts - 1).unique()
        outputs = self._run(
            input_ids.to(self.device),
            (keys <= places[:, None, :, None]).to(self.device),
            places.clamp(max=end - 1).to(self.device),
            last.to(self.device),
        )
        row, column = torch.arange(len(rows)), torch.searchsorted(last, counts - 1)
        logits = [output[row, column] for output in outputs]
        self.computed_tokens += input_ids.numel()
        if index is None:
            self._lengths = new_lengths
        else:
            self._lengths[index] = new_lengths
        return self._written(logits, ruled_out)

    def _run(
        self,
        input_ids: torch.Tensor,
        seen: torch.Tensor,
        position_ids: torch.Tensor,
        columns: torch.Tensor,
    ) -> list[torch.Tensor]:
        """Logits (B, len(columns), V) of each model at these columns."""
        if self._stack is not None:
            return list(self._stack(input_ids, seen, position_ids, self._caches[0], columns))
        outputs = []
        keys = torch.arange(seen.shape[-1], device=self.device)[None]
        for model, cache in zip(self.models, self._caches, strict=True):
            logits = model(
                input_ids=input_ids,
                attention_mask=attention_mask(model, seen, position_ids, keys),
                position_ids=position_ids,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=columns,
            ).logits
            # A model may give the logits of all columns all the same.
            outputs.append(logits if logits.shape[1] == len(columns) else logits[:, columns])
        return outputs

    def _choose(self, log_weights: torch.Tensor) -> torch.Tensor:
        """Token ids (B,): the most likely ones, or samples."""
        finite = log_weights.amax(-1).isfinite()
        if not finite.all():
            raise FloatingPointError(
                f"The log-weights of row {int((~finite).nonzero()[0])} are NaN, infinite, or rule "
                "out every token: look at the models' logits and at the constraint."
            )
        if self.greedy:
            return log_weights.argmax(-1)
        # Gumbel noise, as minus the log of exponential noise: the argmax is a sample.
        noise = torch.empty_like(log_weights).exponential_(generator=self._generator)
        return log_weights.sub_(noise.log_()).argmax(-1)

    def _allows(self, action: list[int]) -> bool:
        """Whether the constraint allows this whole action."""
        if self.constraint is None:
            return True
        places = range(len(action))
        return all(action[i] in self.constraint.allowed(tuple(action[:i])) for i in places)

    def _ruled_out(self, actions: list[list[int]]) -> torch.Tensor:
        """What may not follow the actions so far (B): (B, V) bool.

        Special tokens, what the constraint does not allow, and what ends no action after all but
        one of max_new_tokens.
        """
        ruled_out = self._never.repeat(len(actions), 1)
        if self.constraint is not None:
            allowed = torch.zeros(ruled_out.shape, dtype=torch.bool)
            for row, ids in enumerate(actions):
                allowed[row, list(self.constraint.allowed(tuple(ids)))] = True
            ruled_out |= ~allowed.to(self.device)
        elif len(actions[0]) == self.max_new_tokens - 1:
            ruled_out |= ~self._ends
        return ruled_out

    def _log_left(
        self, histories: list[str], actions: list[list[int]], refused: list[list[list[int]]]
    ) -> torch.Tensor:
        """log of how likely an action is not to be a refused one, after each next token: (B, V).

        Actions are as long as they have become in this call. With w the policy's own probabilities,
        what is left of the beginning a of an action is 0 where a is refused, 1 where no refused
        action begins with it, and else the sum over next tokens b of w(b | a) times what is left of
        a, b. To add up what is left, and not to take what is refused from 1, is what keeps a small
        rest: a sharpened policy may have 1e-9 there.
        """
        begun = len(actions[0])
        left = torch.zeros(len(actions), len(self._never), device=self.device)
        known = {  # of a row and the beginning of its action
            (row, *other): -math.inf
            for row, (ids, others) in enumerate(zip(actions, refused, strict=True))
            for other in others
            if other[:begun] == ids and len(other) > begun
        }
        for length in range(max(map(len, known), default=0) - 1, begun, -1):
            ends = {begin: value for begin, value in known.items() if len(begin) == length + 1}
            begins = dict.fromkeys(begin[:-1] for begin in ends)
            places = {begin: place for place, begin in enumerate(begins)}
            last = [begin[-1] for begin in ends]
            values = torch.tensor(list(ends.values()), device=self.device)
            if length == begun + 1:
                left[[row for row, *_ in ends], last] = values
            else:
                texts = [histories[row] for row, *_ in places]
                log_weights = self._after(texts, [ids for _, *ids in places])
                log_weights[[places[begin[:-1]] for begin in ends], last] += values
                known.update(zip(places, log_weights.logsumexp(-1).tolist(), strict=True))
        return left

    def _after(self, histories: list[str], actions: list[list[int]]) -> torch.Tensor:
        """Log-probabilities (N, V) of what follows each history and the beginning of an action.

        Read anew, without caches: what is refused is rare.
        """
        start = start_id(self.tokenizer)
        texts = token_ids(self.tokenizer, histories)
        read = [[start, *ids, *begun] for ids, begun in zip(texts, actions, strict=True)]
        lengths = torch.tensor([len(ids) for ids in read], device=self.device)
        longest, shortest = int(lengths.max()), int(lengths.min())
        self._check_context(longest)
        padded = [[*ids, *[0] * (longest - len(ids))] for ids in read]
        input_ids = torch.tensor(padded, device=self.device)
        positions = torch.arange(longest, device=self.device).expand_as(input_ids)
        row, column = torch.arange(len(read), device=self.device), lengths - shortest
        logits = [
            model(
                input_ids=input_ids,
                position_ids=positions,
                use_cache=False,
                logits_to_keep=longest - shortest + 1,
            ).logits[:, shortest - longest - 1 :][row, column]
            for model in self.models
        ]
        self.computed_tokens += input_ids.numel()
        return self._written(logits, self._ruled_out(actions)).log_softmax(-1)

    def _written(self, logits: list[torch.Tensor], ruled_out: torch.Tensor) -> torch.Tensor:
        """Log-weights (B, V) of the tokens that are not ruled out, -inf of the others."""
        # A model may have spare rows, which no token has.
        spare = logits[0].shape[-1] - ruled_out.shape[-1]
        ruled_out = nn.functional.pad(ruled_out, (0, spare), value=True)
        log_weights = self.log_weights(logits, ruled_out).masked_fill(ruled_out, -math.inf)
        return log_weights[:, : len(self._never)]

    def _check_context(self, length: int) -> None:
        context = min(model.config.max_position_embeddings for model in self.models)
        if length > context:
            raise ValueError(
                f"An episode has {length} tokens, but the models' context is {context}: "
                "make models with a longer one, or end episodes earlier."
            )


class LastLine:
    """A policy that is shown the last line of each transcript alone.

    For models trained on turns apart (`data.encode(memory="turn")`), where a state is one line.

    An action that has just changed nothing, since the same line came back, is not played again
    there (ours). Whoever sees the last line alone cannot learn that, and a policy that is sure of
    an illegal move would repeat it to the end of the game.
    """

    def __init__(self, policy: CachedPolicy):
        self.policy = policy

    def reset(self, seed: int) -> None:
        """See CachedPolicy.reset."""
        self.policy.reset(seed)

    def act(self, histories: list[str]) -> list[str]:
        """See CachedPolicy.act."""
        lines = [text[:-1].rpartition("\n")[2] + text[-1:] for text in histories]
        return self.policy.act(lines, [_without_effect(text) for text in histories])


def _without_effect(history: str) -> list[str]:
    """The last actions of a transcript that were followed by the line that stood before them."""
    lines = history.splitlines(keepends=True)
    found = []
    for place in range(len(lines) - 3, -1, -2):
        if lines[place] != lines[-1]:
            break
        found.append(lines[place + 1])
    return found


def token_ids(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """Token ids of each text by itself, without special tokens."""
    unique = list(dict.fromkeys(texts))
    if not unique:
        return []
    try:
        ids = tokenizer(unique, add_special_tokens=False, return_attention_mask=False).input_ids
    except Exception as error:  # the tokenizers library raises nothing finer
        for text in unique:
            try:
                tokenizer(text, add_special_tokens=False)
            except Exception:
                raise ValueError(f"The tokenizer does not know all of {text!r}: {error}") from error
        raise
    by_text = dict(zip(unique, ids, strict=True))
    return [by_text[text] for text in texts]


def _token_masks(
    tokenizer: PreTrainedTokenizerBase, stop: str, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Whether a token is never chosen, and whether it ends an action: (V,) bool both."""
    vocabulary = len(tokenizer)
    texts = tokenizer.batch_decode([[token_id] for token_id in range(vocabulary)])
    never = torch.zeros(vocabulary, dtype=torch.bool)
    never[tokenizer.all_special_ids] = True
    never[[i for token, i in tokenizer.get_vocab().items() if token == DUMMY]] = True
    ends = torch.tensor([text.endswith(stop) for text in texts]) & ~never
    if not ends.any():
        raise ValueError(f"No token of the tokenizer ends with the stop text {stop!r}.")
    return never.to(device), ends.to(device)


def check_support(support: float) -> float:
    """The support; ValueError unless it lies in [0, 1]."""
    if not 0 <= support <= 1:
        raise ValueError(f"support must lie in [0, 1], not {support}.")
    return support


def outside_support(
    log_pi: torch.Tensor, support: float, ruled_out: torch.Tensor | None = None
) -> torch.Tensor:
    """Which actions have pi(a|s) < support * max_b pi(b|s): log_pi (..., V) -> bool (..., V).

    The maximum is over the actions that are not ruled_out, bool (..., V).

    The rule of BCQ (Fujimoto et al., 2019): values of what the data hardly ever did are noise, and
    the largest weight of values picks the largest noise. At least the likeliest action is inside.
    """
    if support == 0:
        return torch.zeros_like(log_pi, dtype=torch.bool)
    others = log_pi if ruled_out is None else log_pi.masked_fill(ruled_out, -math.inf)
    return log_pi < others.amax(-1, keepdim=True) + math.log(support)
