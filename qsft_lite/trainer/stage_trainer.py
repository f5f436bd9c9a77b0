"""Training in two stages, on transformers.Trainer.

Stage one fits the behavior policy pi_phi by cross-entropy on the action tokens. Stage two starts p
from the same weights and trains it by the loss of Q-SFT, with a moving average of p as the target
network. ``train_q_sft`` runs both; ``q_sft_step`` is the mathematics of a step of stage two, whole.

Whatever a stage holds is one module, so the Trainer's checkpoints, its several processes and its
resuming hold all of it. A run that is killed and started again ends with the same weights, bit for
bit on a CPU.
"""

from __future__ import annotations

import copy
import os
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from torch import nn
from torch.utils.data import DataLoader, Subset
from transformers import (
    EarlyStoppingCallback,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerState,
)
from transformers.trainer_utils import EvalLoopOutput

from qsft_lite.data import collate
from qsft_lite.data.packing import check_packed
from qsft_lite.files import replace_folder
from qsft_lite.models import check_head, check_packing, dummy_id, output_head
from qsft_lite.trainer.base_trainer import MuonTrainer
from qsft_lite.trainer.behavior_cache import cache_behavior, collate_cached
from qsft_lite.trainer.config import STAGES, QSFTConfig
from qsft_lite.trainer.runs import (
    STATE,
    WEIGHTS,
    bytes_of,
    check_room,
    check_same_run,
    checkpoints,
    describe_run,
    last_checkpoint,
    lock_folder,
    named_if_damaged,
    rows_hash,
    run_settings,
    whole_state,
)
from qsft_lite.trainer.step import behavior_step, q_sft_step

__all__ = ["QSFTConfig", "QSFTTrainer", "TrainedQSFT", "q_sft_step", "train_q_sft"]


# The two stages as modules


class Stage(nn.Module):
    """Models of a stage; what the Trainer asks of a model goes to those that are trained."""

    def trained(self) -> list[PreTrainedModel]:
        """The models that have gradients."""
        return [
            model for model in self.children() if any(p.requires_grad for p in model.parameters())
        ]

    def activation_checkpointing_enable(self, **options: Any) -> None:
        """Recompute activations in the backward pass instead of keeping them."""
        for model in self.trained():
            model.activation_checkpointing_enable(**options)

    def gradient_checkpointing_enable(self, **options: Any) -> None:
        """The same, by the name it had before transformers 5."""
        for model in self.trained():
            model.gradient_checkpointing_enable(**options)


class BehaviorStage(Stage):
    """Stage one: the behavior policy alone."""

    def __init__(self, behavior: PreTrainedModel):
        super().__init__()
        self.behavior = behavior

    def forward(self, statistics: bool = False, **batch: torch.Tensor) -> dict[str, torch.Tensor]:
        """``behavior_step``, as {"loss": scalar}."""
        return {"loss": behavior_step(self.behavior, batch)}


class ValueStage(Stage):
    """Stage two: p_theta, its moving average, and the behavior policy."""

    def __init__(
        self, q: PreTrainedModel, behavior: PreTrainedModel, config: QSFTConfig, dummy: int
    ):
        super().__init__()
        self.q = q
        self.target = copy.deepcopy(q).requires_grad_(False)
        self.behavior = behavior
        # Of a policy that is trained, the frozen part stays frozen; all of it, if it was frozen.
        if not config.train_behavior or not any(p.requires_grad for p in behavior.parameters()):
            behavior.requires_grad_(config.train_behavior)
        self.settings = config
        self.dummy = dummy
        self.backup = config.backup

    def forward(self, statistics: bool = False, **batch: torch.Tensor) -> dict[str, torch.Tensor]:
        """``q_sft_step``, as {"loss": scalar, and the statistics by name}."""
        loss, found = q_sft_step(
            self.q,
            self.target,
            self.behavior,
            batch,
            self.settings,
            self.dummy,
            backup=self.backup,
            statistics=statistics,
        )
        return {"loss": loss, **found}

    def train(self, mode: bool = True) -> ValueStage:
        """As ever, but what is not trained never drops out."""
        super().train(mode)
        self.target.eval()
        if not self.settings.train_behavior:
            self.behavior.eval()
        return self

    @torch.no_grad()
    def update_target(self, step: int) -> None:
        """theta_bar <- (1 - alpha) theta_bar + alpha theta, or every so many steps theta."""
        rate = self.settings.target_rate
        if self.settings.target_refresh is not None:
            if step % self.settings.target_refresh:
                return
            rate = 1.0
        torch._foreach_lerp_(list(self.target.parameters()), list(self.q.parameters()), rate)


