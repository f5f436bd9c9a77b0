"""What the trainers here share on top of transformers.Trainer."""

from __future__ import annotations

from transformers import PrinterCallback, Trainer

from qsft_lite.trainer.optimizer import muon
from qsft_lite.trainer.runs import bytes_of, check_room, named_if_damaged

__all__ = ["MuonTrainer"]


class MuonTrainer(Trainer):
    """transformers.Trainer with Muon where ``args.muon`` asks for it.

    With disable_tqdm it prints nothing: what was logged is in ``state.log_history``.

    Raises:
        OSError: checkpoints do not fit into the output folder.
        ValueError: in train, a damaged checkpoint; the message names it.
    """

    def __init__(self, **options):
        check_room(options["args"], *bytes_of(options["model"]))
        super().__init__(**options)
        self.remove_callback(PrinterCallback)

    def create_optimizer(self, model=None):
        """AdamW as transformers makes it, or Muon."""
        if self.optimizer is None and self.args.muon:
            self.optimizer = muon(self.model, self.args)
        return super().create_optimizer(model)

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        with _whole(resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint):
        with _whole(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_rng_state(self, checkpoint):
        with _whole(checkpoint):
            super()._load_rng_state(checkpoint)


def _whole(checkpoint):
    return named_if_damaged(checkpoint, "delete it to go on from the one before it, or anew")
