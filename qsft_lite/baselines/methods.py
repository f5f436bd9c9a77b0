"""Every method behind one call, on shared data and one backbone.

    cloned = train("bc", model, tokenizer, encoded, validation, args, length=256)
    rival = train("ilql", cloned.behavior, tokenizer, encoded, validation, args, length=256)
    choice = choose(lambda o: evaluate(rival.policy(**o), env, 200, seed=1).mean, VALUE_GRID)
    evaluate(rival.policy(**choice.options), env, episodes=1000, seed=2)

Behavior cloning starts from the model as it is, every other method from the cloned weights.
`registry` lists the methods, `choosing` has the options that are tried on validation games.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import pyarrow.compute as pc
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

from qsft_lite.baselines.distilling import DistillingStage
from qsft_lite.baselines.episodes import (
    add_return_tokens,
    best_episodes,
    condition_on_return,
    return_levels,
    return_token,
)
from qsft_lite.baselines.heads import ActionValues, HeadStage
from qsft_lite.baselines.q_transformer import QTransformerStage, TokenValues, choices_table
from qsft_lite.baselines.registry import METHODS
from qsft_lite.baselines.trained import TrainedMethod
from qsft_lite.data import pack
from qsft_lite.data.transcripts import DUMMY
from qsft_lite.models import output_head
from qsft_lite.models.networks import separate
from qsft_lite.trainer import QSFTConfig, QSFTTrainer, StageTrainer
from qsft_lite.trainer.runs import lock_folder

__all__ = ["TrainedMethod", "train"]


def train(
    method: str,
    model: PreTrainedModel | TrainedMethod,
    tokenizer: PreTrainedTokenizerBase,
    episodes: datasets.Dataset,
    validation: datasets.Dataset | None,
    args: QSFTConfig,
    *,
    length: int,
    resume: bool = False,
    callbacks: Sequence[TrainerCallback] = (),
    **options,
) -> TrainedMethod:
    """Train one of METHODS.

    Args:
        method: its name.
        model: the weights to start from, left as they are: for "bc" of an untrained or pretrained
            model, for the other methods the cloned ones, which also are the pi they act with. A
            method of Q-SFT's loss can also go on from another one: from its pi and its p, and with
            its prior. "q_sft_distilled" learns from the policy of a trained method.
        tokenizer: the model's; methods of Q-SFT's loss need its dummy token.
        episodes: as of data.encode.
        validation: likewise, for the held-out loss, or None.
        args: steps, learning rate and so on. The output folder is args.output_dir / method; the
            method sets the stage and its own settings. Early stopping is for cloning only.
        length: of the packed rows, in tokens. Episodes of "return_conditioned" grow by one token
            (or one each turn, where turns are apart), which the model's context must hold; rows
            grow with them.
        resume: go on from wherever the last call with the same arguments got to, as its checkpoints
            allow; one that is finished returns at once. Without it, an older run in the output
            folder is removed.
        callbacks: further ones of the trainer.
        options: settings of the method, see METHODS, and for those of Q-SFT's loss any field of
            QSFTConfig.

    Raises:
        ValueError: an unknown method or option; a method to go on from where that cannot be; with
            resume, a folder with another run; nothing to distil.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    family = METHODS[method].family
    fields = {field.name for field in dataclasses.fields(QSFTConfig)} if family == "q_sft" else {}
    own = METHODS[method].options
    unknown = sorted({*options} - {*own, *fields})
    if unknown:
        own_names = ", ".join(own) or "none"
        raise ValueError(f"{method} knows no option {', '.join(unknown)}; its own are: {own_names}")
    options = {**own, **options}
    if family == "distilling":
        if not isinstance(model, TrainedMethod) or model.values is None:
            raise ValueError(f"{method} learns from a trained method that has values: pass one")
        if model.method == "q_transformer":
            raise ValueError(f"{method} does not know the places that q_transformer tells apart")
    elif isinstance(model, TrainedMethod):
        of_both = options, model.settings
        forms = [(each.get("leftover"), each.get("values", "logits")) for each in of_both]
        if forms[0] != forms[1] or forms[0][0] is None:
            raise ValueError(
                f"{method} cannot go on from {model.method}: pass a model, such as its behavior. "
                "Only methods of Q-SFT's loss of the same form go on from one another"
            )
    args = dataclasses.replace(args, output_dir=str(Path(args.output_dir) / method))
    job = _Job(method, model, tokenizer, episodes, validation, args, length, options, callbacks)
    families = {"cloning": _cloning, "heads": _heads, "q_sft": _q_sft, "distilling": _distilling}
    prepare = families[family]
    trainer, trained = prepare(job)
    with lock_folder(args):
        trainer.run(resume=resume, method=method, options=options)
    trainer.model.eval()
    behavior = separate(trained.behavior.eval()).to(trainer.args.device)
    values = trained.values and separate(trained.values)
    logs = trainer.state.log_history
    return dataclasses.replace(trained, behavior=behavior, values=values, logs=logs)


