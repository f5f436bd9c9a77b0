"""WebShop as a study: chapter 10's table, and its longer ones.

python -m qsft_lite.study webshop --profile record
python -m qsft_lite.study webshop --profile gpu --set products=items_shuffle_1000.json
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import datasets
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from qsft_lite.baselines import TrainedMethod
from qsft_lite.baselines.react import ReActPolicy
from qsft_lite.evaluate import Evaluation, evaluate
from qsft_lite.study.task import TEST_SEED
from qsft_lite.tasks.agent_study import SMOKE, AgentSettings, AgentTask, spread
from qsft_lite.tasks.draws import log_likelihood
from qsft_lite.tasks.webshop.data import WEIGHTS, generate_webshop
from qsft_lite.tasks.webshop.env import MAX_STEPS, WebShop
from qsft_lite.tasks.webshop.players import PLAYERS
from qsft_lite.tasks.webshop.prompts import STYLE, webshop_prompt
from qsft_lite.tasks.webshop.short import parts

__all__ = ["PROFILES", "TASK", "WebShopSettings", "WebShopTask"]


@dataclasses.dataclass(frozen=True)
class WebShopSettings(AgentSettings):
    """Settings of WebShop. products: "" for our catalog, or the path of the original's files."""

    products: str = ""
    games: int = 20_000
    batch_rows: int = 16
    row_tokens: int = 512
    value_learning_rate: float = 1e-3
    validation_games: int = 200
    test_games: int = 500
    coarse_grid: bool = True


PROFILES = {
    "smoke": WebShopSettings(**SMOKE),
    "laptop": WebShopSettings(
        games=12_000, value_epochs=0.5, seeds=1, validation_games=60, test_games=200
    ),
    # Fresh visits in one pass: twice the same ones, the clone learns them by heart.
    "record": WebShopSettings(games=30_000, value_epochs=0.5, threads=1, validation_games=100),
    "gpu": WebShopSettings(
        layers=4,
        width=256,
        heads=8,
        batch_rows=32,
        behavior_epochs=4.0,
        value_epochs=3.0,
        learning_rate=2e-3,
        bf16=True,
    ),
}


class WebShopTask(AgentTask):
    """One seed of WebShop: visits of people with slips, judged on the original's test goals."""

    best, longest_action = "Oracle", 32

    def __init__(self, settings: WebShopSettings, seed: int):
        env = WebShop(settings.products or None, format=settings.format)
        super().__init__(settings, seed, env)

    def parts(self, word: str) -> Sequence[tuple]:
        """See AgentTask.parts."""
        return parts(word)

    def recorded(self, games: int, part: str) -> datasets.Dataset:
        """See Task.recorded; of training goals."""
        settings = self.settings
        how = {"products": settings.products or None, "format": settings.format}
        return generate_webshop(games, self.part_seed(part), **how)

    def log_likelihood(self, texts: Sequence[str]) -> float:
        """See AgentTask.log_likelihood."""
        how = {"format": self.settings.format, "max_steps": MAX_STEPS}
        players = [PLAYERS[name](self.env.catalog, **how) for name in WEIGHTS]
        taken = []
        for place in range(1, len(texts), 2):
            visit = players[0].visit("".join(texts[:place]))
            action = texts[place].removesuffix("\n")
            taken.append([player.chance(visit, action) for player in players])
        return log_likelihood(list(WEIGHTS.values()), taken)

    def starts(self, test: bool) -> list[dict[str, Any]]:
        """Goals of the test, or of validation."""
        games = self.settings.test_games if test else self.settings.validation_games
        goals = self.env.catalog.split("test" if test else "validation")
        return [{"goal": goal} for goal in spread(goals, games)]

    def levels(self) -> dict[str, float]:
        """The players that made the data, and better ones."""
        starts, how = self.starts(test=True), {"format": self.settings.format}
        return {
            name.capitalize(): evaluate(
                player(self.env.catalog, 0, **how, max_steps=MAX_STEPS),
                self.env,
                len(starts),
                TEST_SEED,
                options=starts,
            ).mean
            for name, player in PLAYERS.items()
        }

    def describe(self, result: Evaluation) -> dict[str, float]:
        """Also how many visits end with a purchase."""
        bought = sum(game["done"] for game in result.transcripts) / len(result.transcripts)
        return {**super().describe(result), "purchases": bought}

    def prompted(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        thinks: bool,
        prompts: str | None = None,
    ) -> ReActPolicy:
        """A language model that shops by a prompt: ours, or that of ReAct's file; format "text"."""
        prompt = webshop_prompt(prompts, thinks=thinks)
        return ReActPolicy(model, tokenizer, prompt, thinks=thinks, **STYLE)

    def explorer(self, trained: TrainedMethod, options: dict[str, Any]) -> None:
        """Visits of the policy with test goals, to step through and to shop on."""
        from qsft_lite.tasks.webshop.widgets import shop_explorer

        policy, starts = self.policy(trained, **options), self.starts(test=True)[:8]
        played = evaluate(policy, self.env, len(starts), TEST_SEED, options=starts).transcripts
        shop_explorer(policy, self.env, starts, played)


TASK = WebShopTask
