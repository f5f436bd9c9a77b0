"""Every method behind one call, on shared data and one backbone.

    cloned = train("bc", model, tokenizer, encoded, validation, args, length=256)
    rival = train("ilql", cloned.behavior, tokenizer, encoded, validation, args, length=256)
    choice = choose(lambda o: evaluate(rival.policy(**o), env, 200, seed=1).mean, VALUE_GRID)
    evaluate(rival.policy(**choice.options), env, episodes=1000, seed=2)

Behavior cloning starts from the model as it is, every other method from the cloned weights; one of
Q-SFT's loss can also go on from another one. `registry` lists the methods, `choosing` has the
options that are tried on validation games before methods are compared.
"""

from __future__ import annotations

import copy
import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow.compute as pc
import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerCallback

from qsft_lite.baselines.episodes import (
    add_return_tokens,
    best_episodes,
    condition_on_return,
    return_levels,
    return_token,
)
from qsft_lite.baselines.head_trainer import HeadTrainer
from qsft_lite.baselines.heads import ActionValues, HeadLearner
from qsft_lite.baselines.registry import METHODS
from qsft_lite.baselines.trained import TrainedMethod
from qsft_lite.data import pack
from qsft_lite.data.transcripts import DUMMY
from qsft_lite.models import output_head
from qsft_lite.trainer import QSFTConfig, QSFTTrainer
from qsft_lite.trainer.runs import (
    RUN,
    check_same_run,
    checkpoints,
    describe_run,
    last_checkpoint,
    lock_folder,
)

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
            method of Q-SFT's loss can also go on from another one: from its pi and its p.
        tokenizer: the model's; methods of Q-SFT's loss need its dummy token.
        episodes: as of data.encode.
        validation: likewise, for the held-out loss, or None.
        args: steps, learning rate and so on. The output folder is args.output_dir / method; the
            method sets the stage and its own settings. Early stopping is for cloning only: the
            targets of the others move, and so does their loss.
        length: of the packed rows, in tokens. Episodes of "return_conditioned" grow by one token
            (or one each turn, where turns are apart), which the model's context must hold; rows
            grow with them.
        resume: go on from the last checkpoint in the output folder, if there is one.
        options: settings of the method, see METHODS, and for those of Q-SFT's loss any field of
            QSFTConfig.

    Raises:
        ValueError: an unknown method or option; a method to go on from where that cannot be; with
            resume, a folder with another run.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    family = METHODS[method].family
    fields = {field.name for field in dataclasses.fields(QSFTConfig)} if family == "q_sft" else {}
    known = {*METHODS[method].options, *fields}
    unknown = sorted(set(options) - known)
    if unknown:
        own = ", ".join(METHODS[method].options) or "none"
        raise ValueError(f"{method} knows no option {', '.join(unknown)}; its own are: {own}")
    options = {**METHODS[method].options, **options}
    if isinstance(model, TrainedMethod):
        forms = {options.get("leftover"), model.settings.get("leftover")}
        if len(forms) > 1 or None in forms or METHODS[method].new_head:
            raise ValueError(
                f"{method} cannot go on from {model.method}: pass a model, such as its behavior. "
                "Only methods of Q-SFT's loss with the same leftover go on from one another"
            )
    args = dataclasses.replace(args, output_dir=str(Path(args.output_dir) / method))
    run = {"cloning": _train_cloning, "heads": _train_heads, "q_sft": _train_q_sft}[family]
    return run(method, model, tokenizer, episodes, validation, args, length, (resume, callbacks), options)


def _train_cloning(
    method, model, tokenizer, episodes, validation, args, length, resume, options
) -> TrainedMethod:
    """Cross-entropy on all episodes, on the best of them, or with their returns announced."""
    prompt = ""
    if method == "filtered_bc":
        episodes, validation = (
            part and best_episodes(part, options["fraction"], seed=args.seed)
            for part in (episodes, validation)
        )
    elif method == "return_conditioned":
        levels = options["levels"]
        prompt = return_token(return_levels(episodes, levels).max())
        model, tokenizer = add_return_tokens(model, tokenizer, levels, seed=args.seed)
        before = _longest(episodes, validation)
        episodes, validation = (
            part and condition_on_return(part, tokenizer, levels) for part in (episodes, validation)
        )
        length += _longest(episodes, validation) - before
    trainer = QSFTTrainer(
        copy.deepcopy(model),
        dataclasses.replace(args, stage="behavior"),
        *_rows(episodes, validation, length, args.seed),
        processing_class=tokenizer,
    )
    _run(trainer, *resume, method, options)
    behavior = trainer.model.behavior.eval()
    return TrainedMethod(
        method, options, behavior, None, tokenizer, prompt, trainer.state.log_history
    )


