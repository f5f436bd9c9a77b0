"""What a policy thinks of the bins of a robot's action, and of states.

A policy is asked about one turn alone, as it is trained (memory="turn" of data.encode); of a
`LastLine` the policy within is asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from qsft_lite.policy.cached import CachedPolicy
from qsft_lite.policy.last_line import LastLine
from qsft_lite.policy.whole_actions import ask_tokens
from qsft_lite.tasks.manipulation.env import Manipulation
from qsft_lite.tasks.manipulation.replay import Moment


class Bins(NamedTuple):
    """What a policy thinks of the bins of each dimension, given the bins before it.

    Attributes:
        chosen: (8,) int64, of each dimension the bin that the later ones are asked after.
        pi, pi_hat: of each dimension (n,) float32, the probabilities of its n bins.
        q: of each dimension (n,) float32, their values; None of a policy without values.
    """

    chosen: np.ndarray
    pi: list[np.ndarray]
    pi_hat: list[np.ndarray]
    q: list[np.ndarray] | None


class Asked:
    """A policy that is asked about states of an environment.

    Raises ValueError for a tokenizer that does not write each word of an action as one token.
    """

    def __init__(self, policy: CachedPolicy | LastLine, env: Manipulation):
        self.policy = policy.policy if isinstance(policy, LastLine) else policy
        self.env, counts = env, np.array(env.bins.counts)
        rows = np.minimum(np.arange(counts.max())[:, None], counts - 1)
        read = self.policy._reader.read([(text, True) for text in env.bins.write(rows)])
        if any(len(ids) != 8 for ids in read):
            raise ValueError("the tokenizer must write each word of an action as one token")
        # Of each dimension (n,) the tokens of its bins.
        self.ids = [np.array(read)[:count, place] for place, count in enumerate(counts)]

    def bins(self, moment: Moment, chosen: np.ndarray) -> Bins:
        """All bins at a state; chosen: (8,) the action whose dimensions the later ones follow."""
        begun = [int(self.ids[place][bin]) for place, bin in enumerate(chosen[:7])]
        found = self._ask([moment.text], [moment.image], begun)
        pi, pi_hat, q = (
            None if part is None else [part[0, place][ids] for place, ids in enumerate(self.ids)]
            for part in found
        )
        return Bins(np.asarray(chosen), pi, pi_hat, q)

    def own(self, moment: Moment) -> np.ndarray:
        """(8,) the policy's choice: of each dimension in turn the likeliest bin by pi_hat."""
        chosen: list[int] = []
        for place, ids in enumerate(self.ids):
            begun = [int(self.ids[i][bin]) for i, bin in enumerate(chosen)]
            _, pi_hat, _ = self._ask([moment.text], [moment.image], begun)
            chosen.append(int(pi_hat[0, place][ids].argmax()))
        return np.array(chosen)

    def values(self, moments: Sequence[Moment]) -> np.ndarray | None:
        """(N,) float64, the value of each state, see `values_of`; nan where the episode is over."""
        going = np.array([not moment.over for moment in moments])
        values = np.full(len(moments), np.nan)
        if going.any():
            texts, images = zip(*((m.text, m.image) for m in moments if not m.over), strict=True)
            found = self.values_of(texts, images)
            if found is None:
                return None
            values[going] = found
        return values

    def values_of(
        self, texts: Sequence[str], images: Sequence[np.ndarray] | None
    ) -> np.ndarray | None:
        """(N,) float32, the value V(s) of states; None of a policy without values.

        V(s) = sum_a pi(a|s) q(a|s) over the first dimension of an action: the mean of what acting
        as pi is worth, before any bin is chosen. It needs no sample, and is what the backup
        "behavior" reads of a state. texts: states; images: of each its picture, where the policy
        sees them.
        """
        pi, _, q = self._ask(texts, images, [])
        return None if q is None else (pi * q).sum(-1)[:, 0]

    def _ask(
        self,
        texts: Sequence[str],
        images: Sequence[np.ndarray] | None,
        begun: Sequence[int],
    ) -> list[np.ndarray | None]:
        """pi, pi_hat and q (B, T, V) of the next tokens at states, after the same beginning."""
        histories = [[(text, False)] for text in texts]
        pictures = [[image] for image in images] if self.env.images else None
        found = ask_tokens(self.policy, histories, [begun] * len(texts), pictures)
        return [None if part is None else part.numpy(force=True) for part in found]
