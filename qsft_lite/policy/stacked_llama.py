"""Several Llama models of one shape, run in one pass.

A small model spends its time on calls, not on arithmetic, and pi_hat needs two of them. Stacked,
each matrix product is one call for all models, and the projections that read the same input are one
product. The norms' weights are folded into the matrices behind them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch.nn.functional import rms_norm, scaled_dot_product_attention, silu
from transformers import LlamaForCausalLM
from transformers.cache_utils import Cache

__all__ = ["StackedLlama"]

LARGEST = 50_000_000
"""Parameters of all models: the stack is a copy, and large models gain little from it."""

SHAPE = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "rms_norm_eps",
    "max_position_embeddings",
    "rope_parameters",
    "rope_theta",
    "rope_scaling",
)


class _Layer(NamedTuple):
    """Weights of one layer, the models stacked in front: (models, in, out)."""

    query_key_value: torch.Tensor
    output: torch.Tensor
    gate_up: torch.Tensor
    down: torch.Tensor


class StackedLlama:
    """A copy of the models' weights, and their forward pass.

    Args:
        models: for which ``fits`` is true.
    """

    def __init__(self, models: Sequence[LlamaForCausalLM]):
        self.models = len(models)
        self.config = models[0].config
        self.rotary = models[0].model.rotary_emb  # without weights
        layers = zip(*(model.model.layers for model in models), strict=True)
        with torch.no_grad():
            self.embedding = torch.stack([model.model.embed_tokens.weight for model in models])
            self.layers = [_stack_layer(layer) for layer in layers]
            self.head = torch.stack(
                [(model.lm_head.weight * model.model.norm.weight).T for model in models]
            )

    @staticmethod
    def fits(models: Sequence[Any]) -> bool:
        """Whether these models can be stacked: plain Llama models of one shape, and small."""
        first = models[0]
        return (
            all(type(model) is LlamaForCausalLM and _is_plain(model) for model in models)
            and len({(model.dtype, model.device) for model in models}) == 1
            and all(
                getattr(model.config, name, None) == getattr(first.config, name, None)
                for model in models
                for name in SHAPE
            )
            and sum(model.num_parameters() for model in models) <= LARGEST
        )

    def __call__(
        self,
        input_ids: torch.Tensor,
        allowed: torch.Tensor,
        position_ids: torch.Tensor,
        cache: Cache,
        logits_to_keep: torch.Tensor,
    ) -> torch.Tensor:
        """Logits (models, B, len(logits_to_keep), V).

        Args:
            input_ids: (B, T), the same for all models.
            allowed: (B, 1, T, keys), bool.
            position_ids: (B, T).
            cache: its update is given (models * B, heads, T, size) of a layer, the first model's
                rows first.
            logits_to_keep: (n,), which of the T columns.
        """
        batch, length = input_ids.shape
        config, models = self.config, self.models
        heads, key_heads = config.num_attention_heads, config.num_key_value_heads
        shared, size, width = heads // key_heads, config.head_dim, config.hidden_size
        hidden = self.embedding[:, input_ids].view(models, batch * length, width)
        cos, sin = (part[:, :, None] for part in self.rotary(hidden, position_ids))
        # Query heads that share keys become further queries of one head.
        allowed = allowed.repeat(models, 1, shared, 1)

        for index, layer in enumerate(self.layers):
            mixed = self._normed(hidden) @ layer.query_key_value
            mixed = mixed.view(models, batch, length, heads + 2 * key_heads, size)
            rotated, value = mixed.split((heads + key_heads, key_heads), dim=3)
            first, second = rotated.chunk(2, dim=-1)
            rotated = rotated * cos + torch.cat((-second, first), dim=-1) * sin
            query, key = rotated.split((heads, key_heads), dim=3)
            query, key, value = (part.flatten(0, 1).transpose(1, 2) for part in (query, key, value))
            key, value = cache.update(key, value, index)
            query = query.reshape(models * batch, key_heads, shared * length, size)
            attended = scaled_dot_product_attention(query, key, value, attn_mask=allowed)
            attended = attended.reshape(models * batch, heads, length, size).transpose(1, 2)
            attended = attended.reshape(models, batch * length, heads * size)
            hidden = torch.baddbmm(hidden, attended, layer.output)
            gate, up = (self._normed(hidden) @ layer.gate_up).chunk(2, dim=-1)
            hidden = torch.baddbmm(hidden, silu(gate) * up, layer.down)

        hidden = hidden.view(models, batch, length, width)[:, :, logits_to_keep]
        logits = self._normed(hidden).flatten(1, 2) @ self.head
        return logits.view(models, batch, len(logits_to_keep), -1)

    def _normed(self, hidden: torch.Tensor) -> torch.Tensor:
        return rms_norm(hidden, hidden.shape[-1:], eps=self.config.rms_norm_eps)


def _stack_layer(layers: Sequence[Any]) -> _Layer:
    """One layer of each model, as one."""
    parts = []
    for layer in layers:
        attention, feed_forward = layer.self_attn, layer.mlp
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        inner = (feed_forward.gate_proj, feed_forward.up_proj)
        attention_norm = layer.input_layernorm.weight
        feed_forward_norm = layer.post_attention_layernorm.weight
        parts.append(
            _Layer(
                (torch.cat([part.weight for part in projections]) * attention_norm).T,
                attention.o_proj.weight.T,
                (torch.cat([part.weight for part in inner]) * feed_forward_norm).T,
                feed_forward.down_proj.weight.T,
            )
        )
    return _Layer(*(torch.stack(weights) for weights in zip(*parts, strict=True)))


def _is_plain(model: LlamaForCausalLM) -> bool:
    """Whether the model is what its configuration says, with nothing added (biases, LoRA)."""
    config = model.config
    size = config.head_dim * (config.num_attention_heads + config.num_key_value_heads)
    layer = config.hidden_size * (2 * size + 3 * config.intermediate_size + 2)
    matrices = 1 if config.tie_word_embeddings else 2
    rows = matrices * config.vocab_size + 1
    expected = config.num_hidden_layers * layer + config.hidden_size * rows
    return config.hidden_act == "silu" and model.num_parameters() == expected
