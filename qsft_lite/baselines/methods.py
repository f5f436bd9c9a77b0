"""Every method behind one call, on shared data and one backbone.

    cloned = train("bc", model, tokenizer, encoded, validation, args, length=256)
    rival = train("ilql", cloned.behavior, tokenizer, encoded, validation, args, length=256)
    options, table = choose_options(rival, env, games=200, seed=1)
    evaluate(rival.policy(**options), env, episodes=1000, seed=2)

Behavior cloning starts from the model as it is, every other method from the cloned weights; one of
Q-SFT's loss can also go on from another one. A method's grid lists the options that are tried on
validation games before it is compared: nine for each, temperatures where it clones, and beta where
it has values, both down to greedy. (`choosing` has the grids that also know supports, and widen.)
"""

from __future__ import annotations

import copy
import dataclasses
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pyarrow.compute as pc
import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer

from qsft_lite.baselines.choosing import GREEDY_BETA, as_options
from qsft_lite.baselines.episodes import (
    add_return_tokens,
    best_episodes,
    condition_on_return,
    return_levels,
    return_token,
)
from qsft_lite.baselines.head_trainer import HeadTrainer
from qsft_lite.baselines.heads import ActionValues, HeadLearner
from qsft_lite.baselines.policies import ClonedPolicy, ValuePolicy
from qsft_lite.data import pack
from qsft_lite.data.transcripts import DUMMY
from qsft_lite.evaluate import evaluate
from qsft_lite.models import dummy_id, output_head
from qsft_lite.policy import QSFTPolicy
from qsft_lite.policy.cached import CachedPolicy
from qsft_lite.trainer import QSFTConfig, QSFTTrainer
from qsft_lite.trainer.runs import (
    RUN,
    check_same_run,
    checkpoints,
    describe_run,
    last_checkpoint,
    lock_folder,
)

__all__ = ["METHODS", "Method", "TrainedMethod", "choose_options", "train"]

TEMPERATURES = (1.0, 0.7, 0.5, 0.35, 0.25, 0.15, 0.1, 0.05, 0.0)
BETAS = (1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16_384.0, GREEDY_BETA)
CLONING_GRID = tuple(as_options({"temperature": temperature}) for temperature in TEMPERATURES)
VALUE_GRID = tuple(as_options({"beta": beta}) for beta in BETAS)


@dataclass(frozen=True)
class Method:
    """How a method is trained and how it acts.

    family: "cloning", "heads" (values from new heads) or "q_sft" (the loss of Q-SFT). options: its
    own settings with their defaults; for "q_sft" they are fields of QSFTConfig. score: what "q_sft"
    acts by. grid: options of its policy to choose from on validation games. new_head: whether the
    output head of p starts from scratch.
    """

    title: str
    family: str
    options: dict[str, Any]
    grid: tuple[dict[str, Any], ...]
    score: str | None = None
    new_head: bool = False


OURS = {"leftover": "dummy", "backup": "support"}
# Conservatism is in units of a normalised return: for Wordle's six points, .002 is the .01 that
# ILQL was published with.
METHODS = {
    "bc": Method("Behavior cloning", "cloning", {}, CLONING_GRID),
    "filtered_bc": Method("Filtered cloning", "cloning", {"fraction": 0.1}, CLONING_GRID),
    # Emmons et al., 2022; Chen et al., 2021
    "return_conditioned": Method("Return-conditioned", "cloning", {"levels": 10}, CLONING_GRID),
    # p / pi is the mean return that followed the action in the data
    "mc_returns": Method(
        "Monte-Carlo returns", "q_sft", {**OURS, "backup": "returns"}, VALUE_GRID, score="ratio"
    ),
    # Snell et al., 2023
    "ilql": Method("ILQL", "heads", {"expectile": 0.7, "conservatism": 0.002}, VALUE_GRID),
    # Kumar et al., 2020
    "cql": Method("CQL", "heads", {"conservatism": 0.01}, VALUE_GRID),
    "q_sft_paper": Method(
        "Q-SFT (paper)", "q_sft", {"leftover": "uniform", "backup": "max"}, VALUE_GRID, score="p"
    ),
    "q_sft": Method("Q-SFT (ours)", "q_sft", OURS, VALUE_GRID, score="ratio"),
    # Two controls: is it the reuse of the logits that helps? Is it more than label smoothing?
    "q_sft_new_head": Method(
        "Q-SFT, new head", "q_sft", OURS, VALUE_GRID, score="ratio", new_head=True
    ),
    "random_targets": Method(
        "Random targets", "q_sft", {**OURS, "backup": "random"}, VALUE_GRID, score="ratio"
    ),
}


