"""The stages of training as modules: which models they hold, their loss, what moves between steps.

Whatever a stage holds is in one module, so the Trainer's checkpoints, its several processes and its
resuming hold all of it. ILQL's and CQL's stage is in ``baselines.heads``, Q-Transformer's in
``baselines.q_transformer``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from qsft_lite.data import collate
from qsft_lite.loss import Backup
from qsft_lite.models import (
    NewHead,
    check_head,
    check_packing,
    dummy_id,
    image_tokens,
    output_head,
    pixel_rule,
)
from qsft_lite.models.networks import move_average, twin
from qsft_lite.trainer.config import QSFTConfig
from qsft_lite.trainer.paired_step import behavior_columns, paired_step
from qsft_lite.trainer.step import behavior_step, q_sft_step

__all__ = ["BehaviorStage", "PairedStage", "Stage", "ValueStage", "check_images", "check_stage"]


class Stage(nn.Module):
    """What a StageTrainer trains; every method of training is a subclass."""

    def forward(self, statistics: bool = False, **batch: torch.Tensor) -> dict[str, torch.Tensor]:
        """The "loss" of a batch of packed rows, as data.collate gives them: a scalar.

        It is the mean over the batch's action tokens, 0 where there are none. With statistics also
        what to log about them, scalars by name; none without action tokens.
        """
        raise NotImplementedError

    def before_step(self, step: int, max_steps: int) -> None:
        """Called before step number ``step``, from 0, of ``max_steps``."""

    def after_step(self) -> None:
        """Called after each step of the optimizer, before anything is saved."""

    def columns(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor] | None:
        """What is the same whenever a row is met, to be kept, see ``behavior_cache``; or None."""

    def activation_checkpointing_enable(self, **options: Any) -> None:
        """Recompute activations of what is trained in the backward pass, and do not keep them."""
        for model in self.children():
            if any(weight.requires_grad for weight in model.parameters()):
                old = getattr(model, "gradient_checkpointing_enable", None)
                getattr(model, "activation_checkpointing_enable", old)(**options)

    gradient_checkpointing_enable = activation_checkpointing_enable  # an older name of it


class BehaviorStage(Stage):
    """Cloning, which is stage one: the behavior policy alone."""

    def __init__(self, behavior: PreTrainedModel):
        super().__init__()
        self.behavior = behavior

    def forward(self, statistics: bool = False, **batch: torch.Tensor) -> dict[str, torch.Tensor]:
        """``behavior_step``."""
        return {"loss": behavior_step(self.behavior, batch)}


class ValueStage(Stage):
    """Q-SFT, which is stage two: p_theta (q), its moving average, and the behavior policy pi_phi.

    behavior: perhaps a twin of q; frozen here, unless the config trains it along. dummy: its token
    id, or None for the uniform leftover.
    """

    def __init__(
        self, q: PreTrainedModel, behavior: PreTrainedModel, config: QSFTConfig, dummy: int | None
    ):
        super().__init__()
        self.q = q
        self.target = twin(q, "average").requires_grad_(False)
        self.behavior = behavior
        # Of a policy that is trained, the frozen part stays frozen; all of it, if it was frozen.
        if not config.train_behavior or not any(p.requires_grad for p in behavior.parameters()):
            behavior.requires_grad_(config.train_behavior)
        self.settings = config
        self.dummy = dummy
        self.backup = config.as_backup()

    def forward(self, statistics: bool = False, **batch: torch.Tensor) -> dict[str, torch.Tensor]:
        """``q_sft_step``."""
        options = {"clamp": self.settings.clamp, "train_behavior": self.settings.train_behavior}
        options |= {"backup": self.backup, "dummy": self.dummy, "statistics": statistics}
        loss, found = q_sft_step(self.q, self.target, self.behavior, batch, **options)
        return {"loss": loss, **found}

    def train(self, mode: bool = True) -> ValueStage:
        """As ever, but what is not trained never drops out."""
        super().train(mode)
        self.target.eval()
        if not self.settings.train_behavior:
            self.behavior.eval()
        return self

    def before_step(self, step: int, max_steps: int) -> None:
        """The returns that followed in the data come first, where that is asked for."""
        first = step < self.settings.returns_first * max_steps
        self.backup = Backup("returns") if first else self.settings.as_backup()

    def after_step(self) -> None:
        """Move the target network."""
        move_average(self.target, self.q, self.settings.target_rate)


class PairedStage(Stage):
    """Q-SFT with a dummy for every action: q, its moving average, and the behavior policy, frozen.

    q: a language model that begins as the behavior, or a NewHead. prior: its value at first. It is
    written into the config of q, so that whoever reads values has it.
    """

    def __init__(
        self,
        q: PreTrainedModel | NewHead,
        behavior: PreTrainedModel,
        config: QSFTConfig,
        prior: float,
    ):
        super().__init__()
        self.q = q
        self.q.config.q_sft_prior = prior
        self.backup = self.main_backup = config.as_backup()
        self.target = None  # nothing is asked of it
        if self.backup.kind not in ("returns", "random"):
            self.target = twin(q, "average").requires_grad_(False)
        self.behavior = behavior.requires_grad_(False)
        self.settings = config
        self.prior = prior

    def forward(self, statistics: bool = False, **batch: torch.Tensor) -> dict[str, torch.Tensor]:
        """``paired_step``."""
        options = {"clamp": self.settings.clamp, "statistics": statistics, "prior": self.prior}
        networks = self.q, self.target, self.behavior
        loss, found = paired_step(*networks, batch, backup=self.backup, **options)
        return {"loss": loss, **found}

    def train(self, mode: bool = True) -> PairedStage:
        """As ever, but what is not trained never drops out."""
        super().train(mode)
        self.behavior.eval()
        if self.target is not None:
            self.target.eval()
        return self

    def before_step(self, step: int, max_steps: int) -> None:
        """The returns that followed in the data come first, where that is asked for."""
        first = step < self.settings.returns_first * max_steps
        self.backup = Backup("returns") if first else self.main_backup

    def after_step(self) -> None:
        """Move the target network."""
        if self.target is not None:
            move_average(self.target, self.q, self.settings.target_rate)

    def columns(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor] | None:
        """What the frozen behavior policy says of a batch."""
        if not self.settings.cache_behavior:
            return None
        return behavior_columns(self.behavior, batch, self.main_backup)


def check_stage(
    model: PreTrainedModel, args: QSFTConfig, tokenizer: PreTrainedTokenizerBase | None
) -> None:
    """Refuse what a stage cannot train with, before anything is done.

    Raises:
        TypeError: no model, such as its name, or one without a linear head.
        ValueError: a head with a bias, or a model that changes its logits after the head; one that
            does not keep packed episodes apart; nothing to train; learned prompts; no dummy with
            leftover="dummy".
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


def check_images(model: nn.Module | None, rows: Any) -> None:
    """ValueError for packed rows whose pictures are not encoded as the model sees them.

    The first row that has some is looked at: all pictures of a data set have one size.
    """
    if not hasattr(rows, "__len__") or not len(rows) or "images" not in rows[0]:
        return
    row = next((rows[i] for i in range(len(rows)) if len(rows[i]["images"])), None)
    if row is None:
        return
    name = type(model).__name__
    tokens = 0 if model is None else image_tokens(model)
    if not tokens:
        raise ValueError(
            f"the episodes have pictures, and {name} sees none: take a model that does "
            "(small_vision_model, load_model), or say how it reads them (set_image_rule)"
        )
    shown = int((torch.as_tensor(row["input_ids"]) == model.config.image_token_id).sum())
    if shown != tokens * len(row["images"]):
        raise ValueError(
            f"a row has {len(row['images'])} pictures and {shown} image tokens, and {name} has "
            f"{tokens} for each: encode with image_tokens=models.image_tokens(model)"
        )
    collate([row], pixel_rule(model))
