"""What the trainers here share on top of transformers.Trainer."""

from __future__ import annotations

from transformers import PrinterCallback, Trainer

from qsft_lite.optimizer import muon

__all__ = ["MuonTrainer"]


class MuonTrainer(Trainer):
    """transformers.Trainer with Muon where ``args.muon`` asks for it.

    With disable_tqdm it prints nothing: what was logged is in ``state.log_history``.
    """

    def __init__(self, **options):
        super().__init__(**options)
        self.remove_callback(PrinterCallback)

    def create_optimizer(self, model=None):
        """AdamW as transformers makes it, or Muon."""
        if self.optimizer is None and self.args.muon:
            self.optimizer = muon(self.model, self.args)
        return super().create_optimizer(model)
