"""The policy that Q-SFT extracts, pi_hat: play, values of a transcript, candidates, saving."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import safetensors
import tokenizers
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from qsft_lite.data import RewardScale
from qsft_lite.files import replace_file, replace_folder
from qsft_lite.loss import SCORES, paired_values
from qsft_lite.loss.paired import prior_logit
from qsft_lite.models import (
    HeadedModel,
    NewHead,
    final_hidden,
    load_model,
    output_head,
    text_config,
)
from qsft_lite.models.heads import HEADS_FILE
from qsft_lite.models.networks import Adapter, separate
from qsft_lite.policy.cached import (
    CachedPolicy,
    History,
    Images,
    check_support,
    check_temperature,
    check_whole,
    outside_support,
)
from qsft_lite.policy.constraints import ActionList

__all__ = ["QSFTPolicy"]

SETTINGS = "policy.json"
MODELS = ("behavior", "q_model", "reference")
SAVED = (
    "beta",
    "score",
    "greedy",
    "temperature",
    "relative_support",
    "prior",
    "dummy",
    "scale",
    "gamma",
    "data_hash",
    "stop",
    "max_new_tokens",
    "chat_template",
)
CANDIDATES_AT_ONCE = 64


def action_values(
    behavior_logits: torch.Tensor,
    q_logits: torch.Tensor,
    prior: float | None,
    *,
    new_head: bool = False,
) -> torch.Tensor:
    """Values in [0, 1] of all actions, (..., V) float32, of the logits of pi and p (..., V).

    Paired values with this prior, where a new head's are its scores alone; or with no prior, p / pi
    clamped to at most 1. 0 where the behavior policy rules an action out.
    """
    if prior is not None:
        reference = torch.zeros_like(q_logits) if new_head else behavior_logits
        values = paired_values(q_logits.float(), reference.float(), prior)
    else:
        log_pi = behavior_logits.log_softmax(-1, dtype=torch.float32)
        log_ratio = q_logits.log_softmax(-1, dtype=torch.float32) - log_pi
        values = log_ratio.exp().clamp(max=1.0)
    return values.masked_fill(behavior_logits == -math.inf, 0.0)


class QSFTPolicy(CachedPolicy):
    """pi_hat(a|s), proportional to pi(a|s)^(1/temperature) * exp(beta * score(s, a)), by token.

    The score is a number in [0, 1], with p = softmax(z_theta) the value network's and pi the
    behavior policy's, the softmax of z_phi:

        "p"        p(a|s)                                                       (the paper's)
        "ratio"    p(a|s) / pi(a|s), clamped to [0, 1], as the value is there   (ours)
        "paired"   q(a|s) = sigmoid(z_theta(a|s) - z_phi(a|s) + logit(prior)), the value (ours)
                   with z_phi the reference's, which is pi where no other is given

    Each is of the form of the loss that trained the network: "paired" of leftover="paired".

    Args:
        behavior: pi. For "paired" the one that values were trained beside.
        q_model: p; None for beta=0, where it is not run: pi at a temperature, so behavior cloning.
            A models.NewHead for "paired" with values="head": then q = sigmoid(z_theta + ...).
        tokenizer: the models'.
        beta: weight of the score, at least 0.
        score: one of the above; None for "paired" where the q_model was trained so, else "ratio".
        prior: of "paired", as in training; None for what training has written into the config of
            the q_model (q_sft_prior), or 0.5.
        reference: of "paired", the network that the q_model began as, where that is not pi: values
            of a pretrained model are better read against the pretrained model itself, since a clone
            may have forgotten what it knew.
        scale: how rewards came to [0, 1], if values are to be told in the task's own units, too.
        gamma, data_hash: the discount and the data.data_hash of what values were learned from; they
            are only kept, with all else, by save_pretrained.
        temperature: above 0; of pi alone.
        relative_support: only actions with pi(a|s) >= relative_support * max_b pi(b|s) are played,
            see cached.outside_support; 0 for all. (QSFTConfig's support is another one: absolute.)
        dummy: id of the dummy token, if p was trained with one: then 1 - p(dummy|s) is a value.

    greedy and the other options (stop, max_new_tokens, constraint, seed, chat_template) are
    CachedPolicy's. Raises ValueError for a setting out of its range, and no q_model with beta > 0.
    """

    def __init__(
        self,
        behavior: PreTrainedModel,
        q_model: PreTrainedModel | None,
        tokenizer: PreTrainedTokenizerBase,
        beta: float,
        score: Literal["p", "ratio", "paired"] | None = None,
        greedy: bool = False,
        *,
        temperature: float = 1.0,
        relative_support: float = 0.0,
        dummy: int | None = None,
        prior: float | None = None,
        reference: PreTrainedModel | None = None,
        scale: RewardScale | dict[str, Any] | None = None,
        gamma: float | None = None,
        data_hash: str | None = None,
        **options: Any,
    ):
        if not 0 <= beta < float("inf"):
            raise ValueError(f"beta must be a finite number of at least 0, not {beta}.")
        kept = getattr(getattr(q_model, "config", None), "q_sft_prior", None)
        score = score or ("ratio" if kept is None else "paired")
        if score not in SCORES:
            raise ValueError(f"score must be one of {', '.join(SCORES)}, not {score!r}.")
        if beta > 0 and q_model is None:
            raise ValueError("beta is above 0, so a q_model is needed.")
        if reference is not None and (score != "paired" or isinstance(q_model, NewHead)):
            raise ValueError('a reference is for score="paired", of values read from logits.')
        self.behavior = behavior
        self.q_model = q_model
        self.reference = reference
        self.beta = beta
        self.score = score
        self.temperature = check_temperature(temperature)
        self.relative_support = check_support(relative_support)
        if dummy is not None:
            check_whole("dummy", dummy, least=0)
            if dummy >= len(tokenizer):
                raise ValueError(f"dummy must be a token id below {len(tokenizer)}, not {dummy}.")
        self.dummy = dummy
        self.prior = next(each for each in (prior, kept, 0.5) if each is not None)
        if score == "paired":
            prior_logit(self.prior)
        self.scale = RewardScale(**scale) if isinstance(scale, dict) else scale
        self.gamma, self.data_hash = gamma, data_hash
        models = [behavior, *self._of_values()] if beta > 0 else [behavior]
        super().__init__(models, tokenizer, greedy=greedy, **options)

    def log_weights(
        self, logits: list[torch.Tensor], ruled_out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """log pi / temperature + beta * score: (..., V), float32, not normalised."""
        log_pi = logits[0].log_softmax(-1, dtype=torch.float32)
        outside = outside_support(log_pi, self.relative_support, ruled_out)
        log_weights = (log_pi / self.temperature).masked_fill(outside, -math.inf)
        if self.beta == 0:
            return log_weights
        if self.score == "p":
            return log_weights + self.beta * logits[1].softmax(-1, dtype=torch.float32)
        return log_weights + self.beta * self._action_values(logits)

    def _action_values(self, logits: Sequence[torch.Tensor]) -> torch.Tensor:
        """Values of all actions (..., V), of the logits of all models."""
        prior = self.prior if self.score == "paired" else None
        # The last ones: the q_model's, and those of what it is read against.
        behavior, q_model = (logits[-1], logits[1]) if self.reference is not None else logits
        return action_values(behavior, q_model, prior, new_head=isinstance(self.q_model, NewHead))

    def _of_values(self) -> list[PreTrainedModel]:
        """The models that values are read from, beside pi."""
        return [model for model in (self.q_model, self.reference) if model is not None]

    @torch.inference_mode()
    def values(self, transcript: History, images: Images | None = None) -> pd.DataFrame:
        """What the two models say of each token of a transcript.

        Args:
            transcript: segments or a text, as of `act`.
            images: its pictures, if it has some.

        Returns:
            One row a token: ``token``; ``is_action`` where the segments say it; and its ``pi``.
            With a relative_support ``in_support``, whether that lets the token be played, and
            ``choices``, how many tokens it lets be played in its place, before special tokens or a
            constraint rule any out. Of score "paired" ``Q``, its value, and ``V``, that of the
            state that it was chosen in: sum_a pi q. With a scale also ``Q_task`` and ``V_task``, in
            the task's own units. Of the other scores ``p`` and ``ratio`` = p / pi; with a dummy
            also ``V`` = 1 - p(dummy|s).

        Raises:
            ValueError: there is no q_model or no token, or the tokenizer does not know the text.
        """
        row = self._read(transcript)
        sequence = row.ids
        if len(sequence) == len(self._start):
            raise ValueError("The transcript is empty: there is no token to say anything of.")
        pictures = self._pictures([transcript], None if images is None else [images])
        logits = [each[0] for each in self._logits([sequence], 1, pictures)]
        taken = torch.tensor(sequence[1:], device=self.device)[:, None]

        def of_taken(each: torch.Tensor) -> list[float]:
            return each.gather(-1, taken)[:, 0].tolist()

        log_pi = logits[0].log_softmax(-1)
        columns: dict[str, list] = {
            "token": [self.tokenizer.decode([token_id]) for token_id in sequence[1:]],
        }
        if not isinstance(self._form(transcript), str):
            sizes = map(len, self._reader.read(row.segments))
            whose = zip(row.segments, sizes, strict=True)
            columns["is_action"] = [action for (_, action), size in whose for _ in range(size)]
        columns["pi"] = of_taken(log_pi.exp())
        if self.relative_support > 0:
            inside = ~outside_support(log_pi, self.relative_support)
            columns["in_support"] = of_taken(inside)
            columns["choices"] = inside.sum(-1).tolist()
        if self.score == "paired":
            q = self._action_values(logits)
            columns["Q"] = of_taken(q)
            columns["V"] = (log_pi.exp() * q).sum(-1).tolist()
        else:
            log_p = logits[1].log_softmax(-1)
            columns |= {"p": of_taken(log_p.exp()), "ratio": of_taken((log_p - log_pi).exp())}
            if self.dummy is not None:
                columns["V"] = (-log_p[:, self.dummy].expm1()).tolist()
        return self._with_units(pd.DataFrame(columns))

    @torch.inference_mode()
    def candidates(
        self, history: History, actions: Sequence[str], images: Images | None = None
    ) -> pd.DataFrame:
        """What the policy thinks of whole actions after a history.

        Args:
            history: the transcript so far: segments or a text, as of `act`.
            actions: texts, each with the stop text at its end, and nowhere else (but for those of a
                constraint).
            images: the history's pictures, if it has some.

        Returns:
            One row an action, in the order given: ``action``; ``log_pi`` and ``log_pi_hat``, sums
            over its tokens, before special tokens or a constraint rule any out; ``in_support``,
            whether relative_support lets all of its tokens be played: of others the value is hardly
            more than a guess; ``Q``, the value of the whole action, which is that of its last token
            (p / pi clamped to [0, 1], or the paired value); with a scale ``Q_task``, in the task's
            own units; and of the other scores than "paired" ``p`` of the last token.

        Raises:
            ValueError: no actions, one that is not whole, no q_model, or an unknown text.
            FloatingPointError: the models' logits are not numbers.
        """
        if isinstance(actions, str):
            raise TypeError(f"candidates needs a list of actions, not the text {actions!r}.")
        actions = list(actions)
        if not actions or "" in actions:
            raise ValueError("candidates needs at least one action, and none of them empty.")
        prefix = self._read(history).ids
        pictures = self._pictures([history], None if images is None else [images])
        action_ids = self._reader.read([(text, True) for text in actions])
        for text, ids in zip(actions, action_ids, strict=True):
            if not self._is_whole(text, ids):
                raise ValueError(
                    f"{text!r} is no whole action: the stop text {self.stop!r} is its end alone."
                )
        rows = []
        for first in range(0, len(actions), CANDIDATES_AT_ONCE):
            part = action_ids[first : first + CANDIDATES_AT_ONCE]
            logits = self._logits([prefix + ids for ids in part], len(prefix), pictures * len(part))
            log_pi, log_p = (each.log_softmax(-1) for each in logits[:2])
            log_pi_hat = self.log_weights(logits).log_softmax(-1)
            q = self._action_values(logits)
            for row, ids in enumerate(part):
                last, count = ids[-1], len(ids)
                steps = torch.arange(count, device=self.device)
                taken = torch.tensor(ids, device=self.device)
                of_action = log_pi_hat[row, steps, taken].sum().item()
                found = {
                    "action": actions[first + row],
                    "log_pi": log_pi[row, steps, taken].sum().item(),
                    "log_pi_hat": of_action,
                    "in_support": of_action > -math.inf,
                    "p": log_p[row, count - 1, last].exp().item(),
                    "Q": q[row, count - 1, last].item(),
                }
                if self.score == "paired":
                    del found["p"]
                rows.append(found)
        return self._with_units(pd.DataFrame(rows))

    def _with_units(self, table: pd.DataFrame) -> pd.DataFrame:
        """With Q and V in the task's own units beside them, where the scale is known."""
        for name in ("Q", "V") if self.scale is not None else ():
            if name in table:
                place = table.columns.get_loc(name) + 1
                table.insert(place, f"{name}_task", self.scale.to_raw(table[name]))
        return table

    def _logits(
        self, sequences: list[list[int]], first: int, pictures: Sequence[Images] = ()
    ) -> list[torch.Tensor]:
        """Logits of all models (B, L - first, V), float32, of the tokens from ``first`` on."""
        if self.q_model is None:
            raise ValueError("This policy has no q_model, and so no values.")
        longest = max(map(len, sequences))
        self._check_context([longest], [])
        # The last token's own logits are not asked for.
        padded = [ids + [0] * (longest - len(ids)) for ids in sequences]
        input_ids = torch.tensor(padded, device=self.device)[:, :-1]
        position_ids = torch.arange(longest - 1, device=self.device).expand_as(input_ids)
        segment_ids = torch.ones_like(input_ids)
        place = input_ids, position_ids, segment_ids
        pixels = self._pixels(pictures)
        found = []
        for model in (self.behavior, *self._of_values()):
            hidden = final_hidden(model, *place, pixel_values=pixels)
            logits = output_head(model)(hidden[:, first - 1 :])
            if logits.isnan().any():
                raise FloatingPointError("A model's logits are NaN: look at its weights.")
            found.append(logits.float())
        return found

    def save_pretrained(self, folder: str | Path) -> None:
        """Write both models, the tokenizer and the settings, as from_pretrained reads them.

        ``folder/behavior`` and ``folder/q_model`` are plain transformers models in safetensors,
        each with the tokenizer; adapters of peft are merged into them. A constraint is not saved.
        An older policy there stays until all of the new one is written. Other files stay.

        Raises:
            FileExistsError: the folder holds something, but no policy.
            ValueError: a model has adapters that cannot be merged.
        """
        folder = Path(folder).resolve()
        if folder.exists() and not folder.is_dir():
            raise FileExistsError(f"{folder} is no folder: name another.")
        # What killed processes were writing begins with a dot; they may have left the models alone.
        there = {path.name for path in folder.glob("[!.]*")}
        if there and there.isdisjoint([SETTINGS, *MODELS]):
            raise FileExistsError(f"{folder} holds something that is not a policy: name another.")
        models = {name: getattr(self, name) for name in MODELS}
        merged = {
            name: merge_adapters(model) for name, model in models.items() if model is not None
        }
        settings = {name: getattr(self, name) for name in SAVED}
        if self.scale is not None:
            settings["scale"] = dataclasses.asdict(self.scale)
        text = json.dumps(settings, indent=1, default=lambda number: number.item()) + "\n"
        with ExitStack() as complete:
            for name, model in merged.items():
                new = complete.enter_context(replace_folder(folder / name))
                model.save_pretrained(new)
                self.tokenizer.save_pretrained(new)
            # Without its settings a folder is no policy, and so nobody loads half of a new one.
            (folder / SETTINGS).unlink(missing_ok=True)
        for name in {*MODELS} - {*merged}:
            shutil.rmtree(folder / name, ignore_errors=True)
        replace_file(folder / SETTINGS, text.encode())

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        constraint: ActionList | None = None,
        seed: int = 0,
        **settings: Any,
    ) -> QSFTPolicy:
        """The policy that save_pretrained wrote.

        Args:
            folder: where it was written.
            device: of the models and of all that play needs; None for the CPU.
            dtype: of the models' weights; None for float32.
            constraint, seed: as of this class.
            settings: its other arguments, in place of those that were saved.

        Raises:
            FileNotFoundError: the folder holds no policy.
            TypeError: a setting that there is none of.
            ValueError: naming the file: it is damaged, or its settings are not a policy's.
        """
        folder = Path(folder)
        path = folder / SETTINGS
        if not path.exists():
            raise FileNotFoundError(f"{folder} holds no policy: there is no {SETTINGS} in it.")
        saved = _read_settings(path)
        unknown = set(settings) - set(SAVED)
        if unknown:
            raise TypeError(f"No settings of a policy: {', '.join(sorted(unknown))}.")
        behavior, tokenizer = load_or_name(folder / "behavior")
        q_model = None
        if (folder / "q_model").exists():
            q_model, its_tokenizer = load_values(folder / "q_model", tokenizer)
            if its_tokenizer.get_vocab() != tokenizer.get_vocab():
                raise ValueError(f"{folder}: behavior and q_model have different tokenizers.")
        reference = None
        if (folder / "reference").exists():
            reference, _ = load_or_name(folder / "reference")
        for model in (behavior, q_model, reference):
            if model is not None:
                model.to(device=device, dtype=dtype)
        where = "" if settings else f"{path}: "
        try:
            options = {**saved, **settings, "constraint": constraint, "seed": seed}
            options["reference"] = reference
            return cls(behavior, q_model, tokenizer, **options)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where}{error}") from error


