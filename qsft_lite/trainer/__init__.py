"""Training in two stages, on transformers.Trainer."""

from qsft_lite.trainer.config import QSFTConfig
from qsft_lite.trainer.stage_trainer import QSFTTrainer, StageTrainer
from qsft_lite.trainer.stages import BehaviorStage, Stage, ValueStage
from qsft_lite.trainer.step import q_sft_step
from qsft_lite.trainer.two_stages import TrainedQSFT, train_q_sft

__all__ = [
    "BehaviorStage",
    "QSFTConfig",
    "QSFTTrainer",
    "Stage",
    "StageTrainer",
    "TrainedQSFT",
    "ValueStage",
    "q_sft_step",
    "train_q_sft",
]
