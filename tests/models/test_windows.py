"""Layers that see a part of the episode only: run as plain transformers runs them."""

import pytest
import torch
import transformers
from transformers import BartConfig, BartForCausalLM, GPTNeoConfig, GPTNeoForCausalLM

from qsft_lite.models import character_tokenizer, check_packing, final_hidden
from qsft_lite.policy.cached import CachedPolicy

TOKENIZER = character_tokenizer("abcdefgh\n")
SMALL = {
    "vocab_size": len(TOKENIZER),
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 1,
}
MIXED = {
    "sliding_window": 4,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}
MIXTURE = {"moe_layers": [], "num_local_experts": 2, "intermediate_size_mlp": 64}
# The name in transformers, and what its layers see.
WINDOWED = {
    "Mistral": {"sliding_window": 4},
    "Gemma3": MIXED,
    "Qwen2": {"use_sliding_window": True, "max_window_layers": 1, "sliding_window": 4},
    "Qwen3": {"use_sliding_window": True, "max_window_layers": 2, "sliding_window": 4},
    "GptOss": {**MIXED, "num_local_experts": 2, "num_experts_per_tok": 1},
    "Llama4": {**MIXTURE, "attention_chunk_size": 4, "no_rope_layers": [1, 1, 0]},
    "Phi3": {"sliding_window": 5},
    "Llama": {"sliding_window": 4},  # which its code does not read
}


def windowed(name: str, seed: int = 0):
    """A model with weights large enough for every key to matter."""
    torch.manual_seed(seed)
    if name == "GPTNeo":
        config = GPTNeoConfig(
            vocab_size=len(TOKENIZER),
            hidden_size=32,
            num_layers=2,
            num_heads=4,
            attention_types=[[["global", "local"], 1]],
            window_size=4,
            max_position_embeddings=64,
        )
        model = GPTNeoForCausalLM(config).eval()
    else:
        text = "Text" if name in ("Gemma3", "Llama4") else ""
        config = getattr(transformers, f"{name}{text}Config")(**SMALL, **WINDOWED[name])
        model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(std=0.3)
    return model


@pytest.mark.parametrize("name", [*WINDOWED, "GPTNeo"])
def test_packed_episodes_are_as_plain_transformers_runs_them(name):
    model = windowed(name)
    lengths = [5, 12, 9, 3]
    row = torch.randint(3, len(TOKENIZER), (1, sum(lengths)))
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    segments = torch.repeat_interleave(torch.arange(1, 5), torch.tensor(lengths))[None]
    with torch.no_grad():
        check_packing(model)
        hidden = final_hidden(model, row, positions, segments)[0]
        for segment in range(1, 5):
            alone = model(row[segments == segment][None]).logits[0]
            logits = model.get_output_embeddings()(hidden[segments[0] == segment])
            torch.testing.assert_close(logits, alone, rtol=0, atol=2e-4)


class Recorder(CachedPolicy):
    """Plays at random and keeps the logits that it saw."""

    def log_weights(self, logits, ruled_out=None):
        self.seen.append(logits[0].clone())
        return torch.zeros_like(logits[0])


@pytest.mark.parametrize("name", WINDOWED)
def test_play_sees_what_plain_transformers_sees(name):
    model = windowed(name)
    policy = Recorder([model], TOKENIZER, max_new_tokens=5)
    histories = ["a\n", "abcdefg\n", "ab\n"]
    for _ in range(3):
        policy.seen = []
        actions = policy.act(histories)
        for row, (history, action) in enumerate(zip(histories, actions, strict=True)):
            ids = TOKENIZER("<bos>" + history + action).input_ids
            start = len(TOKENIZER(history).input_ids) + 1
            with torch.no_grad():
                plain = model(torch.tensor([ids])).logits[0]
            for step in range(len(ids) - start):
                rows = [i for i, a in enumerate(actions) if len(TOKENIZER(a).input_ids) > step]
                seen = policy.seen[step][rows.index(row)]
                torch.testing.assert_close(seen, plain[start + step - 1], rtol=0, atol=2e-4)
        answers = ["c h\n", " h\n", "h\n"]  # which keeps the rows ragged
        histories = ["".join(parts) for parts in zip(histories, actions, answers, strict=True)]
    assert max(map(len, histories)) > 20


def test_a_window_counted_from_the_end_of_a_cache_is_refused_in_play():
    policy = Recorder([windowed("GPTNeo")], TOKENIZER, max_new_tokens=2)
    policy.seen = []
    with pytest.raises(ValueError, match="window of 4 tokens from the end of a cache"):
        policy.act(["abcdef\n", "a\n"])


TINY = {"hidden_size": 16, "num_hidden_layers": 2, "vocab_size": 20}
ATTENTION = {"num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 16}
OTHER_LAYERS = {
    "Mamba": {},
    "Rwkv": {"attention_hidden_size": 16},
    "Lfm2": {**ATTENTION, "layer_types": ["conv", "full_attention"]},
    "Qwen3Next": {
        **ATTENTION,
        "layer_types": ["linear_attention", "full_attention"],
        "num_experts": 2,
        "moe_intermediate_size": 8,
        "shared_expert_intermediate_size": 8,
        "linear_num_value_heads": 2,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "head_dim": 8,
    },
}


@pytest.mark.parametrize("name", OTHER_LAYERS)
def test_layers_that_no_mask_keeps_to_an_episode_are_refused(name):
    config = getattr(transformers, f"{name}Config")(**TINY, **OTHER_LAYERS[name])
    model = getattr(transformers, f"{name}ForCausalLM")(config)
    ids = torch.zeros(1, 4, dtype=torch.long)
    for refused in (lambda: check_packing(model), lambda: final_hidden(model, ids, ids, ids)):
        with pytest.raises(ValueError, match=f"{name}ForCausalLM has layers .* no mask keeps"):
            refused()


def test_positions_that_run_on_through_a_row_are_refused():
    config = BartConfig(
        vocab_size=20, d_model=16, decoder_layers=1, decoder_attention_heads=2, decoder_ffn_dim=16
    )
    with pytest.raises(ValueError, match="Bart.* does not keep the episodes of a packed row apart"):
        check_packing(BartForCausalLM(config))


def test_a_model_that_takes_no_such_mask_is_refused_in_a_sentence():
    config = transformers.BloomConfig(vocab_size=20, hidden_size=16, n_layer=1, n_head=2)
    model = transformers.BloomForCausalLM(config)
    with pytest.raises(ValueError, match="Bloom.* cannot be run on packed rows"):
        check_packing(model)
