"""Batched play of multi-turn texts with key-value caches that last from turn to turn.

What a model has read of an episode stays in its cache, so that every token of a transcript is
computed once, however many turns it has.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Iterable, Sequence
from itertools import chain
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from qsft_lite.data.transcripts import (
    IMAGE,
    ContextError,
    Reader,
    Segment,
    Transcript,
    cut,
    start_id,
)
from qsft_lite.models import (
    attention_mask,
    image_inputs,
    image_tokens,
    pixel_rule,
    text_config,
)
from qsft_lite.models.networks import Adapter
from qsft_lite.policy.constraints import ActionList
from qsft_lite.policy.refusal import Prefixes, Refusal
from qsft_lite.policy.row_cache import RowCache
from qsft_lite.policy.stops import Stops

__all__ = ["CachedPolicy", "History"]

History = str | Transcript | Sequence[Segment]  # a transcript so far: its text or its segments
Images = Sequence[np.ndarray]  # of a transcript: (H, W, 3) uint8 for each "<image>" in it


class _Row(NamedTuple):
    """A transcript that is read: its segments, all its tokens, and what tells its pictures."""

    segments: tuple[Segment, ...]
    ids: list[int]
    images: tuple[int, ...] = ()

    def key(self, kind: type) -> str | tuple[Segment, ...]:
        """What a history of this kind, str or tuple, begins with where it continues this one."""
        return self.segments if kind is tuple else "".join(text for text, _ in self.segments)


class CachedPolicy:
    """A policy that samples actions token by token; a subclass makes log-weights of the logits.

    Special tokens and the dummy are never chosen.

    Args:
        models: causal language models of one vocabulary, called as transformers' are, each with
            parameters and a .config.
        tokenizer: the models'.
        greedy: take the most likely token rather than sample.
        stop: text that ends an action, or several such texts, of one token or more each. That of
            the tokenizer's eos token is this token.
        max_new_tokens: longest action.
        constraint: the actions that there are; None for any text.
        seed: of the samples.
        chat_template: whether the tokenizer's own chat template writes the transcripts, as in
            data.encode: then a stop text may be a special token. Take `formats.chat_segments` of
            the messages so far as the history.

    Attributes:
        transcript_tokens: tokens of all transcripts so far, each counted once.
        computed_tokens: tokens that each model has computed for them, padding included.

    Raises:
        ValueError: a setting out of its range, a stop text that cannot be written, a constraint
            that does not fit the rest, or vocabularies that differ.
    """

    def __init__(
        self,
        models: Sequence[Any],
        tokenizer: PreTrainedTokenizerBase,
        *,
        greedy: bool = False,
        stop: str | Sequence[str] = "\n",
        max_new_tokens: int = 32,
        constraint: ActionList | None = None,
        seed: int = 0,
        chat_template: bool = False,
    ):
        check_whole("max_new_tokens", max_new_tokens, least=1)
        if not isinstance(greedy, bool):
            raise ValueError(f"greedy must be True or False, not {greedy!r}.")
        self.models = list(models)
        self.tokenizer = tokenizer
        self.greedy = greedy
        self.stop = stop
        self.max_new_tokens = max_new_tokens
        self.constraint = constraint
        vocabularies = [text_config(model).vocab_size for model in self.models]
        if len(set(vocabularies)) > 1 or vocabularies[0] < len(tokenizer):
            raise ValueError(
                f"The models have vocabularies of {vocabularies} tokens and the tokenizer one of "
                f"{len(tokenizer)}. Add the dummy to every model: add_dummy(model, tokenizer)."
            )
        for model in self.models:
            model.eval()
        self._adapters = adapters_of_one_base(self.models)
        self.device = next(self.models[0].parameters()).device
        self.chat_template = chat_template
        rules = [getattr(model.config, "q_sft_images", None) for model in self.models]
        if any(rule != rules[0] for rule in rules):
            raise ValueError(f"The models read pictures by different rules: {rules}.")
        self._pixel_rule = pixel_rule(self.models[0])
        self._reader = Reader(tokenizer, chat_template, image_tokens(self.models[0]))
        self._stops = Stops(tokenizer, stop, max_new_tokens, self.device, chat_template)
        self._start = [start_id(tokenizer)]  # what every transcript begins with
        # Many chat templates write it, too.
        self._written_start = (tokenizer.bos_token or "") if chat_template else ""
        self._check_constraint()
        self.reset(seed)

    def _check_constraint(self) -> None:
        if self.constraint is None:
            return
        for text in self.constraint.actions:
            if not text.endswith(self._stops.texts):
                raise ValueError(f"{text!r} of the constraint does not end with the stop text.")
        read = self._reader.ids([(text, True) for text in self.constraint.actions])
        if {tuple(ids or ()) for ids in read} != self.constraint.whole:
            raise ValueError("The constraint was made with another tokenizer or chat_template.")
        if self.constraint.longest > self.max_new_tokens:
            raise ValueError(
                f"The constraint has actions of {self.constraint.longest} tokens, more than "
                f"max_new_tokens={self.max_new_tokens}."
            )

    def log_weights(
        self, logits: list[torch.Tensor], ruled_out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Unnormalised log-probabilities (B, V), float32, of the next token.

        logits: (B, V) of each model. ruled_out: (B, V) bool, tokens that are not written whatever
        their weight is; a support is one of the others. None for none.
        """
        raise NotImplementedError

    def reset(self, seed: int) -> None:
        """Start the random stream anew and forget what was read, as after a change of weights."""
        check_whole("seed", seed)
        self.transcript_tokens = 0
        self.computed_tokens = 0
        self._generator = torch.Generator(self.device).manual_seed(int(seed))
        self._rows: list[_Row] = []  # what each row has read or written
        self._ids: list[list[int]] = []  # of each row in this call, the action so far included
        self._unread: list[list[np.ndarray]] = []  # pictures of each row that are not read yet
        # How many of them are in the cache; on the CPU, so that a GPU need not wait for them.
        self._lengths = torch.zeros(0, dtype=torch.long)
        layers = [text_config(model).num_hidden_layers for model in self.models]
        if self._adapters:
            self._caches = [RowCache(layers[0], self.device, copies=len(layers))]
        else:
            self._caches = [RowCache(count, self.device) for count in layers]

    @torch.inference_mode()
    def act(
        self,
        histories: Sequence[History],
        refused: Sequence[Collection[str]] | None = None,
        images: Sequence[Images] | None = None,
    ) -> list[str]:
        """The next action of each episode.

        A history that continues one of the last call's, its action included, costs only what is new
        in it. Other histories are read from their start, and episodes that no history continues are
        forgotten.

        Tokens are those of `data.encode` for segments (a `Transcript`, or a list of (text,
        is_action)), and for plain texts that continue what was read and written here, whose new
        part is one segment. A plain text that is new is cut after each stop text, and a warning
        says where that matters.

        Args:
            histories: the transcript so far of each episode.
            refused: of each episode, whole actions that are not played. What is sampled is the
                policy given that it plays none of them.
            images: of each episode, for models that see, the picture (H, W, 3) uint8 of each
                "<image>" in its transcript.

        Returns:
            One text each, with a stop text at its end.

        Raises:
            TypeError: one text in place of a list of them, or what is no history.
            ValueError: a text that the tokenizer does not know; pictures that the transcript does
                not have, or the other way round, or of another size than the models see.
            ContextError: a ValueError, for episodes longer than the models' context.
            FloatingPointError: log-weights without a finite maximum.
        """
        histories = as_list(histories)
        if not histories:
            return []
        refused_ids = self._refused_ids(len(histories), refused)
        pictures = self._pictures(histories, images)
        new_rows = self._take_up(histories, pictures)
        refusal = Refusal(
            refused_ids,
            lambda rows, begun: self._after(
                [new_rows[row].ids for row in rows], begun, [pictures[row] for row in rows]
            ),
            len(self.tokenizer),
            self.device,
        )
        self._ids = [list(row.ids) for row in new_rows]
        actions: list[list[int]] = [[] for _ in histories]
        rows = list(range(len(histories)))
        while rows:
            begun = [actions[row] for row in rows]
            ruled_out = self._ruled_out(begun)
            log_left = refusal.log_mass_left(rows, begun)
            ruled_out |= log_left.isneginf()  # beforehand, so that a support is one of what is left
            self._check_context([len(self._ids[row]) for row in rows], [histories[r] for r in rows])
            log_weights = self._next_log_weights(rows, ruled_out) + log_left
            chosen = self._choose(log_weights).tolist()
            for row, token_id in zip(rows, chosen, strict=True):
                actions[row].append(token_id)
                self._ids[row].append(token_id)
            ended = self._ended([actions[row] for row in rows])
            rows = [row for row, end in zip(rows, ended, strict=True) if not end]
        texts = self.tokenizer.batch_decode(actions, clean_up_tokenization_spaces=False)
        self._rows = [
            _Row((*row.segments, (text, True)), ids, row.images)
            for row, text, ids in zip(new_rows, texts, self._ids, strict=True)
        ]
        self.transcript_tokens += sum(len(action) for action in actions)
        return texts

    def _pictures(
        self, histories: Sequence[History], images: Sequence[Images] | None
    ) -> list[list[np.ndarray]]:
        """The pictures of each history; ValueError where they are not those that it has."""
        if self._reader.image is None:
            if images is not None and any(map(len, images)):
                raise ValueError("These models see no pictures, and images were given.")
            return [[] for _ in histories]
        images = [[] for _ in histories] if images is None else images
        if len(images) != len(histories):
            raise ValueError(f"{len(histories)} histories need as many images, not {len(images)}.")
        for history, own in zip(histories, images, strict=True):
            form = self._form(history)
            text = form if isinstance(form, str) else "".join(text for text, _ in form)
            if text.count(IMAGE) != len(own):
                raise ValueError(
                    f'A history has {text.count(IMAGE)} "{IMAGE}", and {len(own)} pictures came '
                    f"with it: {text[-200:]!r}"
                )
        return [list(own) for own in images]

    def _pixels(self, pictures: Sequence[Images]) -> torch.Tensor | None:
        """All these pictures in order, as the models read them; None for none."""
        flat = list(chain.from_iterable(pictures))
        return self._pixel_rule(flat).to(self.device) if flat else None

    def _refused_ids(
        self, episodes: int, refused: Sequence[Collection[str]] | None
    ) -> list[list[list[int]]]:
        """Token ids of the refused actions of each episode that could be played at all."""
        if refused is None:
            return [[] for _ in range(episodes)]
        if len(refused) != episodes:
            raise ValueError(f"{episodes} histories need as many refused, not {len(refused)}.")
        if any(isinstance(texts, str) for texts in refused):
            raise TypeError("refused has a list of texts for each history, not one text.")
        unique = sorted(set(chain.from_iterable(refused)))
        ids = self._reader.read([(text, True) for text in unique])
        playable = {
            text: its_ids
            for text, its_ids in zip(unique, ids, strict=True)
            if self._can_be_played(its_ids)
        }
        return [
            [playable[text] for text in sorted(set(texts) & set(playable))] for texts in refused
        ]

    def _form(self, history: History) -> str | tuple[Segment, ...]:
        """A plain text or the segments, without the start token that a chat template has written.

        An empty segment has no tokens, and is left out.
        """
        if isinstance(history, Transcript):
            history = history.segments
        if isinstance(history, str):
            return history.removeprefix(self._written_start)
        parts = list(history) if isinstance(history, Iterable) else [history]
        pairs = [isinstance(part, (tuple, list)) and len(part) == 2 for part in parts]
        if not all(pairs) or not all(isinstance(text, str) for text, _ in parts):
            raise TypeError(f"A history is a text or (text, is_action)s, not {history!r:.200}")
        parts = Transcript(parts).segments
        if parts:
            parts = ((parts[0][0].removeprefix(self._written_start), parts[0][1]), *parts[1:])
        return tuple(segment for segment in parts if segment[0])

    def _pieces(self, text: str) -> list[Segment]:
        """A plain text cut after each stop text; a warning where that makes other tokens."""
        texts = cut(text, self._stops.texts)
        pieces = [(piece, self._reader.ends_with_eos(piece)) for piece in texts]
        if len(pieces) > 1:
            [whole], parts = self._reader.ids([(text, False)]), self._reader.ids(pieces)
            if None not in (whole, *parts) and whole != [i for ids in parts for i in ids]:
                warnings.warn(
                    "A text alone does not say where its segments end, and the tokens depend on "
                    f"it here: it was cut after each stop text {self.stop!r}. Give segments, "
                    "[(text, is_action), ...], to have the tokens of training for certain.",
                    stacklevel=2,
                )
        return pieces

    def _read(self, history: History) -> _Row:
        """A transcript by itself, whatever was read before."""
        [row] = self._continued([self._form(history)], [None])
        return row

    def _continued(
        self, forms: Sequence[str | tuple[Segment, ...]], sources: Sequence[int | None]
    ) -> list[_Row]:
        """Transcripts of these forms, each with the number of the row that it continues, if any."""
        rests: list[Sequence[Segment]] = []
        for form, source in zip(forms, sources, strict=True):
            if source is None:
                rests.append(self._pieces(form) if isinstance(form, str) else form)
            else:
                rest = form[len(self._rows[source].key(type(form))) :]
                rests.append([(rest, False)] if isinstance(form, str) and rest else rest)
        read = iter(self._reader.read(list(chain.from_iterable(rests))))
        rows = []
        for source, rest in zip(sources, rests, strict=True):
            old = _Row((), self._start) if source is None else self._rows[source]
            new = chain.from_iterable(next(read) for _ in rest)
            rows.append(_Row((*old.segments, *rest), [*old.ids, *new]))
        return rows

    def _take_up(
        self, histories: list[History], pictures: list[list[np.ndarray]] | None = None
    ) -> list[_Row]:
        """The row of each history: one that it continues, or a new one. Caches follow.

        pictures: all of each. An error in a history leaves everything as it was.
        """
        pictures = pictures or [[] for _ in histories]
        seen = [tuple(hash(np.asarray(each).tobytes()) for each in own) for own in pictures]
        forms = [self._form(history) for history in histories]
        numbers: dict[Any, list[int]] = {}  # of the rows that a history begins with
        for kind in {type(form) for form in forms}:
            for number, row in enumerate(self._rows):
                numbers.setdefault(row.key(kind), []).append(number)
        known = {key: iter(its_numbers) for key, its_numbers in numbers.items()}
        sizes = sorted({len(key) for key in known}, reverse=True)

        sources: list[int | None] = []
        taken: set[int | None] = set()
        for form, own in zip(forms, seen, strict=True):
            beginnings = (form[:size] for size in sizes if size <= len(form))
            found = (number for begin in beginnings for number in known.get(begin, ()))
            same = (n for n in found if self._rows[n].images == own[: len(self._rows[n].images)])
            sources.append(next((number for number in same if number not in taken), None))
            taken.add(sources[-1])
        rows = [
            row._replace(images=own)
            for row, own in zip(self._continued(forms, sources), seen, strict=True)
        ]
        self._check_context([len(row.ids) for row in rows], histories)

        old = [0 if source is None else len(self._rows[source].ids) for source in sources]
        self.transcript_tokens += sum(len(row.ids) for row in rows) - sum(old)
        if sources != list(range(len(self._rows))):
            new = torch.tensor([source is None for source in sources])
            index = torch.tensor([source or 0 for source in sources])
            if self._rows:
                self._lengths = self._lengths[index].masked_fill_(new, 0)
            else:
                self._lengths = torch.zeros(len(histories), dtype=torch.long)
            for cache in self._caches:
                cache.select(index)
        self._unread = [
            own[0 if source is None else len(self._rows[source].images) :]
            for own, source in zip(pictures, sources, strict=True)
        ]
        # Known again when this call has ended well: an error leaves nothing half-read.
        self._rows = []
        return rows

    def _next_log_weights(self, rows: list[int], ruled_out: torch.Tensor) -> torch.Tensor:
        """Read what is pending in the rows; log-weights (len(rows), V) of what comes next."""
        # All rows are read first, so pictures come once, and none are pending in later calls.
        pixels, self._unread = self._pixels(self._unread), []
        read = self._lengths.tolist()
        ids = [self._ids[row][read[row] :] for row in rows]
        counts = torch.tensor([len(row_ids) for row_ids in ids])
        longest = int(counts.max())
        input_ids = torch.tensor([row_ids + [0] * (longest - len(row_ids)) for row_ids in ids])
        index = None if len(rows) == len(self._ids) else torch.tensor(rows)
        old_lengths = self._lengths if index is None else self._lengths[index]
        new_lengths = old_lengths + counts
        end = int(new_lengths.max())

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
            pixels,
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
        pixels: torch.Tensor | None,
    ) -> list[torch.Tensor]:
        """Logits (B, len(columns), V) of each model at these columns."""
        outputs = []
        keys = torch.arange(seen.shape[-1], device=self.device)[None]
        models, options = self.models, {}
        if self._adapters:  # one pass, in which each row comes once for each of them
            models, copies = [self.models[0].shared], len(self.models)
            options["adapter_names"] = [n for n in self._adapters for _ in range(len(input_ids))]
            input_ids, position_ids = input_ids.repeat(copies, 1), position_ids.repeat(copies, 1)
            seen = seen.repeat(copies, 1, 1, 1)
            pixels = None if pixels is None else pixels.repeat(copies, 1, 1, 1)
        for model, cache in zip(models, self._caches, strict=True):
            logits = model(
                input_ids=input_ids,
                attention_mask=attention_mask(model, seen, position_ids, keys),
                position_ids=position_ids,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=columns,
                **image_inputs(model, pixels),
                **options,
            ).logits
            # A model may give the logits of all columns all the same.
            logits = logits if logits.shape[1] == len(columns) else logits[:, columns]
            outputs += logits.chunk(len(self.models) // len(models))
        return outputs

    def _choose(self, log_weights: torch.Tensor) -> torch.Tensor:
        """Token ids (B,): the most likely ones, or samples."""
        finite = log_weights.amax(-1).isfinite()
        if not finite.all():
            row = int((~finite).nonzero()[0])
            raise FloatingPointError(f"The log-weights of row {row} have no finite maximum.")
        if self.greedy:
            return log_weights.argmax(-1)
        # Gumbel noise, as minus the log of exponential noise: the argmax is a sample.
        noise = torch.empty_like(log_weights).exponential_(generator=self._generator)
        return log_weights.sub_(noise.log_()).argmax(-1)

    def _can_be_played(self, action: list[int]) -> bool:
        """Whether these tokens are a whole action: nothing less, nothing more, and all allowed."""
        if self.constraint is not None:
            return self.constraint.ends(tuple(action))
        ends = [self._stops.ended([action[:size]])[0] for size in range(1, len(action) + 1)]
        return any(ends) and ends.index(True) == len(action) - 1

    def _is_whole(self, text: str, ids: list[int]) -> bool:
        """Whether a text with these tokens is one action, of the constraint or by the stops."""
        if self.constraint is not None and self.constraint.ends(tuple(ids)):
            return True
        return text.endswith(self._stops.texts) and cut(text, self._stops.texts) == [text]

    def _ruled_out(self, actions: list[list[int]]) -> torch.Tensor:
        """What may not follow the actions so far (B): (B, V) bool."""
        if self.constraint is None:
            return self._stops.ruled_out(actions)
        allowed = torch.zeros(len(actions), len(self.tokenizer), dtype=torch.bool)
        for row, ids in enumerate(actions):
            allowed[row, list(self.constraint.allowed(tuple(ids)))] = True
        return self._stops.special | ~allowed.to(self.device)

    def _ended(self, actions: list[list[int]]) -> list[bool]:
        """Whether each action has ended with its last token."""
        if self.constraint is not None:
            return [self.constraint.ends(tuple(ids)) for ids in actions]
        return self._stops.ended(actions)

    def _after(
        self, histories: list[list[int]], actions: Prefixes, pictures: Sequence[Images]
    ) -> torch.Tensor:
        """Log-probabilities (N, V) of what follows each history and the beginning of an action."""
        # Read anew, without caches: what is refused is rare.
        read = [[*history, *begun] for history, begun in zip(histories, actions, strict=True)]
        self._check_context([len(ids) for ids in read], [])
        lengths = torch.tensor([len(ids) for ids in read], device=self.device)
        longest, shortest = int(lengths.max()), int(lengths.min())
        padded = [[*ids, *[0] * (longest - len(ids))] for ids in read]
        input_ids = torch.tensor(padded, device=self.device)
        positions = torch.arange(longest, device=self.device).expand_as(input_ids)
        row, column = torch.arange(len(read), device=self.device), lengths - shortest
        pixels = self._pixels(pictures)
        logits = [
            model(
                input_ids=input_ids,
                position_ids=positions,
                use_cache=False,
                logits_to_keep=longest - shortest + 1,
                **image_inputs(model, pixels),
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
        return log_weights[:, : len(self.tokenizer)]

    def _check_context(self, lengths: list[int], histories: Sequence[History]) -> None:
        context = min(text_config(model).max_position_embeddings for model in self.models)
        if max(lengths) > context:
            long = [h for h, length in zip(histories, lengths, strict=False) if length > context]
            raise ContextError(
                f"An episode has {max(lengths)} tokens, but the models' context is {context}.", long
            )


def adapters_of_one_base(models: Sequence[Any]) -> list[str]:
    """The names of the adapters where all models are adapters of one base, else none."""
    if len(models) < 2 or not all(isinstance(model, Adapter) for model in models):
        return []
    base = models[0].shared
    if any(model.shared is not base for model in models):
        return []
    base.eval()
    return [model.name for model in models]


def as_list(histories: Sequence[History]) -> list[History]:
    """The histories; TypeError for a text alone, which would be taken for a list of letters."""
    if isinstance(histories, str) or not isinstance(histories, Iterable):
        raise TypeError(f"act takes a list of histories, one for each episode: {histories!r}")
    return list(histories)


def check_whole(name: str, value: Any, least: int | None = None) -> None:
    """ValueError unless the value is a whole number, and at least this."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ValueError(f"{name} must be a whole number, not {value!r}.")
    if least is not None and value < least:
        raise ValueError(f"{name} must be at least {least}, not {value}.")


def check_temperature(temperature: float) -> float:
    """The temperature; ValueError unless it is positive and finite."""
    if not 0 < temperature < math.inf:
        raise ValueError(
            f"temperature must be positive and finite, not {temperature}; greedy=True for 0."
        )
    return temperature


def check_support(relative_support: float) -> float:
    """The relative support; ValueError unless it lies in [0, 1]."""
    if not 0 <= relative_support <= 1:
        raise ValueError(f"relative_support must lie in [0, 1], not {relative_support}.")
    return relative_support


def outside_support(
    log_pi: torch.Tensor, relative_support: float, ruled_out: torch.Tensor | None = None
) -> torch.Tensor:
    """Which actions have pi(a|s) < relative_support * max_b pi(b|s): log_pi (..., V) -> bool.

    The maximum is over the actions that are not ruled_out, bool (..., V). The rule of BCQ (Fujimoto
    et al., 2019): values of what the data hardly ever did are noise.
    """
    if relative_support == 0:
        return torch.zeros_like(log_pi, dtype=torch.bool)
    others = log_pi if ruled_out is None else log_pi.masked_fill(ruled_out, -math.inf)
    return log_pi < others.amax(-1, keepdim=True) + math.log(relative_support)
