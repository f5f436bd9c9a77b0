"""One trainer for every stage and every method, on transformers.Trainer.

A run that is killed and started again ends with the same weights, bit for bit on a CPU.
"""

from __future__ import annotations

import copy
import os
import shutil
from collections import defaultdict
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import partial
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
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerState,
)
from transformers.trainer_utils import EvalLoopOutput

from qsft_lite.data import collate
from qsft_lite.data.packing import check_packed
from qsft_lite.files import named_if_damaged, replace_folder
from qsft_lite.models import NewHead, check_packing, dummy_id, output_head, pixel_rule
from qsft_lite.models.networks import saved_names, separate, twin
from qsft_lite.trainer import runs
from qsft_lite.trainer.behavior_cache import cache_rows, rows_at
from qsft_lite.trainer.compiling import compiled_layers
from qsft_lite.trainer.config import STAGES, QSFTConfig
from qsft_lite.trainer.optimizer import MuonAdamW
from qsft_lite.trainer.sharding import DividedStage, divided_state, whole_tensors
from qsft_lite.trainer.stages import (
    BehaviorStage,
    PairedStage,
    Stage,
    ValueStage,
    check_images,
    check_stage,
)

__all__ = ["QSFTTrainer", "StageTrainer", "TrainedQSFT", "train_q_sft"]


class _AroundSteps(TrainerCallback):
    """Tells the stage of each step, before anything is saved."""

    def on_step_begin(self, args, state, control, model=None, **others):
        model.before_step(state.global_step, state.max_steps)

    def on_step_end(self, args, state, control, model=None, **others):
        model.after_step()


