"""A policy that plays no action twice in an episode."""

from __future__ import annotations

from collections.abc import Sequence

from qsft_lite.data.transcripts import Segment, Transcript
from qsft_lite.policy.cached import CachedPolicy, Images, as_list


class Once:
    """A policy that plays none of an episode's actions again (ours), around a CachedPolicy alone.

    For games where the same action always has the same answer, so that a second time tells nothing.
    What is sampled is the policy given that it plays none of them, and a relative support is one of
    what is left. Whoever has played everything has no action: act raises FloatingPointError.
    """

    def __init__(self, policy: CachedPolicy):
        self.policy = policy

    def reset(self, seed: int) -> None:
        """See CachedPolicy.reset."""
        self.policy.reset(seed)

    def act(
        self,
        histories: Sequence[Transcript | Sequence[Segment]],
        images: Sequence[Images] | None = None,
    ) -> list[str]:
        """See CachedPolicy.act; TypeError for a plain text, which does not say what was played."""
        histories = as_list(histories)
        refused = [_played(history) for history in histories]
        return self.policy.act(histories, refused=refused, images=images)


def _played(history: Transcript | Sequence[Segment]) -> list[str]:
    """The actions of a transcript so far."""
    if isinstance(history, str) and not isinstance(history, Transcript):
        raise TypeError(
            "A policy that plays no action twice needs a Transcript, or (text, is_action) segments:"
            f" a text alone does not say which parts were actions: {history!r:.200}"
        )
    segments = history.segments if isinstance(history, Transcript) else history
    return [text for text, is_action in segments if is_action]
