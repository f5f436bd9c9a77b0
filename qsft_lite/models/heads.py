"""New heads on a language model's transformer, in place of its own output head."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModel, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from qsft_lite.files import named_if_damaged
from qsft_lite.models.pretrained import refuse_missing
from qsft_lite.models.reading import output_head

__all__ = ["HEADS_FILE", "HeadedModel", "NewHead"]

HEADS_FILE = "heads.safetensors"
COPY_AGAIN = "copy the whole folder again"


class HeadedModel(nn.Module):
    """A transformer without its output head, and heads from scratch, which a subclass makes.

    Called like a transformers model, it returns the subclass's ``scores`` (B, L, V) of the next
    action as logits, and past_key_values, so that a policy can run it with a cache.
    """

    def __init__(self, backbone: PreTrainedModel, vocabulary: int, *, seed: int = 0):
        super().__init__()
        self.backbone = backbone
        width = backbone.config.get_text_config().hidden_size
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.make_heads(width, vocabulary)

    @classmethod
    def on(cls, model: PreTrainedModel, *, seed: int = 0) -> HeadedModel:
        """New heads on a copy of a causal language model; the model itself stays as it is."""
        vocabulary = output_head(model).out_features
        whole = model.get_base_model() if hasattr(model, "get_base_model") else model
        return cls(copy.deepcopy(whole.base_model), vocabulary, seed=seed)

    def make_heads(self, width: int, vocabulary: int) -> None:
        """Add the heads, for hidden states of this width."""
        raise NotImplementedError

    def scores(self, hidden: torch.Tensor) -> torch.Tensor:
        """(..., H) -> (..., V)."""
        raise NotImplementedError

    @staticmethod
    def vocabulary_of(heads: dict[str, torch.Tensor]) -> int:
        """V, of saved heads."""
        raise NotImplementedError

    def forward(
        self, input_ids: torch.Tensor, *, logits_to_keep: int | torch.Tensor = 0, **options
    ) -> CausalLMOutputWithPast:
        """Scores of the next action.

        logits_to_keep: how many of the last positions, 0 for all, or which ones (n,). The other
        options are the backbone's.
        """
        outputs = self.backbone(input_ids=input_ids, **options)
        if isinstance(logits_to_keep, int):
            logits_to_keep = slice(-logits_to_keep, None)
        scores = self.scores(outputs.last_hidden_state[:, logits_to_keep])
        return CausalLMOutputWithPast(logits=scores, past_key_values=outputs.past_key_values)

    # What is asked of a transformers model

    def get_decoder(self) -> nn.Module:
        """The backbone without anything on it."""
        return self.backbone.get_decoder()

    base_model = property(lambda self: self.backbone)
    config = property(lambda self: self.backbone.config)
    device = property(lambda self: self.backbone.device)
    dtype = property(lambda self: self.backbone.dtype)

    def save_pretrained(self, folder: str | Path) -> None:
        """The backbone, adapters merged, as a transformers model, and the heads beside it."""
        folder = Path(folder)
        _without_adapters(self.backbone).save_pretrained(folder)
        state = self.state_dict()
        heads = {name: state[name] for name in state if not name.startswith("backbone.")}
        save_file(heads, folder / HEADS_FILE, metadata={"format": "pt"})

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> HeadedModel:
        """What save_pretrained wrote.

        FileNotFoundError for a folder without heads, OSError for one that lacks weights, ValueError
        for damaged heads, or those of another class.
        """
        path = Path(folder) / HEADS_FILE
        if not path.is_file():
            raise FileNotFoundError(f"{folder} has no {HEADS_FILE}: was it saved with new heads?")
        backbone, info = AutoModel.from_pretrained(
            folder, trust_remote_code=False, use_safetensors=True, output_loading_info=True
        )
        refuse_missing(info["missing_keys"], folder)
        with named_if_damaged(path, COPY_AGAIN):
            heads = load_file(path)
            model = cls(backbone, cls.vocabulary_of(heads))
            of_backbone = {f"backbone.{name}": w for name, w in backbone.state_dict().items()}
            model.load_state_dict(of_backbone | heads)
        return model


class NewHead(HeadedModel):
    """One new head of two layers, whose scores are 0 until it is trained: what a value is added to.

    It is read as a language model is: ``features`` of hidden states, then a linear head of H by V.
    """

    def make_heads(self, width: int, vocabulary: int) -> None:
        """The two layers, the last of which starts at 0."""
        self.middle = nn.Linear(width, width)
        self.output = nn.Linear(width, vocabulary, bias=False)
        nn.init.zeros_(self.output.weight)

    def features(self, hidden: torch.Tensor) -> torch.Tensor:
        """What the output layer reads of hidden states: (..., H) -> (..., H), in its own dtype."""
        return self.middle(hidden.to(self.middle.weight.dtype)).relu()

    def scores(self, hidden: torch.Tensor) -> torch.Tensor:
        """(..., H) -> (..., V)."""
        return self.output(self.features(hidden))

    def get_output_embeddings(self) -> nn.Linear:
        """The output layer."""
        return self.output

    @staticmethod
    def vocabulary_of(heads: dict[str, torch.Tensor]) -> int:
        """V."""
        return len(heads["output.weight"])


def _without_adapters(backbone: PreTrainedModel) -> PreTrainedModel:
    """The backbone, or where layers of it have adapters of peft, a copy with them merged."""
    if not any(hasattr(module, "base_layer") for module in backbone.modules()):
        return backbone
    backbone = copy.deepcopy(backbone)
    for name, module in list(backbone.named_modules()):
        if hasattr(module, "base_layer"):
            module.merge()
            backbone.set_submodule(name, module.base_layer)
    return backbone
