"""The policy that Q-SFT extracts, pi_hat: play, values of a transcript, candidates, saving."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import pandas as pd
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from qsft_lite.cached_policy import (
    ActionList,
    CachedPolicy,
    Constraint,
    LastLine,
    check_support,
    outside_support,
    token_ids,
)
from qsft_lite.encoding import start_id
from qsft_lite.models import final_hidden, load_model, output_head

__all__ = ["ActionList", "CachedPolicy", "Constraint", "LastLine", "QSFTPolicy"]

SETTINGS = "policy.json"
CANDIDATES_AT_ONCE = 64


class QSFTPolicy(CachedPolicy):
    """pi_hat(a|s), proportional to pi(a|s)^(1/temperature) * exp(beta * score(s, a)), by token.

    The score is a probability in [0, 1] with p the value network's and pi the behavior policy's:

        "p"        p(a|s)                                                       (the paper's)
        "ratio"    p(a|s) / pi(a|s), clamped to [0, 1], as the value is there   (ours)

    The ratio is the difference of log-probabilities in float32, exponentiated last.

    Args:
        behavior: pi.
        q_model: p; None for beta=0, where it is not run: pi at a temperature, so behavior cloning.
        tokenizer: the models'.
        beta: weight of the score, at least 0.
        score: one of the above.
        temperature: above 0; of pi alone.
        support: only actions with pi(a|s) >= support * max_b pi(b|s) are played, see
            cached_policy.outside_support; 0 for all.
        dummy: id of the dummy token, if p was trained with one: then 1 - p(dummy|s) is a value.

    The other arguments are CachedPolicy's.

    Raises:
        ValueError: a setting out of its range, no q_model with beta above 0, or what CachedPolicy
            refuses.
    """

    def __init__(
        self,
        behavior: PreTrainedModel,
        q_model: PreTrainedModel | None,
        tokenizer: PreTrainedTokenizerBase,
        beta: float,
        score: Literal["p", "ratio"] = "p",
        greedy: bool = False,
        *,
        temperature: float = 1.0,
        support: float = 0.0,
        dummy: int | None = None,
        stop: str = "\n",
        max_new_tokens: int = 32,
        constraint: Constraint | None = None,
        seed: int = 0,
    ):
        if not 0 <= beta < float("inf"):
            raise ValueError(f"beta must be a finite number of at least 0, not {beta}.")
        if temperature <= 0:
            raise ValueError(f"temperature must be above 0, not {temperature}; see also greedy.")
        if score not in ("p", "ratio"):
            raise ValueError(f"score must be 'p' or 'ratio', not {score!r}.")
        if beta > 0 and q_model is None:
            raise ValueError("beta is above 0, so a q_model is needed.")
        self.behavior = behavior
        self.q_model = q_model
        self.beta = beta
        self.score = score
        self.temperature = temperature
        self.support = check_support(support)
        self.dummy = dummy
        super().__init__(
            [behavior, q_model] if beta > 0 else [behavior],
            tokenizer,
            greedy=greedy,
            stop=stop,
            max_new_tokens=max_new_tokens,
            constraint=constraint,
            seed=seed,
        )

    def log_weights(
        self, logits: list[torch.Tensor], ruled_out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """log pi / temperature + beta * score: (..., V), float32, not normalised."""
        log_pi = logits[0].log_softmax(-1, dtype=torch.float32)
        outside = outside_support(log_pi, self.support, ruled_out)
        log_weights = (log_pi / self.temperature).masked_fill(outside, -math.inf)
        if self.beta == 0:
            return log_weights
        log_p = logits[1].log_softmax(-1, dtype=torch.float32)
        log_score = log_p if self.score == "p" else log_p - log_pi
        return log_weights + self.beta * log_score.exp().clamp(max=1.0)

    @torch.inference_mode()
    def values(self, transcript: str | Sequence[tuple[str, bool]]) -> pd.DataFrame:
        """What the two models say of each token of a transcript.

        Args:
            transcript: its text, or its segments with whether each is an action.

        Returns:
            One row a token: ``token``; ``is_action`` where the segments say it; ``pi``, ``p`` and
            ``ratio`` = p / pi of the token; with a dummy also ``V`` = 1 - p(dummy), the value of
            the state that the token was chosen in.

        Raises:
            ValueError: there is no q_model, or the tokenizer does not know the text.
        """
        segments = [(transcript, None)] if isinstance(transcript, str) else list(transcript)
        texts = [text for text, _ in segments]
        ids = token_ids(self.tokenizer, texts)
        sequence = [start_id(self.tokenizer), *(i for segment in ids for i in segment)]
        log_pi, log_p = self._log_probabilities([sequence], 1)
        taken = torch.tensor(sequence[1:], device=self.device)[:, None]
        taken_log_pi = log_pi[0].gather(-1, taken)[:, 0]
        taken_log_p = log_p[0].gather(-1, taken)[:, 0]
        columns = {
            "token": [self.tokenizer.decode([token_id]) for token_id in sequence[1:]],
            "is_action": [
                is_action
                for (_, is_action), segment in zip(segments, ids, strict=True)
                for _ in segment
            ],
            "pi": taken_log_pi.exp().tolist(),
            "p": taken_log_p.exp().tolist(),
            "ratio": (taken_log_p - taken_log_pi).exp().tolist(),
        }
        if isinstance(transcript, str):
            del columns["is_action"]
        if self.dummy is not None:
            columns["V"] = (-log_p[0, :, self.dummy].expm1()).tolist()
        return pd.DataFrame(columns)

    @torch.inference_mode()
    def candidates(self, history: str, actions: Sequence[str]) -> pd.DataFrame:
        """What the policy thinks of whole actions after a history.

        Args:
            history: the transcript so far.
            actions: texts, each with the stop text at its end.

        Returns:
            One row an action, in the order given: ``action``; ``log_pi`` and ``log_pi_hat``, sums
            over its tokens, before special tokens or a constraint rule any out; ``p`` of its last
            token, and ``Q`` = p / pi there, clamped to [0, 1]: the value of the whole action, since
            nothing is left to choose after it.

        Raises:
            ValueError: no actions, no q_model, or a text that the tokenizer does not know.
        """
        if not actions or "" in actions:
            raise ValueError("candidates needs at least one action, and none of them empty.")
        [history_ids] = token_ids(self.tokenizer, [history])
        prefix = [start_id(self.tokenizer), *history_ids]
        action_ids = token_ids(self.tokenizer, list(actions))
        rows = []
        for first in range(0, len(actions), CANDIDATES_AT_ONCE):
            part = action_ids[first : first + CANDIDATES_AT_ONCE]
            log_pi, log_p = self._log_probabilities([prefix + ids for ids in part], len(prefix))
            log_pi_hat = self.log_weights([log_pi, log_p]).log_softmax(-1)
            for row, ids in enumerate(part):
                last, count = ids[-1], len(ids)
                steps = torch.arange(count, device=self.device)
                taken = torch.tensor(ids, device=self.device)
                log_ratio = log_p[row, count - 1, last] - log_pi[row, count - 1, last]
                rows.append(
                    {
                        "action": actions[first + row],
                        "log_pi": log_pi[row, steps, taken].sum().item(),
                        "log_pi_hat": log_pi_hat[row, steps, taken].sum().item(),
                        "p": log_p[row, count - 1, last].exp().item(),
                        "Q": log_ratio.exp().clamp(max=1.0).item(),
                    }
                )
        return pd.DataFrame(rows)

    def _log_probabilities(
        self, sequences: list[list[int]], first: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """log pi and log p (B, L - first, V), float32, of the tokens from place ``first`` on."""
        if self.q_model is None:
            raise ValueError("This policy has no q_model, and so no values.")
        longest = max(map(len, sequences))
        self._check_context(longest)
        # The last token's own logits are not asked for.
        padded = [ids + [0] * (longest - len(ids)) for ids in sequences]
        input_ids = torch.tensor(padded, device=self.device)[:, :-1]
        position_ids = torch.arange(longest - 1, device=self.device).expand_as(input_ids)
        segment_ids = torch.ones_like(input_ids)
        log_probabilities = []
        for model in (self.behavior, self.q_model):
            hidden = final_hidden(model, input_ids, position_ids, segment_ids)[:, first - 1 :]
            logits = output_head(model)(hidden)
            log_probabilities.append(logits.log_softmax(-1, dtype=torch.float32))
        return log_probabilities[0], log_probabilities[1]

    def save_pretrained(self, folder: str | Path) -> None:
        """Write both models, the tokenizer and the settings, as from_pretrained reads them.

        ``folder/behavior`` and ``folder/q_model`` are plain transformers models in safetensors,
        each with the tokenizer. A constraint is not saved. An older policy there is replaced at
        once, when the new one is complete.

        Raises:
            FileExistsError: the folder holds something that is not a policy.
        """
        folder = Path(folder)
        if folder.exists() and any(folder.iterdir()) and not (folder / SETTINGS).exists():
            raise FileExistsError(f"{folder} holds something that is not a policy: name another.")
        aside = folder.with_name(f".{folder.name}.{os.getpid()}")
        old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
        try:
            for name, model in (("behavior", self.behavior), ("q_model", self.q_model)):
                if model is not None:
                    model.save_pretrained(aside / name)
                    self.tokenizer.save_pretrained(aside / name)
            settings = {
                "beta": self.beta,
                "score": self.score,
                "greedy": self.greedy,
                "temperature": self.temperature,
                "support": self.support,
                "dummy": self.dummy,
                "stop": self.stop,
                "max_new_tokens": self.max_new_tokens,
            }
            (aside / SETTINGS).write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
            if folder.exists():
                os.replace(folder, old)
            os.replace(aside, folder)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *, constraint: Constraint | None = None, seed: int = 0
    ) -> QSFTPolicy:
        """The policy that save_pretrained wrote.

        Raises:
            FileNotFoundError: the folder holds no policy.
            ValueError: its settings are not a policy's; the message names the file.
        """
        folder = Path(folder)
        path = folder / SETTINGS
        if not path.exists():
            raise FileNotFoundError(f"{folder} holds no policy: there is no {SETTINGS} in it.")
        behavior, tokenizer = load_model(folder / "behavior")
        q_model = load_model(folder / "q_model")[0] if (folder / "q_model").exists() else None
        try:
            settings = json.loads(path.read_text(encoding="utf-8"))
            return cls(behavior, q_model, tokenizer, **settings, constraint=constraint, seed=seed)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: {error}") from error