def merge_adapters(model: PreTrainedModel) -> PreTrainedModel:
    """The model, or where it has adapters of peft, a copy with them merged into its weights.

    One with new heads sees to its own adapters when it is saved.
    """
    if isinstance(model, HeadedModel):
        return model
    if isinstance(model, Adapter):
        model = separate(model)
    adapted = any(hasattr(module, "base_layer") for module in model.modules())
    if isinstance(model, PreTrainedModel) and not adapted:
        return model
    if not hasattr(model, "merge_and_unload"):
        raise ValueError(
            f"A policy is saved as whole models of transformers, but {type(model).__name__} has "
            "adapters that cannot be merged into its weights here: merge them before."
        )
    merged = copy.deepcopy(model).eval()
    some = next(model.parameters())
    row = torch.arange(min(64, text_config(model).vocab_size), device=some.device)[None]
    with torch.no_grad():
        expected = merged(input_ids=row).logits.float()
        merged = merged.merge_and_unload()
        difference = (merged(input_ids=row).logits.float() - expected).norm()
    tolerance = 1e-4 if some.dtype in (torch.float32, torch.float64) else 0.05
    if difference > tolerance * expected.norm():
        raise ValueError(
            f"The adapters of {type(model).__name__}, merged into its weights, make another model "
            "of it, as where an embedding is tied to the head: save the model by itself."
        )
    return merged


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise ValueError(f"{path} is damaged, no settings of a policy: {error}") from error
    if isinstance(settings, dict) and "support" in settings:  # its name in older policies
        settings["relative_support"] = settings.pop("support")
    if not isinstance(settings, dict) or "beta" not in settings or not set(settings) <= set(SAVED):
        raise ValueError(f"{path} does not hold the settings of a policy: {', '.join(SAVED)}.")
    return settings


def load_values(
    folder: Path, tokenizer: PreTrainedTokenizerBase
) -> tuple[PreTrainedModel | NewHead, PreTrainedTokenizerBase]:
    """What values are read from, and its tokenizer; of a NewHead, which has none, the one given."""
    if (folder / HEADS_FILE).is_file():
        return NewHead.from_pretrained(folder).eval(), tokenizer
    return load_or_name(folder)


def load_or_name(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer of a folder. ValueError names the file that is damaged, or the folder."""
    try:
        return load_model(folder)
    except Exception as error:  # each library raises its own
        damaged = next(filter(_is_damaged, sorted(folder.glob("*"))), folder)
        raise ValueError(f"{damaged} cannot be loaded: {error}") from error


def _is_damaged(file: Path) -> bool:
    try:
        if file.name == "tokenizer.json":
            tokenizers.Tokenizer.from_file(str(file))
        elif file.suffix == ".json":
            json.loads(file.read_text(encoding="utf-8"))
        elif file.suffix == ".safetensors":
            safetensors.safe_open(file, framework="pt")
    except Exception:  # each library raises its own
        return True
    return False
