"""What the studies of WebShop and ALFWorld share: agents whose actions are a few words.

How an agent is measured is shared with the robot's study, too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

import datasets
import numpy as np
import pyarrow.compute as pc
from scipy import stats
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from qsft_lite.baselines import TrainedMethod
from qsft_lite.data import RewardScale, encode, start_id
from qsft_lite.data.images import load_image
from qsft_lite.evaluate import Evaluation
from qsft_lite.models import (
    add_dummy,
    load_model,
    share_embeddings,
    small_model,
    smollm2,
    word_tokenizer,
)
from qsft_lite.study import Settings, Task
from qsft_lite.study.task import all_over

__all__ = ["SMOKE", "AgentSettings", "AgentTask", "measure_actions", "spread"]

SMOKE = {  # of both tasks' profile "smoke"
    "games": 60,
    "layers": 1,
    "width": 16,
    "batch_rows": 4,
    "threads": 1,
    "seeds": 1,
    "validation_games": 4,
    "test_games": 12,
    "measured_games": 2,
}
PARTS = {"behavior": 0, "values": 1, "held out": 2}  # of the games, each drawn by its own seed


@dataclasses.dataclass(frozen=True)
class AgentSettings(Settings):
    """Settings of both.

    format: "short", a few words a turn, or "text", the original's. model: "scratch", "smollm2", or
    the id or folder of any pretrained one. context: most tokens of an episode that a network from
    scratch reads. gamma: discount of a turn. measured_games: those that networks are measured on.
    """

    format: str = "short"
    model: str = "scratch"
    context: int = 1_024
    gamma: float = 0.95
    measured_games: int = 40


class AgentTask(Task):
    """An agent that reads and writes.

    A subclass sets env and says: recorded, levels, and starts; parts, what a word has in common
    with others; longest_action, in words.
    """

    lowest = 0.0
    longest_action: ClassVar[int]

    def __init__(self, settings: AgentSettings, seed: int, env: Any):
        super().__init__(settings, seed)
        self.env = env
        # A word is one token, or a few of a pretrained tokenizer.
        words = self.longest_action
        self.acts = {"max_new_tokens": words if self._from_scratch else 4 * words}

    def parts(self, word: str) -> Sequence[tuple]:
        """What a word has in common with others, for share_embeddings."""
        raise NotImplementedError

    @property
    def _from_scratch(self) -> bool:
        return self.settings.model == "scratch"

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Of the task's words, or the pretrained model's."""
        return word_tokenizer(self.env.texts) if self._from_scratch else self._pretrained[1]

    @cached_property
    def _pretrained(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        name = self.settings.model
        model, tokenizer = smollm2() if name == "smollm2" else load_model(name)
        add_dummy(model, tokenizer)
        return model, tokenizer

    def new_model(self) -> PreTrainedModel:
        """See Task.new_model."""
        settings = self.settings
        if not self._from_scratch:
            return self._pretrained[0]
        shape = {name: getattr(settings, name) for name in ("layers", "width", "heads", "context")}
        model = small_model(self.tokenizer, **shape, seed=self.seed)
        words = {word: self.parts(word) for word in self.env.texts}
        share_embeddings(model, self.tokenizer, words, seed=self.seed)
        return model

    def log_likelihood(self, texts: Sequence[str]) -> float:
        """log of the probability of a game's actions under the mixture of the data's players."""
        raise NotImplementedError

    def part_seed(self, part: str) -> int:
        """What the games of a part are drawn with."""
        return 1_000 * self.seed + PARTS[part]

    def encoded(self, games: datasets.Dataset) -> datasets.Dataset:
        """See Task.encoded; who runs out of turns has lost, and the game is over.

        Games longer than a row are left out: few, and a longer row costs all the others.
        """
        return self._encoded(games)[0]

    def _encoded(self, games: datasets.Dataset) -> tuple[datasets.Dataset, np.ndarray]:
        """The games as tokens, and the numbers of those that fit a row."""
        gamma, scale = self.settings.gamma, RewardScale(0, 1)
        found = encode(all_over(games), self.tokenizer, scale=scale, gamma=gamma, discount="turn")
        sizes = pc.list_value_length(found.with_format("arrow")[:]["input_ids"]).to_numpy()
        kept = np.flatnonzero(sizes <= self.settings.row_tokens)
        return found.select(kept), kept

    def describe(self, result: Evaluation) -> dict[str, float]:
        """Actions that meant nothing, among all, and turns a game."""
        return {"invalid actions": 1 - result.valid, "turns": float(result.lengths.mean())}

    @cached_property
    def held_out(self) -> tuple[datasets.Dataset, float]:
        """Encoded games that no network has seen, and the cross-entropy of the data's players.

        It is in nats an action, on the same games: of each action its probability under the mixture
        of players, given all that came before. Were no game longer than a row, nothing that reads
        the text could be expected below it. Raises ValueError where no game fits a row, and for one
        that none of the players could have played.
        """
        games = self.recorded(self.settings.measured_games, "held out")
        encoded, kept = self._encoded(games)
        if not len(kept):
            raise ValueError(
                f"all {len(games)} measured games are longer than {self.settings.row_tokens} "
                "tokens: raise row_tokens or measured_games"
            )
        total = 0.0
        for number in kept.tolist():
            total += (own := self.log_likelihood(games[number]["text"]))
            if not np.isfinite(own):
                raise ValueError(
                    f"game {number} of the measured ones cannot be of the data's players: "
                    f"{''.join(games[number]['text'])[:200]!r}"
                )
        actions = sum(sum(games[number]["is_action"]) for number in kept.tolist())
        return encoded, -total / actions

    def measure(self, trained: TrainedMethod) -> dict[str, float]:
        """See measure_actions, and how many nats more than the data's players.

        That estimates KL(pi_beta || pi_phi) by the actions that were taken alone, so by chance it
        may be negative; where all actions of a state can be counted, studies record it exactly.
        """
        games, of_players = self.held_out
        found = measure_actions(trained, games)
        total = found["cross-entropy"]
        return {"cross-entropy": total, "estimated KL": total - of_players, **found}


def measure_actions(trained: TrainedMethod, games: datasets.Dataset) -> dict[str, float]:
    """On encoded games of the data's players that no network has seen, means over their actions.

    -log pi of an action (nats). Of methods with values: the squared error of the value of the
    action taken to the discounted return that followed, beside the variance of these returns,
    which a constant would have, and their rank correlation. The value of an action is that of
    its last token. Of turns apart each token is asked about in its turn, with the turn's pictures.
    """
    start = [start_id(trained.tokenizer), *trained.tokenizer(trained.prompt)["input_ids"]]
    prefixes, taken, images, ends, returns = [], [], [], [], []
    for game in games:
        ids, is_action = list(game["input_ids"]), np.array(game["action_mask"])
        begins = np.flatnonzero(np.array(game.get("position_ids", range(len(ids)))) == 0)
        shown = np.flatnonzero(game.get("image_start", ()))
        last = is_action & ~np.append(is_action[1:], False)
        for place in np.flatnonzero(is_action):
            begin = begins[begins < place][-1]
            prefixes.append([*start, *ids[begin + 1 : place]])
            taken.append([ids[place]])
            own = np.flatnonzero((begin < shown) & (shown < place))
            images.append([load_image(game["images"][number]) for number in own])
        ends += last[is_action].tolist()
        returns += np.array(game["return_to_go"])[last].tolist()
    log_pi, learned = trained.values_of(prefixes, taken, images)
    actions = len(returns)
    found = {"cross-entropy": -float(np.sum(log_pi)) / actions}
    if learned is not None:
        values, truth = np.concatenate(learned)[ends], np.array(returns)
        found["squared error to the return"] = float(np.mean((values - truth) ** 2))
        found["variance of returns"] = float(truth.var())
        if np.ptp(values) and np.ptp(truth):
            rank = stats.spearmanr(values, truth).statistic
            found["rank correlation with it"] = float(rank)
    return found


def spread(items: Sequence[Any], count: int) -> list[Any]:
    """So many of the items, from first to last, evenly spaced; again from the first for more."""
    if count >= len(items):
        return [items[i % len(items)] for i in range(count)]
    return [items[i * len(items) // count] for i in range(count)]
