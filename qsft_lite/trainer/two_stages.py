"""Both stages of Q-SFT in one call.

Stage one fits the behavior policy pi_phi by cross-entropy on the action tokens. Stage two starts p
from the same weights and trains it by the loss of Q-SFT, with a moving average of p as the target
network. ``step.q_sft_step`` is the mathematics of a step of stage two, whole.
"""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any, NamedTuple

from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

from qsft_lite.trainer.config import STAGES, QSFTConfig
from qsft_lite.trainer.networks import separate
from qsft_lite.trainer.runs import check_same_run, lock_folder, rows_hash, run_settings
from qsft_lite.trainer.stage_trainer import QSFTTrainer
from qsft_lite.trainer.stages import check_stage

__all__ = ["TrainedQSFT", "train_q_sft"]


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

    def run(args: QSFTConfig, model: PreTrainedModel) -> QSFTTrainer:
        trainer = QSFTTrainer(model, args, train, validation, tokenizer, callbacks=callbacks)
        trainer.run()
        return trainer

    with lock_folder(behavior_args), lock_folder(value_args):
        known = run_settings(value_args)
        known |= {"rows": rows_hash(train), "validation": rows_hash(validation)}
        check_same_run(Path(value_args.output_dir), known, write=False)
        first = run(behavior_args, copy.deepcopy(model))
        second = run(value_args, copy.deepcopy(first.model.behavior))
    return TrainedQSFT(
        behavior=separate(second.model.behavior.eval()),  # first: it may stand on the other's base
        q_model=separate(second.model.q.eval()),
        logs={"behavior": first.state.log_history, "values": second.state.log_history},
    )
