"""Training in two stages, on transformers.Trainer."""

from qsft_lite.trainer.config import QSFTConfig
from qsft_lite.trainer.paired_step import paired_step
from qsft_lite.trainer.stage_trainer import QSFTTrainer, StageTrainer, TrainedQSFT, train_q_sft
from qsft_lite.trainer.stages import BehaviorStage, PairedStage, Stage, ValueStage
from qsft_lite.trainer.step import q_sft_step

__all__ = [
    "BehaviorStage",
    "PairedStage",
    "QSFTConfig",
    "QSFTTrainer",
    "Stage",
    "StageTrainer",
    "TrainedQSFT",
    "ValueStage",
    "paired_step",
    "q_sft_step",
    "train_q_sft",
]
