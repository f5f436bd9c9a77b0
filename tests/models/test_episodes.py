"""Attention within episodes: the same numbers as with a mask over packed rows, for fewer pairs."""

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from qsft_lite.models import episodes, final_hidden, reading
from qsft_lite.models.heads import NewHead

FAMILIES = ("Llama", "Mistral", "Qwen2", "Qwen3")
LENGTH = 150


def network(family: str, **options):
    """A model with weights large enough for every token to matter, and fewer keys than queries."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(
        vocab_size=30,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        initializer_range=0.3,
        attn_implementation="sdpa",
        **{"sliding_window": None} | options,
    )
    return getattr(transformers, f"{family}ForCausalLM")(config).double().eval()


def packed(sizes: list[int], rows: int = 2, length: int = LENGTH):
    """input_ids, position_ids and segment_ids of rows with these episodes, and padding."""
    order = [sizes, list(reversed(sizes))] * rows
    segments, positions = torch.zeros(rows, length, dtype=torch.int64), []
    for row, own in enumerate(order[:rows]):
        filled = 0
        place = []
        for number, size in enumerate(own, start=1):
            segments[row, filled : filled + size] = number
            place += range(size)
            filled += size
        positions.append([*place, *range(length - filled)])
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(30, (rows, length), generator=generator)
    return ids, torch.tensor(positions), segments


def with_mask(monkeypatch):
    monkeypatch.setattr(reading, "attends_by_episode", lambda *_: False)


def hidden_and_gradient(model, batch):
    model.zero_grad()
    hidden = final_hidden(model, *batch)
    (hidden * torch.linspace(-1, 1, hidden.numel()).view_as(hidden)).sum().backward()
    gradient = torch.cat([w.grad.flatten() for w in model.parameters() if w.grad is not None])
    return hidden.detach(), gradient


@given(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.integers(1, 3))
@settings(deadline=None)
def test_every_token_has_one_slot_in_a_row_of_its_own_episode(sizes, rows):
    while sum(sizes) > LENGTH:
        sizes = sizes[1:]
    _, positions, segments = packed(sizes, rows)
    groups = episodes.group_episodes(segments)
    assert sorted(groups.slots.tolist()) == sorted(
        {*range(len(groups.places))} - {*groups.padding.tolist()}
    )
    assert torch.equal(groups.places[groups.slots], torch.arange(segments.numel()))
    at = 0
    flat_segments, flat_positions = segments.flatten(), positions.flatten()
    for count, length in groups.shapes:
        for first in range(at, at + count * length, length):
            here = groups.places[first : first + length]
            inside = here[~torch.isin(torch.arange(first, first + length), groups.padding)]
            assert len({*flat_segments[inside].tolist()}) == 1
            assert flat_positions[inside].tolist() == [*range(len(inside))]
            assert length <= episodes.LONGER * len(inside)
        at += count * length
    assert at == len(groups.places)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("sizes", [[5] * 30, [50, 3, 3, 60, 20, 1], [40, 41, 42]])
def test_hidden_states_and_gradients_are_those_of_a_mask(family, sizes, monkeypatch):
    model, batch = network(family), packed(sizes)
    pairs = []
    counted = episodes.group_episodes
    monkeypatch.setattr(
        reading, "group_episodes", lambda ids: pairs.append(counted(ids)) or pairs[-1]
    )
    hidden, gradient = hidden_and_gradient(model, batch)
    assert pairs and 2 * pairs[0].pairs <= batch[0].numel() * LENGTH  # it was used
    assert model.config._attn_implementation == "sdpa"
    with_mask(monkeypatch)
    expected, its_gradient = hidden_and_gradient(model, batch)
    torch.testing.assert_close(hidden, expected, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(gradient, its_gradient, rtol=1e-7, atol=1e-9)


def test_a_new_head_and_activations_computed_again_have_the_same_numbers(monkeypatch):
    model, batch = network("Llama"), packed([5] * 30)
    head = NewHead.on(model).double().train()
    hidden, gradient = hidden_and_gradient(head, batch)
    model.train()
    plain = hidden_and_gradient(model, batch)
    old = model.gradient_checkpointing_enable
    getattr(model, "activation_checkpointing_enable", old)()
    again = hidden_and_gradient(model, batch)
    for found, expected in zip(again, plain, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-9)
    with_mask(monkeypatch)
    expected, its_gradient = hidden_and_gradient(head, batch)
    torch.testing.assert_close(hidden, expected, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(gradient, its_gradient, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("Mistral", {"sliding_window": 4}),
        ("Qwen2", {"use_sliding_window": True, "max_window_layers": 1, "sliding_window": 4}),
        ("GPT2", {}),
    ],
)
def test_windows_and_other_families_keep_their_mask(family, options):
    if family == "GPT2":
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config(n_embd=16, n_head=2))
    else:
        model = network(family, **options)
    assert not episodes.attends_by_episode(model.get_decoder(), 10_000)
    assert not episodes.attends_by_episode(lambda **_: None, 10_000)  # a decoder may be anything


def test_after_an_error_the_model_attends_as_before(monkeypatch):
    model, batch = network("Llama"), packed([5] * 30)

    def broken(*_, **__):
        raise MemoryError("no room")

    monkeypatch.setattr(episodes, "sdpa_attention_forward", broken)
    with pytest.raises(MemoryError, match="no room"):
        final_hidden(model, *batch)
    assert model.config._attn_implementation == "sdpa"