class _StageTwo(TrainerCallback):
    """What changes from step to step: the backup, and the target network."""

    def on_step_begin(self, args, state, control, model=None, **others):
        first = state.global_step < args.returns_first * state.max_steps
        model.backup = "returns" if first else args.backup

    def on_step_end(self, args, state, control, model=None, **others):
        # Before anything is saved.
        model.update_target(state.global_step)


# The trainer


class QSFTTrainer(MuonTrainer):
    """transformers.Trainer for either stage.

    With several processes, each takes its share of every batch. Where they do not divide the number
    of rows, accelerate repeats a few rows at the end of an epoch. Statistics in the log are of the
    last batch before it, of the first process; evaluation is of all held-out rows.

    Args:
        model: the model to train, in place: pi_phi in stage one, p in stage two.
        args: a QSFTConfig; args.stage says which stage this is.
        train_dataset: packed rows (``data.pack``).
        eval_dataset: packed rows, for the held-out loss.
        processing_class: the tokenizer; it knows the dummy token.
        behavior_model: pi_phi of stage two; by default a copy of model as it is. Frozen, or with
            train_behavior trained in place.
        callbacks: further ones.

    Raises:
        TypeError, ValueError, OSError: what ``check_stage`` and MuonTrainer refuse.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: QSFTConfig,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        behavior_model: PreTrainedModel | None = None,
        callbacks: list[TrainerCallback] | None = None,
    ):
        check_stage(model, args, processing_class, train_dataset, eval_dataset)
        callbacks = list(callbacks or ())
        if args.stage == "behavior":
            module = BehaviorStage(model)
            if args.early_stopping_patience is not None:
                callbacks.append(EarlyStoppingCallback(args.early_stopping_patience))
        else:
            dummy = dummy_id(processing_class) if args.leftover == "dummy" else -1
            behavior = copy.deepcopy(model) if behavior_model is None else behavior_model
            if output_head(behavior).out_features != output_head(model).out_features:
                raise ValueError("model and behavior_model have vocabularies of different sizes.")
            check_packing(behavior)
            module = ValueStage(model, behavior, args, dummy)
            callbacks.insert(0, _StageTwo())
        self._found: dict[str, torch.Tensor] = {}
        self._processes = args.world_size
        super().__init__(
            model=module,
            args=args,
            data_collator=collate,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            callbacks=callbacks,
        )
        self.loss_is_scaled_for_ga = self.model_accepts_loss_kwargs = True

    # The loss: a mean over all action tokens of a step, whatever the batches and processes

    def _get_num_items_in_batch(self, batch_samples, device):
        if not batch_samples:
            return None
        count = sum(batch["action_mask"].sum() for batch in batch_samples).to(device)
        return self.accelerator.gather(count).sum() if self._processes > 1 else count

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The sum of the batch's losses over the number of action tokens of the whole step."""
        wanted = self.args.stage == "values" and self._logs_next()
        found = model(statistics=wanted, **inputs)
        loss = found.pop("loss")
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {loss.item()} at step {self.state.global_step + 1}. Look at the last "
                "logged lines: at the gradient norm (lower learning_rate or max_grad_norm), at "
                "target_mean and clamped (the range rewards were scaled by, a larger support, "
                "clamp=True), and with fp16 at bf16 instead"
            )
        if found:
            self._found = found
        share = inputs["action_mask"].sum() / num_items_in_batch.clamp(min=1)
        # Gradients are averaged over processes, not added: the number of them makes up for it.
        loss = loss * share * self._processes
        return (loss, found) if return_outputs else loss

    def _logs_next(self) -> bool:
        every = self.state.logging_steps
        return bool(every) and (self.state.global_step + 1) % every == 0

    def log(self, logs, start_time=None):
        """Add to each line about training the statistics of its last batch, of this process."""
        if "loss" in logs and self._found:
            logs = {**logs, **{name: value.item() for name, value in self._found.items()}}
            self._found = {}
        super().log(logs, start_time)

    # Data

    def get_train_dataloader(self) -> DataLoader:
        """As ever, after working out the behavior cache where it is asked for."""
        if self.args.stage == "values" and self.args.cache_behavior:
            with self.args.main_process_first(desc="behavior cache"):
                self.train_dataset = cache_behavior(
                    self.model.behavior,
                    getattr(self.train_dataset, "rows", self.train_dataset),
                    support=self.args.support,
                    leftover=self.model.dummy if self.args.leftover == "dummy" else "uniform",
                    batch_size=self.args.eval_batch_size,
                    folder=Path(self.args.output_dir),
                )
            self.data_collator = collate_cached
        return super().get_train_dataloader()

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """Every process its share of the rows, each row once."""
        rows = self.eval_dataset if eval_dataset is None else eval_dataset
        if rows is None:
            raise ValueError("evaluation needs an eval_dataset")
        share = Subset(rows, range(self.args.process_index, len(rows), self._processes))
        return DataLoader(share, batch_size=self.args.eval_batch_size, collate_fn=collate)

    @torch.no_grad()
    def evaluation_loop(
        self,
        dataloader,
        description,
        prediction_loss_only=None,
        ignore_keys=None,
        metric_key_prefix="eval",
    ):
        """Loss and statistics, each a mean over the action tokens of all rows."""
        module, device = self.model.to(self.args.device), self.args.device
        was_training = module.training
        module.eval()
        sums: dict[str, torch.Tensor] = defaultdict(lambda: torch.zeros((), device=device))
        with torch.autocast(device.type, torch.bfloat16, enabled=self.args.bf16):
            for batch in dataloader:
                batch = self._prepare_inputs(batch)
                count = batch["action_mask"].sum()
                sums["count"] += count
                for name, value in module(statistics=True, **batch).items():
                    sums[name] += value * count
        module.train(was_training)
        totals = torch.stack(list(sums.values()))
        if self._processes > 1:
            totals = self.accelerator.reduce(totals, "sum")
        if not totals[0]:
            raise ValueError("the evaluation rows have no action token: evaluate on other ones")
        means = dict(zip(sums, (totals / totals[0]).tolist(), strict=True))
        del means["count"]
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in means.items()}
        return EvalLoopOutput(None, None, metrics, len(dataloader.dataset) * self._processes)

    # Checkpoints: weights as safetensors, tied ones once

    def _save(self, output_dir=None, state_dict=None):
        if self.args.should_save:
            folder = Path(output_dir or self.args.output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            safetensors.torch.save_model(self.model, str(folder / WEIGHTS))

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        _load_weights(self.model, Path(resume_from_checkpoint))

    def _load_best_model(self):
        _load_weights(self.model, Path(self.state.best_model_checkpoint))

    def train(self, resume_from_checkpoint=None, trial=None, ignore_keys_for_eval=None):
        """As transformers.Trainer does; True resumes from the last complete checkpoint, if any."""
        if resume_from_checkpoint is True:
            resume_from_checkpoint = last_checkpoint(Path(self.args.output_dir))
        if not resume_from_checkpoint:
            return super().train(None, trial, ignore_keys_for_eval)
        state = whole_state(Path(resume_from_checkpoint))
        if state is None:
            raise ValueError(
                f"{resume_from_checkpoint} is no whole checkpoint: delete it, and go on from "
                "another one with resume_from_checkpoint=True"
            )
        control = state.get("stateful_callbacks", {}).get("TrainerControl", {})
        if control.get("args", {}).get("should_training_stop"):
            # Killed after the last step: there is nothing to train, only what comes after it.
            self._load_from_checkpoint(resume_from_checkpoint)
            self.state = _read_state(Path(resume_from_checkpoint))
            if self.args.load_best_model_at_end and self.state.best_model_checkpoint:
                self._load_best_model()
            return None
        return super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)