@dataclass(frozen=True)
class TrainedMethod:
    """What training gave.

    method: its name. settings: its own ones, as they were. behavior: pi, the cloned model. values:
    what it weighs pi with; None for cloning. tokenizer: of both. prompt: text put before every
    history. logs: one entry each logging or evaluation.
    """

    method: str
    settings: dict[str, Any]
    behavior: PreTrainedModel
    values: PreTrainedModel | ActionValues | None
    tokenizer: PreTrainedTokenizerBase
    prompt: str
    logs: list[dict[str, float]]

    @property
    def grid(self) -> tuple[dict[str, Any], ...]:
        """The options of `policy` to choose from on validation games."""
        return METHODS[self.method].grid

    def policy(
        self,
        *,
        beta: float | None = None,
        temperature: float = 1.0,
        score: str | None = None,
        **options,
    ) -> CachedPolicy:
        """The method at play.

        Args:
            beta: weight of the values against log pi; where there are values, it must be given.
            temperature: of pi.
            score: "p" or "ratio", where Q-SFT's loss was trained; the method's own if None.
            options: CachedPolicy's, such as greedy, stop, max_new_tokens, constraint, seed.

        Raises:
            ValueError: a beta for a method without values, or none for one with them.
        """
        options["temperature"] = temperature
        method = METHODS[self.method]
        if (beta is None) != (self.values is None):
            needs = "needs a beta" if beta is None else "has no values, and so takes no beta"
            raise ValueError(f"{self.method} {needs}; its grid is {self.grid}")
        if score is not None and method.family != "q_sft":
            raise ValueError(f"{self.method} takes no score: that is for methods of Q-SFT's loss")
        if self.values is None:
            return ClonedPolicy(self.behavior, self.tokenizer, prompt=self.prompt, **options)
        if method.family == "heads":
            return ValuePolicy(self.behavior, self.values, self.tokenizer, beta, **options)
        return QSFTPolicy(
            self.behavior,
            self.values,
            self.tokenizer,
            beta,
            score or method.score,
            dummy=dummy_id(self.tokenizer) if self.settings["leftover"] == "dummy" else None,
            **options,
        )


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
    return run(method, model, tokenizer, episodes, validation, args, length, resume, options)


def choose_options(
    trained: TrainedMethod,
    env: Any,
    games: int,
    seed: int,
    *,
    grid: Sequence[dict[str, Any]] | None = None,
    **policy_options,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """The best options of a method's policy, by the mean return of validation games.

    Args:
        trained: the method.
        env, games, seed: as in evaluate, with a seed that no reported game uses.
        grid: the options to try; the method's own if None.
        policy_options: further options of all policies.

    Returns:
        The best entry of the grid, and a row for each: its options, mean return and success.
    """
    rows = []
    grid = trained.grid if grid is None else grid
    for options in grid:
        result = evaluate(trained.policy(**options, **policy_options), env, games, seed)
        rows.append({**options, "mean": result.mean, "success": result.success})
    best = max(range(len(rows)), key=lambda row: rows[row]["mean"])
    return dict(grid[best]), pd.DataFrame(rows)


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
    _run(trainer, resume, method, options)
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
    _run(trainer, resume, method, options)
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
    _run(trainer, resume, method, options)
    values = learner.values.eval()
    behavior = copy.deepcopy(model).eval().to(values.device)
    return TrainedMethod(
        method, options, behavior, values, tokenizer, "", trainer.state.log_history
    )


def _run(trainer: Trainer, resume: bool, method: str, options: dict[str, Any]) -> None:
    """Train, from the last checkpoint of the same run where that is asked for."""
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
