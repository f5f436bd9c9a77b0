"""QSFTConfig: every setting of a stage of training."""

from __future__ import annotations

from dataclasses import dataclass, field
from numbers import Integral

import torch
from transformers import TrainingArguments

from qsft_lite.loss import Backup
from qsft_lite.loss.paired import prior_logit

__all__ = ["QSFTConfig"]

STAGES = ("behavior", "values")
LEFTOVERS = ("paired", "dummy", "uniform")
READ_OUTS = ("logits", "head")


@dataclass
class QSFTConfig(TrainingArguments):
    """TrainingArguments of transformers, and what Q-SFT adds to them.

    The discount is no option here: it is a column of the data (``data.encode``). Defaults that
    differ from transformers' keep runs quiet, resumable and exact.

    stage: "behavior" (one) or "values" (two).
    leftover: where the loss puts 1 - y: on a dummy of the action's own ("paired", ours, see
        ``loss.paired``), on one "dummy" token for all actions (section 4.1), or "uniform" over all
        other tokens (Eq. 3, what the paper trains).
    prior: the paired value where training has changed nothing, in (0, 1); "returns" for the mean of
        the returns in the data. It is kept in the config of the network, as q_sft_prior.
    values: what the paired value is read from: the "logits" of the network (the method), or a new
        "head" of two layers (the control: is it the reuse of the logits that helps?).
    backup: the value of the next state. Of the paired form, over the actions that the behavior
        policy gives at least ``support``: "behavior" (their expectation, by default), "support"
        (the largest), "policy" (that of the extracted policy); "max" is the largest of all tokens,
        and "recorded" that of the next action as it was recorded, which is SARSA: without any work
        over the vocabulary, and noisier, so that it needs more steps. Of the other
        forms see ``loss.bellman_target``: "max" (the paper's), "support" (by default), "behavior",
        "policy". Two more are controls: "returns" uses the discounted return that followed in the
        data, and "random" a uniform random y, which is label smoothing.
    support: least pi of an action that the backups trust, see there.
    returns_first: share of the steps, at the start, whose targets are the returns that followed in
        the data, whatever the backup. Ours: backups start from values that say nothing yet, and a
        target network takes many steps to forget them.
    beta, score: of the extracted policy, for backup="policy".
    target_rate: alpha of theta_bar <- (1 - alpha) theta_bar + alpha theta, after each step.
    train_behavior: whether pi_phi goes on training beside p, by its own cross-entropy. Not of the
        paired form, whose reference must stand still.
    cache_behavior: whether the paired form reads the behavior policy once for all rows that are met
        more than once, see ``trainer.behavior_cache``; the numbers are the same.
    clamp: whether to clamp targets to [0, 1]; otherwise one outside stops the training. Each
        sampled target is clamped by itself: where those of one action lie on both sides of 1, their
        mean falls below the clamped mean, which is what ``tabular.q_sft`` has.
    fully_shard: divide the networks among the processes (FSDP2), see ``trainer.sharding``; for
        models that do not fit on one GPU. The numbers are the same, up to rounding.
    compile_layers: torch.compile for the layers while they are trained (``trainer.compiling``);
        needs a C++ compiler. The numbers are the same, up to rounding.
    muon: Muon for the layers' matrices (``optimizer.MuonAdamW``) in place of AdamW throughout;
        for small models from scratch.
    early_stopping_patience: end stage one after so many evaluations (each ``eval_steps``) without
        a lower held-out loss, and take the best weights.
    """

    stage: str = "values"
    leftover: str = "paired"
    prior: float | str = 0.5
    values: str = "logits"
    backup: str | None = None
    support: float = 1e-3
    returns_first: float = 0.0
    beta: float = 1.0
    score: str = "ratio"
    target_rate: float = 0.005
    train_behavior: bool = False
    cache_behavior: bool = True
    clamp: bool = True
    fully_shard: bool = False
    compile_layers: bool = False
    muon: bool = False
    early_stopping_patience: int | None = None

    logging_steps: float = 50
    report_to: None | str | list[str] = "none"
    save_total_limit: int | None = 2
    logging_nan_inf_filter: bool = False  # it would hide what has to stop the training
    remove_unused_columns: bool | None = False
    ddp_find_unused_parameters: bool | None = False
    restore_callback_states_from_checkpoint: bool = True
    dataloader_pin_memory: bool = field(default_factory=torch.cuda.is_available)

    def __post_init__(self):
        known = (("stage", STAGES), ("leftover", LEFTOVERS), ("values", READ_OUTS))
        for name, choices in known:
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be one of {choices}, not {getattr(self, name)!r}")
        if self.backup is None:
            self.backup = "behavior" if self.leftover == "paired" else "support"
        self.as_backup()
        self._check_form()
        if not 0 < self.target_rate <= 1:
            raise ValueError(f"target_rate must lie in (0, 1], not {self.target_rate}")
        if not 0 <= self.returns_first <= 1:
            raise ValueError(f"returns_first must lie in [0, 1], not {self.returns_first}")
        self._check_whole_numbers()
        if self.fsdp or self.fsdp_config:
            raise ValueError("fsdp is not supported here: give fully_shard=True, which is FSDP2")
        if self.torch_compile or self.torch_compile_backend or self.torch_compile_mode:
            raise ValueError("torch_compile is not supported here: give compile_layers=True")
        refused = ("label_smoothing_factor", "neftune_noise_alpha", "use_liger_kernel")
        for name in (*refused, "save_only_model"):  # whose checkpoints no run can go on from
            if getattr(self, name, None):
                raise ValueError(f"{name} is not supported here: leave it out")
        if self.early_stopping_patience is not None:
            if self.stage != "behavior":
                raise ValueError(
                    "early_stopping_patience is for stage one: in stage two the targets move, and "
                    "so does the loss"
                )
            self.eval_strategy = self.save_strategy = "steps"
            self.save_steps = self.eval_steps or self.logging_steps
            self.load_best_model_at_end = True
            self.metric_for_best_model, self.greater_is_better = "eval_loss", False
        super().__post_init__()
        if self.fp16 and self.device.type == "cpu":
            raise ValueError("fp16 does nothing on a CPU: take bf16=True, or neither")
        if self.fully_shard:
            self._check_sharding()

    @property
    def place_model_on_device(self) -> bool | None:
        """Not of a model that is divided: each process moves its part. None: as transformers do."""
        return False if self.fully_shard else None

    def as_backup(self) -> Backup:
        """The backup that these settings name. ValueError for one that cannot be."""
        return Backup(self.backup, self.support, self.beta, self.score)

    def _check_sharding(self) -> None:
        """ValueError for what does not go with fully_shard."""
        if self.world_size < 2:
            raise ValueError(
                "fully_shard=True divides the networks among processes, and there is one: start "
                "several with torchrun --nproc_per_node, or leave it out"
            )
        for name in ("fp16", "compile_layers", "auto_find_batch_size"):
            if getattr(self, name):
                raise ValueError(f"{name} does not go with fully_shard=True: leave one of them out")

    def _check_form(self) -> None:
        """ValueError for settings that the form of the loss does not have."""
        if self.backup == "behavior" and self.leftover == "uniform":
            raise ValueError('backup="behavior" needs a dummy: by Eq. 3 it is always 1')
        if self.leftover == "paired":
            if self.prior != "returns":
                prior_logit(self.prior)
            if self.train_behavior:
                raise ValueError(
                    'train_behavior is not for leftover="paired": its values are what is added to '
                    "the logits of the behavior policy, which must stand still. Train that longer "
                    "in stage one"
                )
            return
        for name, meant in (("backup", "recorded"), ("values", "head"), ("score", "paired")):
            if getattr(self, name) == meant:
                raise ValueError(f'{name}="{meant}" is for leftover="paired" alone')

    def _check_whole_numbers(self) -> None:
        """ValueError for counts that are no whole numbers of at least 1."""
        for name in (
            "max_steps",
            "per_device_train_batch_size",
            "per_device_eval_batch_size",
            "gradient_accumulation_steps",
            "early_stopping_patience",
        ):
            value = getattr(self, name)
            if value is None or (name == "max_steps" and value == -1):  # then epochs are counted
                continue
            if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}")
            setattr(self, name, int(value))
        if self.max_steps == -1 and not self.num_train_epochs > 0:
            raise ValueError(f"num_train_epochs must be above 0, not {self.num_train_epochs!r}")