def _longest(*parts: datasets.Dataset | None) -> int:
    """The most tokens of an episode."""
    tables = [part.with_format("arrow")[:] for part in parts if part is not None]
    return max(pc.max(pc.list_value_length(table["input_ids"])).as_py() for table in tables)


def _train_q_sft(
    method, model, tokenizer, episodes, validation, args, length, resume, options
) -> TrainedMethod:
    """The loss of Q-SFT with the method's leftover and backup."""
    if isinstance(model, TrainedMethod):
        q_model, behavior = copy.deepcopy(model.values), copy.deepcopy(model.behavior)
    else:
        new = METHODS[method].new_head
        q_model = with_new_head(model, args.seed) if new else copy.deepcopy(model)
        behavior = copy.deepcopy(model)
    trainer = QSFTTrainer(
        q_model,
        dataclasses.replace(_for_values(args), stage="values", **options),
        *_rows(episodes, validation, length, args.seed),
        processing_class=tokenizer,
        behavior_model=behavior,
    )
    _run(trainer, *resume, method, options)
    behavior, q_model = trainer.model.behavior.eval(), trainer.model.q.eval()
    return TrainedMethod(
        method, options, behavior, q_model, tokenizer, "", trainer.state.log_history
    )


def _train_heads(
    method, model, tokenizer, episodes, validation, args, length, resume, options
) -> TrainedMethod:
    """ILQL or CQL: new heads, and a copy of the transformer under them that is trained along."""
    learner = HeadLearner(
        ActionValues.on(model, seed=args.seed),
        method=method,
        target_rate=args.target_rate,
        ruled_out=no_actions(tokenizer, output_head(model).out_features),
        **options,
    )
    trainer = HeadTrainer(
        learner, _for_values(args), *_rows(episodes, validation, length, args.seed)
    )
    _run(trainer, *resume, method, options)
    values = learner.values.eval()
    behavior = copy.deepcopy(model).eval().to(values.device)
    return TrainedMethod(
        method, options, behavior, values, tokenizer, "", trainer.state.log_history
    )


def _run(trainer: Trainer, resume: bool, callbacks: Any, method: str, options: dict[str, Any]) -> None:
    """Train, from the last checkpoint of the same run where that is asked for."""
    for callback in callbacks:
        trainer.add_callback(callback)
    folder = Path(trainer.args.output_dir)
    main = trainer.args.should_save
    rows = trainer.train_dataset, trainer.eval_dataset
    run = describe_run(trainer.args, trainer.model, *rows, method=method, options=options)
    with lock_folder(trainer.args):
        if main and not resume:  # an older run's checkpoints must not be taken for this one's
            (folder / RUN).unlink(missing_ok=True)
            for checkpoint in checkpoints(folder):
                shutil.rmtree(checkpoint)
        trainer.accelerator.wait_for_everyone()
        check_same_run(folder, run, write=main)
        trainer.train(resume_from_checkpoint=last_checkpoint(folder) if resume else None)


def no_actions(tokenizer: PreTrainedTokenizerBase, vocabulary: int) -> list[int]:
    """Ids that are never written: the special tokens, the dummy, and rows without a token."""
    special = {*tokenizer.all_special_ids, *range(len(tokenizer), vocabulary)}
    dummy = tokenizer.get_vocab().get(DUMMY)
    return sorted(special if dummy is None else special | {dummy})


def with_new_head(model: PreTrainedModel, seed: int) -> PreTrainedModel:
    """A copy of the model with an output head from scratch, tied to nothing."""
    model = copy.deepcopy(model)
    old = output_head(model)
    head = nn.Linear(old.in_features, old.out_features, bias=False)
    generator = torch.Generator().manual_seed(seed)
    nn.init.normal_(head.weight, std=model.config.initializer_range, generator=generator)
    model.set_output_embeddings(head.to(old.weight))
    model.config.tie_word_embeddings = False
    return model


def _for_values(args: QSFTConfig) -> QSFTConfig:
    """The args without early stopping, and with the last weights rather than the best."""
    if args.early_stopping_patience is None:
        return args
    return dataclasses.replace(args, early_stopping_patience=None, load_best_model_at_end=False)


def _rows(episodes, validation, length: int, seed: int) -> tuple[Any, Any]:
    """Both data sets packed."""
    return tuple(part and pack(part, length, seed=seed) for part in (episodes, validation))