class StageTrainer(Trainer):
    """transformers.Trainer for any Stage, which it trains in place.

    With several processes, each takes its share of every batch. Where they do not divide the number
    of rows, accelerate repeats a few rows at the end of an epoch. Statistics in the log are of the
    last batch before it, of the first process; evaluation is of all held-out rows. With
    disable_tqdm it prints nothing: what was logged is in ``state.log_history``.

    Both data sets are packed rows (``data.pack``), and processing_class is the tokenizer. Pictures
    of rows become pixel_values by the rule of the stage's model (``models.pixel_rule``).

    Raises:
        ValueError: rows that are not packed, or whose pictures the model does not see as they are
            encoded; in train, a damaged checkpoint, which is named.
    """

    def __init__(
        self,
        stage: Stage,
        args: QSFTConfig,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        callbacks: list[TrainerCallback] | None = None,
    ):
        check_packed(train_dataset, eval_dataset)
        model = next((part for part in stage.children() if hasattr(part, "config")), None)
        for rows in (train_dataset, eval_dataset):
            check_images(model, rows)
        collator = partial(collate, pixels=model and pixel_rule(model))
        callbacks = [_AroundSteps(), *(callbacks or ())]
        if args.early_stopping_patience is not None:
            callbacks.append(EarlyStoppingCallback(args.early_stopping_patience))
        self._found: dict[str, torch.Tensor] = {}
        self._processes = args.world_size
        self._first_shape: torch.Size | None = None  # of a batch
        self._shards: DividedStage | None = None  # while it trains with fully_shard
        rows = {"train_dataset": train_dataset, "eval_dataset": eval_dataset}
        options = {"processing_class": processing_class, "callbacks": callbacks, **rows}
        super().__init__(stage, args, collator, **options)
        self.remove_callback(PrinterCallback)
        self.loss_is_scaled_for_ga = self.model_accepts_loss_kwargs = True

    def create_optimizer(self, model=None):
        """AdamW as transformers makes it, or Muon where the args ask for it."""
        if self.optimizer is None and self.args.muon:
            betas = (self.args.adam_beta1, self.args.adam_beta2)
            rates = self.args.learning_rate, self.args.weight_decay
            self.optimizer = MuonAdamW(self.model, *rates, betas)
        return super().create_optimizer(model)

    # The loss: a mean over all action tokens of a step, whatever the batches and processes

    def _get_num_items_in_batch(self, batch_samples, device):
        if not batch_samples:
            return None
        count = sum(batch["action_mask"].sum() for batch in batch_samples).to(device)
        return self.accelerator.gather(count).sum() if self._processes > 1 else count

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The sum of the batch's losses over the number of action tokens of the whole step."""
        with self._as_compiled(inputs["input_ids"].shape):
            found = model(statistics=self._logs_next(), **inputs)
        loss = found.pop("loss")
        if not torch.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {loss.item()} at step {self.state.global_step + 1}. Look at the last "
                "logged lines: at the gradient norm (lower learning_rate or max_grad_norm), and at "
                "target_mean and clamped (the range of rewards, a larger support, clamp=True)"
            )
        if found:
            self._found = found
        share = inputs["action_mask"].sum() / num_items_in_batch.clamp(min=1)
        # Gradients are averaged over processes, not added: the number of them makes up for it.
        loss = loss * share * self._processes
        return (loss, found) if return_outputs else loss

    def _as_compiled(self, shape: torch.Size) -> AbstractContextManager:
        """A last, smaller batch is not worth compiling anew: it runs as if nothing was compiled."""
        self._first_shape = self._first_shape or shape
        if not self.args.compile_layers or shape == self._first_shape:
            return nullcontext()
        return torch.compiler.set_stance("force_eager")

    def _defer_fsdp_gradient_reduction(self):
        """Not put off till the last batch of a step: gradients stay divided in between, too."""
        return nullcontext()

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

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """Every process its share of the rows, each row once."""
        rows = self.eval_dataset if eval_dataset is None else eval_dataset
        if rows is None:
            raise ValueError("evaluation needs an eval_dataset")
        if len(rows) < self._processes:
            raise ValueError(
                f"{len(rows)} evaluation rows are too few for {self._processes} processes"
            )
        share = Subset(rows, range(self.args.process_index, len(rows), self._processes))
        size = self.args.eval_batch_size
        return DataLoader(share, batch_size=size, collate_fn=self.data_collator)

    @torch.no_grad()
    def evaluation_loop(self, dataloader, *_, metric_key_prefix="eval", **others):
        """Loss and statistics, each a mean over the action tokens of all rows."""
        module, device = self.model, self.args.device
        if not self._shards:
            module.to(device)
        was_training = module.training
        module.eval()
        sums: dict[str, torch.Tensor] = defaultdict(lambda: torch.zeros((), device=device))
        with torch.autocast(device.type, torch.bfloat16, enabled=self.args.bf16):
            for batch in self._in_step(dataloader):
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

    def _in_step(self, dataloader: DataLoader) -> Iterator[dict[str, torch.Tensor]]:
        """The batches; with fully_shard as many for every process, the last perhaps of no action.

        A divided layer is put together by all processes or by none.
        """
        if not self._shards:
            yield from dataloader
            return
        own = torch.tensor(len(dataloader), device=self.args.device)
        most = int(self.accelerator.gather(own).max())
        yield from dataloader
        for _ in range(most - len(dataloader)):
            batch = self.data_collator([dataloader.dataset[0]])
            yield {**batch, "action_mask": torch.zeros_like(batch["action_mask"])}

    # Checkpoints: weights as safetensors, tied ones once; the same files with fully_shard

    def _save(self, output_dir=None, state_dict=None):
        if self._shards:
            self._shards.gather(keep=self.args.should_save)
        if self.args.should_save:
            folder = Path(output_dir or self.args.output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            _save_weights(self._shards.whole if self._shards else self.model, folder)
        if self._shards:
            self._shards.empty()

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        with _whole(resume_from_checkpoint):
            if not self._shards:
                _load_weights(self.model, Path(resume_from_checkpoint))
                return
            self._shards.gather()  # of a frozen base the checkpoint has nothing
            _load_weights(self._shards.whole, Path(resume_from_checkpoint))
        self._shards.scatter()
        self._shards.empty()

    def _load_best_model(self):
        self._load_from_checkpoint(self.state.best_model_checkpoint)

    def _save_optimizer_and_scheduler(self, output_dir):
        if not self._shards:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        state = whole_tensors(self.optimizer.state_dict())
        if self.args.should_save:
            torch.save(state, Path(output_dir) / "optimizer.pt")
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / "scheduler.pt")

    def _load_optimizer_and_scheduler(self, checkpoint):
        with _whole(checkpoint):
            if not self._shards or checkpoint is None:
                super()._load_optimizer_and_scheduler(checkpoint)
                return
            state, schedule = (
                torch.load(Path(checkpoint) / name, map_location="cpu", weights_only=True)
                for name in ("optimizer.pt", "scheduler.pt")
            )
            self.optimizer.load_state_dict(divided_state(state, self.optimizer))
            self.lr_scheduler.load_state_dict(schedule)

    def _load_rng_state(self, checkpoint):
        with _whole(checkpoint):
            super()._load_rng_state(checkpoint)

    def train(self, resume_from_checkpoint=None, **options):
        """As transformers.Trainer does; True resumes from the last complete checkpoint, if any."""
        rows = self.train_dataset
        try:
            return self._train(resume_from_checkpoint, **options)
        finally:
            self.train_dataset = rows

    def _train(self, resume_from_checkpoint, **options):
        if resume_from_checkpoint is True:
            resume_from_checkpoint = runs.last_checkpoint(Path(self.args.output_dir))
        if not resume_from_checkpoint:
            return self._train_on(None, **options)
        state = runs.whole_state(Path(resume_from_checkpoint))
        if state is None:
            raise ValueError(
                f"{resume_from_checkpoint} is no whole checkpoint: delete it, and go on from "
                "another one with resume_from_checkpoint=True"
            )
        control = state.stateful_callbacks.get("TrainerControl", {})
        if control.get("args", {}).get("should_training_stop"):
            # Killed after the last step: there is nothing to train, only what comes after it.
            self.state = state
            best = state.best_model_checkpoint if self.args.load_best_model_at_end else None
            self._load_from_checkpoint(best or resume_from_checkpoint)
            return None
        return self._train_on(resume_from_checkpoint, **options)

    def _train_on(self, checkpoint, **options):
        """Train; with fully_shard a division of the model, whose weights it has again in the end.

        It stays where it was then, which for a model that does not fit on a GPU is the CPU.
        """
        if not self.args.fully_shard:
            self._cache_rows()
            compiled = self.args.compile_layers
            with compiled_layers(self.model) if compiled else nullcontext():
                return super().train(checkpoint, **options)
        self._shards = DividedStage(self.model, self.args.device)
        self.model = self.model_wrapped = self._shards.divided
        # What transformers calls a model that looks after its own division.
        self.is_distributed_loading_by_transformers = True
        found = super().train(checkpoint, **options)
        self._shards.gather()
        self.model = self.model_wrapped = self._shards.whole
        self.optimizer = self.lr_scheduler = self._shards = None
        for name in ("model", "optimizer", "lr_scheduler"):
            setattr(self.callback_handler, name, getattr(self, name))
        self.accelerator.free_memory()
        return found

    def _cache_rows(self) -> None:
        """Keep what the stage says is the same whenever a row is met, if rows are met again."""
        args, rows = self.args, self.train_dataset
        if not hasattr(rows, "__len__"):
            return
        batch = args.train_batch_size * args.gradient_accumulation_steps * self._processes
        met = args.max_steps * batch / len(rows) if args.max_steps > 0 else args.num_train_epochs
        first = self._prepare_inputs(self.data_collator([rows[0]]))
        if met <= 1 or self.model.columns(first) is None:
            return
        self.model.to(args.device).eval()

        def read(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            with torch.no_grad(), self.compute_loss_context_manager():
                return self.model.columns(self._prepare_inputs(batch))

        options = {"batch": args.train_batch_size, "collate": self.data_collator}
        options |= {"process": args.process_index, "processes": self._processes}
        self.train_dataset = cache_rows(rows, read, **options)

    def run(self, *, resume: bool = True, **more: Any) -> None:
        """Train to the end, in a folder that says what run it is.

        With resume it goes on from wherever the last call got to, whose finished weights are kept;
        without, whatever an older run left there is removed. In the end no checkpoint is left.
        more: further things that make it another run. ValueError where, with resume, the folder
        holds another run or a damaged file.
        """
        folder, main = Path(self.args.output_dir), self.args.should_save
        finished = folder / "finished"
        data = self.train_dataset, self.eval_dataset
        run = runs.describe_run(self.args, self.model, *data, **more)
        if main and not resume:  # an older run's checkpoints must not be taken for this one's
            (folder / runs.RUN).unlink(missing_ok=True)
            for old in (finished, *runs.checkpoints(folder)):
                shutil.rmtree(old, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        runs.check_same_run(folder, run, write=main)
        if finished.exists():
            with _whole(finished):
                _load_weights(self.model, finished)
                self.state = TrainerState.load_from_json(str(finished / runs.STATE))
            return
        self.train(resume_from_checkpoint=resume)
        if main:
            if resume:
                for left_behind in folder.glob(".finished.*"):  # of a call that was killed here
                    shutil.rmtree(left_behind)
                with replace_folder(finished) as aside:
                    self.save_model(str(aside))
                    self.state.save_to_json(str(aside / runs.STATE))
            for checkpoint in runs.checkpoints(folder):
                shutil.rmtree(checkpoint)
        self.accelerator.wait_for_everyone()


class QSFTTrainer(StageTrainer):
    """A StageTrainer for either stage of Q-SFT.

    Args:
        model: the model to train, in place: pi_phi in stage one, p in stage two. With
            values="head" a NewHead on a copy of it is trained, and is ``trainer.model.q``.
        args: a QSFTConfig; args.stage says which stage this is.
        train_dataset, eval_dataset: packed rows.
        processing_class: the tokenizer; it knows the dummy token.
        behavior_model: pi_phi of stage two; by default a ``networks.twin`` of model as it is.
            Frozen, or with train_behavior trained in place. Of the paired form with
            values="logits", what the model began as.
        callbacks: further ones.

    Raises:
        TypeError, ValueError: what ``check_stage`` and StageTrainer refuse.
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
        has_head = isinstance(model, NewHead)  # which goes on from an earlier training
        check_stage(behavior_model if has_head else model, args, processing_class)
        if behavior_model is not None:
            if output_head(behavior_model).out_features != output_head(model).out_features:
                raise ValueError("model and behavior_model have vocabularies of different sizes.")
            check_packing(behavior_model)
        if args.stage == "behavior":
            stage = BehaviorStage(model)
        else:
            head = args.values == "head" and not has_head
            q = NewHead.on(model, seed=args.seed) if head else model
            behavior = behavior_model
            if behavior is None:
                behavior = copy.deepcopy(model) if head else twin(model, "behavior")
            if args.leftover == "paired":
                stage = PairedStage(q, behavior, args, prior_of(args, train_dataset))
            else:
                dummy = dummy_id(processing_class) if args.leftover == "dummy" else None
                stage = ValueStage(q, behavior, args, dummy)
        super().__init__(stage, args, train_dataset, eval_dataset, processing_class, callbacks)


def prior_of(args: QSFTConfig, rows: Any) -> float:
    """The prior that the args name; of "returns" the mean return of the rows' actions.

    It is kept within [.01, .99]. ValueError for "returns" of a stream, which would have to be read
    to its end.
    """
    if args.prior != "returns":
        return args.prior
    if not hasattr(rows, "__len__"):
        raise ValueError('prior="returns" needs rows with a length, not a stream: give a number')
    total = count = 0.0
    for start in range(0, len(rows), 1_000):
        part = collate(rows_at(rows, range(start, min(start + 1_000, len(rows)))))
        returns = part["return_to_go"][part["action_mask"]].clamp(0, 1)
        total, count = total + float(returns.double().sum()), count + len(returns)
    return min(max(total / max(count, 1), 0.01), 0.99)


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
    """Stage one, then stage two from the same weights. ``step.q_sft_step`` is its mathematics.

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
        OSError: a folder cannot be written to.
        RuntimeError: another process trains there.
    """
    if (behavior_args.stage, value_args.stage) != STAGES:
        raise ValueError(
            f'the stages must be "behavior" and "values", in this order, not '
            f'"{behavior_args.stage}" and "{value_args.stage}"'
        )
    if os.path.abspath(behavior_args.output_dir) == os.path.abspath(value_args.output_dir):
        raise ValueError(f"both stages have the output_dir {value_args.output_dir}: give each one")

    for args in (behavior_args, value_args):
        check_stage(model, args, tokenizer)
    check_packed(train, validation)

    def run(args: QSFTConfig, model: PreTrainedModel) -> QSFTTrainer:
        trainer = QSFTTrainer(model, args, train, validation, tokenizer, callbacks=callbacks)
        trainer.run()
        return trainer

    with runs.lock_folder(behavior_args), runs.lock_folder(value_args):
        known = runs.run_settings(value_args)
        known |= {"rows": runs.rows_hash(train), "validation": runs.rows_hash(validation)}
        runs.check_same_run(Path(value_args.output_dir), known, write=False)
        first = run(behavior_args, copy.deepcopy(model))
        second = run(value_args, copy.deepcopy(first.model.behavior))
    return TrainedQSFT(
        behavior=separate(second.model.behavior.eval()),  # first: it may stand on the other's base
        q_model=separate(second.model.q.eval()),
        logs={"behavior": first.state.log_history, "values": second.state.log_history},
    )


def _whole(checkpoint):
    return named_if_damaged(checkpoint, "delete it to go on from the one before it, or anew")


def _save_weights(module: nn.Module, folder: Path) -> None:
    names, state = saved_names(module), module.state_dict()
    if len(names) == len(state):
        safetensors.torch.save_model(module, str(folder / runs.WEIGHTS))
    else:  # a frozen base, where no weights are tied, stays out
        kept = {name: state[name].contiguous() for name in names}
        safetensors.torch.save_file(kept, str(folder / runs.WEIGHTS), metadata={"format": "pt"})


def _load_weights(module: nn.Module, folder: Path) -> None:
    names = saved_names(module)
    if len(names) == len(module.state_dict()):
        safetensors.torch.load_model(module, str(folder / runs.WEIGHTS))
        return
    kept = safetensors.torch.load_file(folder / runs.WEIGHTS)
    if kept.keys() != {*names}:
        raise ValueError(f"{runs.WEIGHTS} holds other weights than those of this run")
    module.load_state_dict(kept, strict=False)