def _load_weights(module: nn.Module, folder: Path) -> None:
    with named_if_damaged(folder, "delete it to go on from the one before it, or anew"):
        safetensors.torch.load_model(module, str(folder / WEIGHTS))


def _read_state(folder: Path) -> TrainerState:
    with named_if_damaged(folder, "delete it to go on from the one before it, or anew"):
        return TrainerState.load_from_json(str(folder / STATE))


def check_stage(
    model: PreTrainedModel,
    args: QSFTConfig,
    tokenizer: PreTrainedTokenizerBase | None,
    train: Any,
    validation: Any,
) -> None:
    """Refuse what a stage cannot train with, before anything is done.

    Raises:
        TypeError: a model that is none, such as its name, or one without a linear head.
        ValueError: a head with a bias, which the losses here leave out; a model that changes its
            logits after the head, or does not keep packed episodes apart; one with nothing to
            train, or with prompts in front of it; no dummy with leftover="dummy"; rows that are not
            packed, or none.
    """
    name = type(model).__name__
    head = output_head(model)
    if head.bias is not None:
        raise ValueError(f"The head of {name} has a bias: not supported.")
    if getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False):
        raise ValueError(f"{name} has learned prompts in front of it: not supported, LoRA is.")
    if not any(weight.requires_grad for weight in model.parameters()):
        raise ValueError(f"No weight of {name} has requires_grad: there is nothing to train.")
    check_packing(model)
    check_head(model)
    if args.stage == "values" and args.leftover == "dummy":
        if tokenizer is None:
            raise ValueError('leftover="dummy" needs the tokenizer, which knows the dummy token.')
        if dummy_id(tokenizer) >= head.out_features:
            raise ValueError(
                f"{name} has {head.out_features} logits, and the dummy is token "
                f"{dummy_id(tokenizer)}: call add_dummy(model, tokenizer)."
            )
    check_packed(train, validation)
    if args.stage == "values" and args.cache_behavior and not hasattr(train, "__len__"):
        raise ValueError("cache_behavior needs rows in memory, and train is a stream.")


