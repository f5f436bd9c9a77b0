"""Training of new heads on transformers.Trainer."""

from __future__ import annotations

from typing import Any

import torch
from transformers import TrainerCallback

from qsft_lite.baselines.heads import HeadLearner
from qsft_lite.data.packing import check_packed, collate
from qsft_lite.models import check_packing
from qsft_lite.trainer.base_trainer import MuonTrainer
from qsft_lite.trainer.config import QSFTConfig

__all__ = ["HeadTrainer"]


class _MoveTarget(TrainerCallback):
    """Moves the target heads after each optimizer step, before anything is saved."""

    def on_step_end(self, args, state, control, model=None, **others):
        model.move_target()


class HeadTrainer(MuonTrainer):
    """transformers.Trainer for a HeadLearner, on packed rows (``data.pack``).

    The loss is the mean over the action tokens of a step, whatever its batches and processes. Each
    logged line has the learner's statistics of its last batch beside the loss.
    """

    def __init__(
        self, learner: HeadLearner, args: QSFTConfig, train_dataset: Any, eval_dataset: Any
    ):
        check_packed(train_dataset, eval_dataset)
        check_packing(learner.values.backbone)
        super().__init__(
            model=learner,
            args=args,
            data_collator=_collate,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            callbacks=[_MoveTarget()],
        )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the statistics to what is logged about training."""
        if "loss" in logs:
            logs = {**logs, **self.model.statistics()}
        super().log(logs, start_time)

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """The loss alone: there are no predictions to gather."""
        return super().prediction_step(model, inputs, True, ignore_keys)


def _collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """data.collate, and the labels by which the Trainer counts the action tokens of a step."""
    batch = collate(rows)
    batch["labels"] = batch["input_ids"].masked_fill(~batch["action_mask"], -100)
    return batch
