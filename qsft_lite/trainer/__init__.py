"""Training in two stages, on transformers.Trainer."""

from qsft_lite.trainer.stage_trainer import (
    QSFTConfig,
    QSFTTrainer,
    TrainedQSFT,
    ValueStage,
    q_sft_step,
    train_q_sft,
)

__all__ = [
    "QSFTConfig",
    "QSFTTrainer",
    "TrainedQSFT",
    "ValueStage",
    "q_sft_step",
    "train_q_sft",
]