# Both stages in one call


class TrainedQSFT(NamedTuple):
    """What training gives: both policies, and everything that was logged."""

    behavior: PreTrainedModel
    q_model: PreTrainedModel
    logs: dict[str, list[dict[str, float]]]  # by stage, one entry each logging or evaluation


def train_q_sft(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    train: Any,
    validation: Any,
    behavior_args: QSFTConfig,
    value_args: QSFTConfig,
    callbacks: list[TrainerCallback] | None = None,
) -> TrainedQSFT:
    """Stage one, then stage two from the same weights.

    Called again with the same arguments after an interruption, it goes on where it was. The
    output_dir of each stage keeps the run's description, checkpoints, and the finished weights;
    delete it to start anew. After an interruption the first loss that is logged is a mean over the
    steps since then; the weights are those of an unbroken run.

    Args:
        model: a causal language model; left as it is.
        tokenizer: its tokenizer, with a dummy token for leftover="dummy".
        train: packed rows (``data.pack``). Of a stream the rows are not compared to those of the
            run that is gone on with.
        validation: packed rows for the held-out loss, or None.
        behavior_args: stage="behavior".
        value_args: stage="values", with another output_dir.
        callbacks: further callbacks, for both stages.

    Raises:
        ValueError: the stages or folders are mixed up, or a folder holds another run or a damaged
            file; or what ``check_stage`` refuses, of either stage, before the first one is trained.
        OSError: a folder cannot be written to, or has no room for the checkpoints.
        RuntimeError: another process trains there.
    """
    if (behavior_args.stage, value_args.stage) != STAGES:
        raise ValueError(
            f'the stages must be "behavior" and "values", in this order, not '
            f'"{behavior_args.stage}" and "{value_args.stage}"'
        )
    if os.path.abspath(behavior_args.output_dir) == os.path.abspath(value_args.output_dir):
        raise ValueError(f"both stages have the output_dir {value_args.output_dir}: give each one")

    weights, trained = bytes_of(model)
    for args in (behavior_args, value_args):
        check_stage(model, args, tokenizer, train, validation)
        models = 1 if args.stage == "behavior" else 3
        check_room(args, models * weights, (1 + args.train_behavior) * trained)
    data = rows_hash(train), rows_hash(validation)

    def run(args: QSFTConfig, model: PreTrainedModel) -> QSFTTrainer:
        trainer = QSFTTrainer(
            model, args, train, validation, tokenizer, callbacks=list(callbacks or ())
        )
        description = describe_run(args, trainer.model, *data)
        check_same_run(Path(args.output_dir), description, write=args.should_save)
        _train_or_load(trainer)
        return trainer

    with lock_folder(behavior_args), lock_folder(value_args):
        known = {**run_settings(value_args), "rows": data[0], "validation": data[1]}
        check_same_run(Path(value_args.output_dir), known, write=False)
        first = run(behavior_args, copy.deepcopy(model))
        behavior = first.model.behavior
        second = run(value_args, copy.deepcopy(behavior))
    return TrainedQSFT(
        behavior=second.model.behavior.eval(),
        q_model=second.model.q.eval(),
        logs={"behavior": first.state.log_history, "values": second.state.log_history},
    )


def _train_or_load(trainer: QSFTTrainer) -> None:
    """Train to the end from wherever the last call got to; the finished weights are kept."""
    folder = Path(trainer.args.output_dir)
    finished = folder / "finished"
    if finished.exists():
        _load_weights(trainer.model, finished)
        trainer.state = _read_state(finished)
        return
    trainer.train(resume_from_checkpoint=True)
    if trainer.args.should_save:
        for left_behind in folder.glob(".finished.*"):
            shutil.rmtree(left_behind)
        with replace_folder(finished) as aside:
            trainer.save_model(str(aside))
            trainer.state.save_to_json(str(aside / STATE))
        for checkpoint in checkpoints(folder):
            shutil.rmtree(checkpoint)
    trainer.accelerator.wait_for_everyone()
