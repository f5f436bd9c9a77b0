"""A policy that is shown one line of each transcript, for models of turns apart."""

from __future__ import annotations

import re
from collections.abc import Sequence

from qsft_lite.data.transcripts import IMAGE, Segment, Transcript
from qsft_lite.policy.cached import CachedPolicy, Images, as_list


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

    def act(
        self,
        histories: Sequence[str | Sequence[Segment]],
        images: Sequence[Images] | None = None,
    ) -> list[str]:
        """See CachedPolicy.act; token ids have no lines, and are not taken.

        Where there are pictures, an action is played again: the line may be the same, and not what
        is seen.
        """
        texts, lines = as_texts(histories), last_lines(histories)
        if images is None:
            return self.policy.act(lines, refused=[_without_effect(text) for text in texts])
        last = [
            own[len(own) - line.count(IMAGE) :] for own, line in zip(images, lines, strict=True)
        ]
        return self.policy.act(lines, images=last)


def as_texts(histories: Sequence[str | Sequence[Segment]]) -> list[str]:
    """Histories as texts."""
    return [one if isinstance(one, str) else Transcript(one) for one in as_list(histories)]


def last_lines(histories: Sequence[str | Sequence[Segment]]) -> list[str]:
    """The last line of each history, with the newline that ends it."""
    return [text[:-1].rpartition("\n")[2] + text[-1:] for text in as_texts(histories)]


def _without_effect(history: str) -> list[str]:
    """The last actions of a transcript that were followed by the line that stood before them."""
    lines = re.findall(r"[^\n]*\n|[^\n]+", history)  # not splitlines, which knows other ends
    found = []
    for place in range(len(lines) - 3, -1, -2):
        if lines[place] != lines[-1]:
            break
        found.append(lines[place + 1])
    return found
