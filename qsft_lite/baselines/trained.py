"""A method after its training: it plays, says what it thinks of actions, and is saved."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from qsft_lite.baselines.heads import ActionValues
from qsft_lite.baselines.q_transformer import TokenValues
from qsft_lite.baselines.registry import METHODS
from qsft_lite.files import named_if_damaged, replace_folder
from qsft_lite.models import (
    HeadedModel,
    NewHead,
    dummy_id,
    final_hidden,
    output_head,
    pixel_rule,
)
from qsft_lite.models.heads import COPY_AGAIN
from qsft_lite.policy import QSFTPolicy
from qsft_lite.policy.cached import (
    CachedPolicy,
    Images,
    check_support,
    check_temperature,
    outside_support,
)
from qsft_lite.policy.q_sft import action_values, load_or_name, load_values, merge_adapters

__all__ = ["ClonedPolicy", "TrainedMethod", "ValuePolicy"]

SETTINGS_FILE = "method.json"
PREFIXES_AT_ONCE = 256


class ClonedPolicy(CachedPolicy):
    """A language model as it is, at a temperature: pi(a|s)^(1 / temperature), normalised.

    prompt: text put before every history, such as the token of the return to reach; special tokens
    spelt out in it are tokens. relative_support: as in QSFTPolicy. options: CachedPolicy's.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *more_models: nn.Module,
        temperature: float = 1.0,
        relative_support: float = 0.0,
        prompt: str = "",
        **options,
    ):
        super().__init__([model, *more_models], tokenizer, **options)
        self.temperature = check_temperature(temperature)
        self.relative_support = check_support(relative_support)
        self.prompt = prompt
        # Not a part of any text, and so the one place where special tokens are read as such.
        self._start += tokenizer(prompt, add_special_tokens=False).input_ids if prompt else []

    def log_weights(
        self, logits: list[torch.Tensor], ruled_out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """(B, V), float32."""
        log_pi = logits[0].float().log_softmax(-1)
        outside = outside_support(log_pi, self.relative_support, ruled_out)
        return (log_pi / self.temperature).masked_fill(outside, -math.inf)


class ValuePolicy(ClonedPolicy):
    """pi_beta(a|s)^(1 / temperature) * exp(beta Q(s,a)), normalised: values of new heads at play.

    Q is the smaller one of ILQL's and CQL's two heads, or Q-Transformer's only one. That one says
    nothing of tokens that are no choices at a place of an action (``TokenValues.choices``), which
    are ruled out, unless there is no other.

    ILQL's beta (Q - V) is the same policy: V is the same for every action. options: ClonedPolicy's.
    """

    def __init__(
        self,
        behavior: PreTrainedModel,
        values: ActionValues | TokenValues,
        tokenizer: PreTrainedTokenizerBase,
        beta: float,
        **options,
    ):
        super().__init__(behavior, tokenizer, values, **options)
        if not math.isfinite(beta):
            raise ValueError(f"beta must be finite, not {beta}.")
        self.beta = beta

    def log_weights(
        self, logits: list[torch.Tensor], ruled_out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """(B, V), float32."""
        return super().log_weights(logits, ruled_out) + self.beta * logits[1].float()

    def _ruled_out(self, actions: list[list[int]]) -> torch.Tensor:
        """(B, V) bool."""
        ruled_out, values = super()._ruled_out(actions), self.models[1]
        if not isinstance(values, TokenValues):
            return ruled_out
        places = torch.tensor([len(ids) for ids in actions], device=values.choices.device)
        choices = values.choices_at(places).to(self.device)[:, : ruled_out.shape[-1]]
        fewer = ruled_out | ~choices
        return torch.where(fewer.all(-1, keepdim=True), ruled_out, fewer)


@dataclass(frozen=True)
class TrainedMethod:
    """What training gave.

    method: its key in METHODS. settings: its own ones, as they were. behavior: pi, the cloned
    model. values: what it weighs pi with; None for cloning. tokenizer: of both. prompt: text put
    before every history. logs: one entry each logging or evaluation; they are not saved.
    """

    method: str
    settings: dict[str, Any]
    behavior: PreTrainedModel
    values: PreTrainedModel | HeadedModel | None
    tokenizer: PreTrainedTokenizerBase
    prompt: str
    logs: list[dict[str, float]]

    @classmethod
    def cloned(cls, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> TrainedMethod:
        """Behavior cloning that was trained elsewhere."""
        return cls("bc", {}, model, None, tokenizer, "", [])

    def policy(
        self, *, beta: float | None = None, score: str | None = None, **options
    ) -> CachedPolicy:
        """The method at play.

        Args:
            beta: weight of the values against log pi; where there are values, it must be given.
            score: "p", "ratio" or "paired", as Q-SFT's loss was trained; the method's own if None.
            options: temperature of pi, relative_support, and CachedPolicy's: greedy, stop,
                max_new_tokens, constraint, seed.

        Raises:
            ValueError: a beta for a method without values, or none for one with them; a score of
                another form of the loss than it was trained with.
        """
        method = METHODS[self.method]
        if (beta is None) != (self.values is None):
            needs = "needs a beta" if beta is None else "has no values, and so takes no beta"
            raise ValueError(f"{self.method} {needs}")
        if score is not None and method.family != "q_sft":
            raise ValueError(f"{self.method} takes no score: that is for methods of Q-SFT's loss")
        if self.values is None:
            return ClonedPolicy(self.behavior, self.tokenizer, prompt=self.prompt, **options)
        if method.family == "heads":
            return ValuePolicy(self.behavior, self.values, self.tokenizer, beta, **options)
        leftover = self.settings["leftover"]
        paired = leftover == "paired"
        if score is None:  # an older version's method of this name may be of another form
            score = "paired" if paired else "p" if method.score == "p" else "ratio"
        if (score == "paired") != paired:
            raise ValueError(
                f"score={score!r} is not for {self.method}, which was trained with "
                f'leftover={leftover!r}: "paired" goes with "paired" alone'
            )
        dummy = dummy_id(self.tokenizer) if leftover == "dummy" else None
        models = self.behavior, self.values
        return QSFTPolicy(*models, self.tokenizer, beta, score, dummy=dummy, **options)

    def values_of(
        self,
        prefixes: Sequence[Sequence[int]],
        actions: Sequence[Sequence[int]],
        images: Sequence[Images] | None = None,
    ) -> tuple[list[np.ndarray], list[np.ndarray] | None]:
        """What the method thinks of single tokens as the next action after some prefixes.

        Args:
            prefixes: token ids of what came before, as the models read it: from the token that
                starts an episode (and the prompt, if there is one) to the last one known.
            actions: for each prefix, the ids of the tokens that are asked about.
            images: for each prefix, its pictures (H, W, 3) uint8, of models that see.

        Returns:
            Two lists with an array (actions,), float32, for each prefix: log pi of the actions, and
            their learned values: the paired value, or min(p / pi, 1) of the other forms of Q-SFT's
            loss, the (smaller) Q of new heads. None in place of the second list for a
            method without values.
        """
        if len(prefixes) != len(actions) or not all(map(len, prefixes)):
            raise ValueError("values_of needs one list of actions for each prefix, none empty")
        log_pi = [np.empty(0)] * len(prefixes)
        values = None if self.values is None else list(log_pi)
        paired = self.settings.get("leftover") == "paired"
        order = sorted(range(len(prefixes)), key=lambda i: len(prefixes[i]))
        for start in range(0, len(order), PREFIXES_AT_ONCE):
            part = order[start : start + PREFIXES_AT_ONCE]
            ids = [prefixes[i] for i in part]
            shown = [each for i in part for each in images[i]] if images is not None else []
            behavior_logits = _next_scores(self.behavior, ids, shown)
            all_log_pi = behavior_logits.log_softmax(-1)
            if values is not None:
                scores = _next_scores(self.values, ids, shown)
                if METHODS[self.method].family == "q_sft":
                    prior = getattr(self.values.config, "q_sft_prior", 0.5) if paired else None
                    new_head = isinstance(self.values, NewHead)
                    scores = action_values(behavior_logits, scores, prior, new_head=new_head)
            for row, i in enumerate(part):
                chosen = torch.tensor(list(actions[i]), dtype=torch.long)
                log_pi[i] = all_log_pi[row, chosen].numpy()
                if values is not None:
                    values[i] = scores[row, chosen].numpy()
        return log_pi, values

    def save_pretrained(self, folder: str | Path) -> None:
        """Write models, tokenizer and settings, as from_pretrained reads them.

        ``folder/behavior`` and ``folder/values`` are plain transformers models in safetensors with
        the tokenizer beside them (heads lie beside their backbone), adapters of peft are merged
        into them, and ``folder/method.json`` says the rest. All of it takes the folder's place at
        once, when it is complete. FileExistsError where there is something else than a method.
        """
        folder = Path(folder)
        if folder.exists() and not (folder / SETTINGS_FILE).is_file():
            if not folder.is_dir() or any(folder.iterdir()):
                raise FileExistsError(f"{folder} holds something that is no method: name another.")
        with replace_folder(folder) as aside:
            for name, model in (("behavior", self.behavior), ("values", self.values)):
                if model is not None:
                    whole = merge_adapters(model)
                    whole.save_pretrained(aside / name)
                    self.tokenizer.save_pretrained(aside / name)
            said = {"method": self.method, "settings": self.settings, "prompt": self.prompt}
            (aside / SETTINGS_FILE).write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> TrainedMethod:
        """What save_pretrained wrote, on the CPU; code of others is never run.

        FileNotFoundError where there is no method, ValueError for a damaged or missing file, which
        is named, or its folder.
        """
        folder = Path(folder)
        path = folder / SETTINGS_FILE
        if not path.is_file():
            raise FileNotFoundError(f"{folder} holds no method: there is no {SETTINGS_FILE} in it.")
        with named_if_damaged(path, COPY_AGAIN):
            said = json.loads(path.read_text(encoding="utf-8"))
            method, settings, prompt = said["method"], dict(said["settings"]), str(said["prompt"])
            family = METHODS[method].family
        behavior, tokenizer = load_or_name(folder / "behavior")
        values = None
        if family == "heads":
            with named_if_damaged(folder / "values", COPY_AGAIN):
                of_heads = TokenValues if method == "q_transformer" else ActionValues
                values = of_heads.from_pretrained(folder / "values").eval()
        elif family == "q_sft":
            values, _ = load_values(folder / "values", tokenizer)
        return cls(method, settings, behavior, values, tokenizer, prompt, [])


@torch.inference_mode()
def _next_scores(
    model: PreTrainedModel | HeadedModel, rows: list[Sequence[int]], shown: list[np.ndarray]
) -> torch.Tensor:
    """(B, V) float32, on the CPU: logits, or values of heads, of what follows each row of ids."""
    longest = max(map(len, rows))
    padded = [[*row, *[0] * (longest - len(row))] for row in rows]
    ids = torch.tensor(padded, device=model.device)
    positions = torch.arange(longest, device=model.device).expand_as(ids)
    pixels = pixel_rule(model)(shown).to(model.device) if shown else None
    hidden = final_hidden(model, ids, positions, torch.ones_like(ids), pixel_values=pixels)
    hidden = hidden[range(len(rows)), [len(row) - 1 for row in rows]]
    if isinstance(model, ActionValues | TokenValues):
        return model.scores(hidden).float().cpu()
    return output_head(model)(hidden).float().cpu()
