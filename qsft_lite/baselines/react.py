"""ReAct (Yao et al., 2022): a prompted language model that thinks between its actions.

    policy = ReActPolicy(*smollm2(), prompt_for(alfworld_prompts()))
    evaluate(policy, envs.make("alfworld", split="unseen"), episodes=20, seed=1, batch=4)

Nothing is trained. The model continues examples and the game so far, line by line:

    > think: First I look for a mug.      a thought: the world does not hear of it,
    OK.                                   and this is all the answer it gets
    > go to desk 1                        an action
    On the desk 1, you see a mug 2.       what the world answers

ReAct counts a thought as a step of the game; here only actions are counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain, groupby

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from qsft_lite.baselines.trained import ClonedPolicy
from qsft_lite.data.transcripts import ContextError, Segment, Transcript
from qsft_lite.policy.cached import History, as_list, check_whole

__all__ = ["OK", "ReActPolicy"]

OK = "OK.\n"  # what a thought is answered


class ReActPolicy(ClonedPolicy):
    """A causal language model that plays by a prompt, with thoughts (ReAct) or without (Act).

    Thoughts are kept until `reset`, by the transcript with the action that came after them: games
    that are alike to the letter share them. A context that does not fit loses its oldest steps;
    prompt, first observation and last step stay.

    Args:
        model: any causal language model of transformers, as `models.load_model` gives it.
        tokenizer: the model's.
        prompt: examples; or a function from a first observation to what a context begins with.
        thinks: False for Act: a line that would be a thought is never written.
        max_thoughts: thoughts in a row, after which the next line is an action; at least 1.
        action: what stands before a line of the model, without a space at its end.
        observation: what stands before an answer of the world.
        thought: what a thought begins with.
        context: most tokens of a context; None for as many as the model has positions for.
        greedy, temperature, max_new_tokens, seed: ClonedPolicy's, max_new_tokens of a line.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        prompt: str | Callable[[str], str],
        *,
        thinks: bool = True,
        max_thoughts: int = 3,
        action: str = ">",
        observation: str = "",
        thought: str = "think:",
        context: int | None = None,
        greedy: bool = True,
        temperature: float = 1.0,
        max_new_tokens: int = 64,
        seed: int = 0,
    ):
        check_whole("max_thoughts", max_thoughts, least=1)
        if not thought.strip():
            raise ValueError("thought must be a text that only thoughts begin with, not empty.")
        positions = model.config.max_position_embeddings
        context = positions if context is None else context
        check_whole("context", context, least=1)
        play = {"greedy": greedy, "temperature": temperature, "seed": seed}
        super().__init__(model, tokenizer, max_new_tokens=max_new_tokens, **play)
        self.begin = prompt if callable(prompt) else lambda first: prompt + first
        self.max_thoughts = max_thoughts if thinks else 0
        self.action, self.observation, self.thought = action, observation, thought
        self._answer: Segment = (f"{observation}{OK}{action}", False)
        [self._answer_ids] = self._reader.read([self._answer])
        # What a turn may add: its thoughts with their answers, and an action.
        turn = max_new_tokens + self.max_thoughts * (max_new_tokens + len(self._answer_ids))
        self.room = min(positions, context) - turn  # for what was before it

    def reset(self, seed: int) -> None:
        """See CachedPolicy.reset; thoughts are forgotten, too."""
        super().reset(seed)
        self._lines: dict[str, list[str]] = {}  # of a turn, by the transcript with its action

    def thoughts(self, text: str) -> list[str]:
        """The thoughts before the action that a transcript ends with, a line each."""
        return [line.strip() + "\n" for line in self._lines.get(text, [])[:-1]]

    def context(self, history: History) -> list[Segment]:
        """What the model reads before its next line; ContextError where too little of it fits."""
        (first, _), *rest = self._segments(history)
        start: list[Segment] = [(self.begin(first), False)]
        steps: list[list[Segment]] = []
        text, mark = first, (self.action, False)
        for part, is_action in rest:
            text += part
            if is_action:
                *thoughts, line = self._lines.get(text, [f" {part}"])
                answer = (self.observation + OK, False)
                steps += [*([mark, (one, True), answer] for one in thoughts), [mark, (line, True)]]
            elif steps:
                steps[-1].append((self.observation + part, False))
            else:
                start.append((part, False))
        for dropped in range(max(len(steps), 1)):
            segments = _joined([*start, *chain.from_iterable(steps[dropped:]), mark])
            size = len(self._start) + sum(map(len, self._reader.read(segments)))
            if size <= self.room:
                return segments
        what = f"prompt, first observation and last step have {size} tokens"
        raise ContextError(f"The {what}, the context has room for {self.room}.", [history])

    def _segments(self, history: History) -> Sequence[Segment]:
        """The segments of a history; in a plain text actions are those that were written here."""
        if not isinstance(history, str) or isinstance(history, Transcript):
            return Transcript(getattr(history, "segments", history)).segments or [("", False)]
        segments: list[Segment] = []
        start = 0
        for end in [place + 1 for place, sign in enumerate(history) if sign == "\n"]:
            if lines := self._lines.get(history[:end]):
                action = _action(lines[-1])
                segments += [(history[start : end - len(action)], False), (action, True)]
                start = end
        return [*segments, (history[start:], False)]

    @torch.inference_mode()
    def act(self, histories: Sequence[History]) -> list[str]:
        """The next action of each game, any text of one line; costs are CachedPolicy's."""
        histories = as_list(histories)
        if not histories:
            return []
        known = self._take_up([self.context(history) for history in histories])
        self._ids = [list(row.ids) for row in known]
        written: list[list[Segment]] = [[] for _ in histories]
        lines: list[list[int]] = [[] for _ in histories]  # the tokens of the line under way
        rows = list(range(len(histories)))
        while rows:
            begun = [lines[row] for row in rows]
            ruled_out = torch.cat([self._ruled_out([ids]) for ids in begun])
            log_weights = self._next_log_weights(rows, ruled_out)
            may_think = [len(written[row]) < 2 * self.max_thoughts for row in rows]
            chosen = self._choose_lines(log_weights, begun, may_think)
            for row, token_id in zip(rows, chosen, strict=True):
                lines[row].append(token_id)
                self._ids[row].append(token_id)
            ended = [row for row, end in zip(rows, self._ended(begun), strict=True) if end]
            for row in ended:
                written[row].append((self._text(lines[row]), True))
                if self._is_thought(written[row][-1][0]):
                    written[row].append(self._answer)
                    self._ids[row] += self._answer_ids
                    lines[row] = []
                else:
                    rows.remove(row)
        actions = []
        for row, (history, segments) in enumerate(zip(histories, written, strict=True)):
            old, ids = known[row], self._ids[row]
            self.transcript_tokens += len(ids) - len(old.ids)
            self._rows.append(old._replace(segments=(*old.segments, *segments), ids=ids))
            actions.append(_action(segments[-1][0]))
            text = "".join(part for part, _ in self._segments(history)) + actions[-1]
            self._lines[text] = [line for line, is_line in segments if is_line]
        return actions

    def _choose_lines(
        self, log_weights: torch.Tensor, begun: list[list[int]], may_think: list[bool]
    ) -> list[int]:
        """The next token of each line: one that makes a thought only where there may be one."""
        while True:
            chosen = self._choose(log_weights.clone()).tolist()
            texts = [self._text([*ids, new]) for ids, new in zip(begun, chosen, strict=True)]
            wrong = [r for r, text in enumerate(texts) if self._is_thought(text) > may_think[r]]
            if not wrong:
                return chosen
            log_weights[wrong, [chosen[row] for row in wrong]] = -torch.inf

    def _is_thought(self, line: str) -> bool:
        return line.lstrip().startswith(self.thought)

    def _text(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, clean_up_tokenization_spaces=False)


def _action(line: str) -> str:
    return line.strip() + "\n"


def _joined(segments: list[Segment]) -> list[Segment]:
    """Segments of one kind that follow each other made one, as a tokenizer would read them."""
    groups = groupby(segments, key=lambda segment: segment[1])
    return [("".join(text for text, _ in group), is_line) for is_line, group in groups]
