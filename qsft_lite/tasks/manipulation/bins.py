r"""Numbers as words: each dimension of an action is cut into bins, and a bin is a word.

As in RT-1 and the Q-Transformer, a number becomes the token of its bin, and a bin becomes the
number at its center. The gripper and the stop are switches: two bins, 0 is off.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from qsft_lite.files import named_if_damaged, replace_file
from qsft_lite.tasks.checks import check_choice
from qsft_lite.tasks.manipulation.table import check_actions
from qsft_lite.tasks.manipulation.text import LETTERS

BINS = 15  # of a number that is no switch: an odd number, so that one of them is around 0
SWITCHES = (6, 7)


class ActionBins:
    r"""The bins of the eight numbers of an action.

    edges: of each dimension, where one bin ends (that number is still in it) and the next begins,
    growing; n - 1 for n bins.
    centers: of each dimension, the number of each bin. Raises ValueError for edges and centers that
    do not fit each other, or grow not, or are not finite.

    `ActionBins.uniform()` is the default: 15 bins of one width over [-1, 1], centers in the middle.
    """

    def __init__(self, edges: Sequence[Sequence[float]], centers: Sequence[Sequence[float]]):
        self.edges = [np.array(some, dtype=np.float64).reshape(-1) for some in edges]
        self.centers = [np.array(some, dtype=np.float64).reshape(-1) for some in centers]
        if len(self.edges) != 8 or len(self.centers) != 8:
            raise ValueError(f"bins need 8 dimensions, got {len(edges)} and {len(centers)}")
        for letter, edge, center in zip(LETTERS, self.edges, self.centers, strict=True):
            if len(edge) != len(center) - 1:
                raise ValueError(f"{letter}: {len(center)} centers need one edge fewer")
            if not (np.isfinite(edge).all() and np.isfinite(center).all()):
                raise ValueError(f"{letter}: edges and centers must be finite numbers")
            if (
                not (np.diff(edge) > 0).all()
                or (np.digitize(center, edge, right=True) != range(len(center))).any()
            ):
                raise ValueError(f"{letter}: edges must grow, and each center lie in its bin")
        self._number = [
            {word: bin for bin, word in enumerate(self._words(dimension))} for dimension in range(8)
        ]

    @classmethod
    def uniform(cls, n: int = BINS) -> ActionBins:
        """n bins of one width over [-1, 1], and two of a switch."""
        return cls._cut(np.tile([[-1.0], [1.0]], (1, 8)), n, "uniform", means=False)

    @classmethod
    def fit(
        cls,
        actions: np.ndarray,
        n: int = BINS,
        kind: Literal["quantiles", "uniform"] = "quantiles",
    ) -> ActionBins:
        """At most n bins a dimension, centers the means of what is in them.

        actions: (N, 8). kind: "quantiles" puts as many actions into each bin, so that there are
        fewer bins where many actions are the same; "uniform" cuts from the least to the largest. A
        dimension of two values gets two bins, and of one value one; a switch always two. A center
        of a bin without actions is its middle.
        """
        check_choice(kind, ("quantiles", "uniform"), "kind of bins")
        actions = check_actions(actions)
        if not len(actions):
            raise ValueError("there is no action to fit bins to")
        return cls._cut(actions, n, kind)

    @classmethod
    def _cut(cls, actions: np.ndarray, n: int, kind: str, means: bool = True) -> ActionBins:
        if n < 2:
            raise ValueError(f"n must be at least 2 bins, got {n}")
        edges, centers = [], []
        for dimension, values in enumerate(actions.T):
            low, high = values.min(), values.max()
            if dimension in SWITCHES:
                inner, low, high = np.zeros(1), -1.0, 1.0
            elif means and len(some := np.unique(values)) <= 2:
                inner = some[:-1] + np.diff(some) / 2
            elif kind == "uniform":
                inner = np.linspace(low, high, n + 1)[1:-1]
            else:
                inner = np.unique(np.quantile(values, np.linspace(0, 1, n + 1)[1:-1]))
                inner = inner[inner < high]
            where = np.digitize(values, inner, right=True)
            count = np.bincount(where, minlength=len(inner) + 1)
            total = np.bincount(where, values, minlength=len(inner) + 1)
            ends = np.concatenate([[low], inner, [high]])
            middle = (ends[:-1] + ends[1:]) / 2
            mean = total / np.maximum(count, 1)
            # A mean of equal numbers may be off in the last digit.
            mean = np.clip(mean, np.append(low, np.nextafter(inner, np.inf)), ends[1:])
            centers.append(np.where((count > 0) & means, mean, middle))
            edges.append(inner)
        return cls(edges, centers)

    @property
    def counts(self) -> tuple[int, ...]:
        """Number of bins of each dimension."""
        return tuple(len(center) for center in self.centers)

    def encode(self, actions: np.ndarray) -> np.ndarray:
        """(N, 8) int64 bins of actions (N, 8), cut to [-1, 1]; ValueError as `check_actions`."""
        actions = check_actions(actions)
        columns = [
            np.digitize(actions[:, i], edge, right=True) for i, edge in enumerate(self.edges)
        ]
        return np.stack(columns, axis=1)

    def decode(self, bins: np.ndarray) -> np.ndarray:
        """(N, 8) float64, the centers of bins (N, 8); ValueError for a bin that there is not."""
        bins = np.asarray(bins)
        if bins.ndim != 2 or bins.shape[1] != 8 or not np.issubdtype(bins.dtype, np.integer):
            raise ValueError(f"bins must be whole numbers (N, 8), got {bins.dtype} {bins.shape}")
        if ((bins < 0) | (bins >= self.counts)).any():
            raise ValueError(f"bins must be at least 0 and below {self.counts}")
        return np.stack([center[bins[:, i]] for i, center in enumerate(self.centers)], axis=1)

    def write(self, bins: np.ndarray) -> list[str]:
        r"""The text of each action, "x07 y03 z14 a07 b07 c07 g1 s0\n"; bins: (N, 8)."""
        words = [self._words(dimension) for dimension in range(8)]
        rows = np.asarray(bins).tolist()
        return [" ".join(words[i][bin] for i, bin in enumerate(row)) + "\n" for row in rows]

    def read(self, text: str) -> np.ndarray | None:
        """(8,) the bins that a text says, whatever white space is between; None if it says none."""
        words = text.split()
        if len(words) != 8:
            return None
        found = [known.get(word) for known, word in zip(self._number, words, strict=True)]
        return None if None in found else np.array(found)

    @property
    def words(self) -> tuple[str, ...]:
        """Every word of an action, with the space or newline that ends it."""
        return tuple(
            word + ("\n" if dimension == 7 else " ")
            for dimension in range(8)
            for word in self._words(dimension)
        )

    def save(self, path: str | Path) -> None:
        """Write edges and centers as JSON; `load` gives back exactly the same."""
        replace_file(path, (json.dumps(self.as_dict()) + "\n").encode())

    @classmethod
    def load(cls, path: str | Path) -> ActionBins:
        """What `save` wrote; ValueError, naming the file, for one that holds no bins."""
        content = Path(path).read_bytes()
        with named_if_damaged(path, "save the bins again"):
            found = json.loads(content)
            return cls(found["edges"], found["centers"])

    def as_dict(self) -> dict[str, list[list[float]]]:
        """Edges and centers, as lists."""
        return {
            name: [one.tolist() for one in getattr(self, name)] for name in ("edges", "centers")
        }

    def _words(self, dimension: int) -> list[str]:
        count = len(self.centers[dimension])
        digits = len(str(count - 1))
        return [f"{LETTERS[dimension]}{bin:0{digits}d}" for bin in range(count)]