class _Job(NamedTuple):
    """What ``train`` was asked for."""

    method: str
    model: PreTrainedModel | TrainedMethod
    tokenizer: PreTrainedTokenizerBase
    episodes: datasets.Dataset
    validation: datasets.Dataset | None
    args: QSFTConfig
    length: int
    options: dict[str, Any]
    callbacks: Sequence[TrainerCallback]

    def of_trainer(self) -> dict[str, Any]:
        """Both data sets packed, and what else every trainer takes."""
        parts = {"train_dataset": self.episodes, "eval_dataset": self.validation}
        seed = self.args.seed
        rows = {name: part and pack(part, self.length, seed=seed) for name, part in parts.items()}
        return {**rows, "processing_class": self.tokenizer, "callbacks": list(self.callbacks)}

    def with_episodes(self, change: Callable[..., Any], *arguments: Any, **options: Any) -> _Job:
        """The job with ``change`` made to both data sets."""
        parts = (self.episodes, self.validation)
        train, validation = (part and change(part, *arguments, **options) for part in parts)
        return self._replace(episodes=train, validation=validation)

    def value_args(self, **changes: Any) -> QSFTConfig:
        """The args without early stopping, and with the last weights rather than the best."""
        if self.args.early_stopping_patience is not None:
            changes = {"early_stopping_patience": None, "load_best_model_at_end": False, **changes}
        return dataclasses.replace(self.args, stage="values", **changes)

    def trained(self, behavior: PreTrainedModel, values: Any) -> TrainedMethod:
        """What these models will be after training."""
        return TrainedMethod(self.method, self.options, behavior, values, self.tokenizer, "", [])


def _cloning(job: _Job) -> tuple[StageTrainer, TrainedMethod]:
    """Cross-entropy on all episodes, on the best of them, or with their returns announced."""
    prompt, model = "", copy.deepcopy(job.model)
    if job.method == "filtered_bc":
        job = job.with_episodes(best_episodes, job.options["fraction"], seed=job.args.seed)
    elif job.method == "return_conditioned":
        levels, before = job.options["levels"], _longest(job)
        prompt = return_token(return_levels(job.episodes, levels).max())
        model, tokenizer = add_return_tokens(model, job.tokenizer, levels, seed=job.args.seed)
        job = job._replace(tokenizer=tokenizer)
        job = job.with_episodes(condition_on_return, tokenizer, levels)
        job = job._replace(length=job.length + _longest(job) - before)
    args = dataclasses.replace(job.args, stage="behavior")
    trainer = QSFTTrainer(model, args, **job.of_trainer())
    return trainer, dataclasses.replace(job.trained(model, None), prompt=prompt)


def _longest(job: _Job) -> int:
    """The most tokens of an episode."""
    parts = [part for part in (job.episodes, job.validation) if part is not None]
    columns = [part.with_format("arrow")[:]["input_ids"] for part in parts]
    return max(pc.max(pc.list_value_length(column)).as_py() for column in columns)


def _q_sft(job: _Job) -> tuple[StageTrainer, TrainedMethod]:
    """The loss of Q-SFT with the method's leftover and backup."""
    q_model, behavior = copy.deepcopy(job.model), None
    options = dict(job.options)
    if isinstance(job.model, TrainedMethod):
        q_model, behavior = q_model.values, q_model.behavior
        if options["leftover"] == "paired":
            options["prior"] = q_model.config.q_sft_prior
    args = job.value_args(**options)
    trainer = QSFTTrainer(q_model, args, behavior_model=behavior, **job.of_trainer())
    return trainer, job.trained(trainer.model.behavior, trainer.model.q)


def _heads(job: _Job) -> tuple[StageTrainer, TrainedMethod]:
    """ILQL, CQL, Q-Transformer: new heads on a copy of the transformer that is trained along."""
    vocabulary, seed = output_head(job.model).out_features, job.args.seed
    ruled_out = no_actions(job.tokenizer, vocabulary)
    options = {**job.options, "target_rate": job.args.target_rate}
    if job.method == "q_transformer":
        kind, values = options.pop("choices"), TokenValues.on(job.model, seed=seed)
        values.choices = choices_table(kind, job.episodes, vocabulary, ruled_out)
        if kind == "behavior":
            options |= {"behavior": copy.deepcopy(job.model), "support": job.args.support}
        stage = QTransformerStage(values, **options)
    else:
        values = ActionValues.on(job.model, seed=seed)
        stage = HeadStage(values, method=job.method, ruled_out=ruled_out, **options)
    trainer = StageTrainer(stage, job.value_args(), **job.of_trainer())
    return trainer, job.trained(copy.deepcopy(job.model), stage.values)


def _distilling(job: _Job) -> tuple[StageTrainer, TrainedMethod]:
    """A copy of the cloned network that learns to play as the method it is given."""
    teacher = copy.deepcopy(job.model).policy(**job.options)
    student = copy.deepcopy(job.model.behavior).requires_grad_(True)
    ruled_out = no_actions(job.tokenizer, output_head(student).out_features)
    trainer = StageTrainer(
        DistillingStage(student, teacher, ruled_out), job.value_args(), **job.of_trainer()
    )
    return trainer, job.trained(student, None)


def no_actions(tokenizer: PreTrainedTokenizerBase, vocabulary: int) -> list[int]:
    """Ids that are never written: the special tokens, the dummy, and rows without a token."""
    special = {*tokenizer.all_special_ids, *range(len(tokenizer), vocabulary)}
    dummy = tokenizer.get_vocab().get(DUMMY)
    return sorted(special if dummy is None else special | {dummy})
