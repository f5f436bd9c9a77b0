"""A language model as the oracle: tiny models of both kinds, built here and read from a folder."""

import copy

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    T5Config,
    T5ForConditionalGeneration,
)

from qsft_lite import envs
from qsft_lite.models import small_model, word_tokenizer
from qsft_lite.tasks.twenty_questions.oracle import PROMPT, LanguageModelOracle

# Every word with the space or the newline that may end it.
WORDS = [
    word + end
    for word in (PROMPT + " guitar piano Is it an animal? made of wood? Yes No").split()
    for end in (" ", "\n", "")
]


@pytest.fixture
def tokenizer():
    return word_tokenizer([*WORDS, " "])


@pytest.fixture(params=["causal", "seq2seq"])
def folder(request, tmp_path, tokenizer):
    if request.param == "causal":
        model = small_model(tokenizer, layers=1, width=16, heads=2, context=64, seed=0)
    else:
        torch.manual_seed(0)
        config = T5Config(
            vocab_size=len(tokenizer),
            d_model=16,
            d_kv=8,
            d_ff=16,
            num_layers=1,
            num_heads=2,
            pad_token_id=tokenizer.pad_token_id,
            decoder_start_token_id=tokenizer.pad_token_id,
        )
        model = T5ForConditionalGeneration(config)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


def test_a_folder_of_either_kind_becomes_an_oracle(folder):
    oracle = LanguageModelOracle.from_pretrained(folder)
    assert not oracle.model.training
    for name in ("guitar", "piano"):
        for question in ("Is it an animal?", "Is it made of wood?"):
            yes, no = (oracle.log_probability(name, question, word) for word in ("Yes", "No"))
            assert yes < 0 and no < 0
            assert oracle.answer(name, question) == (yes > no)
            assert oracle.answer(name, question) == oracle.answer(name, question)


def test_the_probability_is_that_of_the_model(folder):
    oracle = LanguageModelOracle.from_pretrained(folder)
    prompt = PROMPT.format(name="guitar", question="Is it an animal?")
    asked = oracle.tokenizer(prompt, return_tensors="pt")["input_ids"]
    if oracle.model.config.is_encoder_decoder:
        model = AutoModelForSeq2SeqLM.from_pretrained(folder)
        said = oracle.tokenizer("Yes")["input_ids"]
        start = torch.tensor([[model.config.decoder_start_token_id]])
        logits = model(input_ids=asked, decoder_input_ids=start).logits[0, -1]
        expected = logits.log_softmax(-1)[said[0]].item()
    else:
        model = AutoModelForCausalLM.from_pretrained(folder)
        said = oracle.tokenizer(" Yes")["input_ids"]
        expected, tokens = 0.0, asked
        for token in said:
            expected += model(tokens).logits[0, -1].log_softmax(-1)[token].item()
            tokens = torch.cat([tokens, torch.tensor([[token]])], dim=1)
    found = oracle.log_probability("guitar", "Is it an animal?", "Yes")
    assert found == pytest.approx(expected, abs=1e-5)


def test_a_model_is_asked_once_and_may_change_its_mind_by_its_weights(tokenizer):
    model = small_model(tokenizer, layers=1, width=16, heads=2, context=64, seed=0)
    oracle = LanguageModelOracle(model, tokenizer)
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    first = oracle.answer("guitar", "Is it an animal?")
    assert len(calls) == 2 and oracle.answer("guitar", "Is it an animal?") == first
    assert len(calls) == 2 and copy.deepcopy(oracle) is oracle
    # Tokens of the two answers in each other's place turn the answer around.
    yes, no = (tokenizer(word)["input_ids"][0] for word in ("Yes", "No"))
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    with torch.no_grad():
        model.lm_head.weight[[yes, no]] = model.lm_head.weight[[no, yes]]
    changed = LanguageModelOracle(model, tokenizer).answer("guitar", "Is it an animal?")
    assert changed != first


def test_the_game_asks_it_everything_but_guesses(folder):
    oracle = LanguageModelOracle.from_pretrained(folder)
    env = envs.make("twenty_questions", oracle=oracle)
    env.reset(options={"object": "guitar"})
    question = "Is it made of wood?"
    expected = "Yes.\n" if oracle.answer("guitar", question) else "No.\n"
    assert env.step(question + "\n")[0] == expected
    assert env.step("Is it a piano?\n")[:3] == ("No.\n", -1.0, False)
    assert env.step("Is it a guitar?\n")[:3] == ("Yes.\n", 0.0, True)


def test_a_prompt_without_its_fields_is_refused(tokenizer):
    model = small_model(tokenizer, layers=1, width=16, heads=2, context=64, seed=0)
    with pytest.raises(ValueError, match="question"):
        LanguageModelOracle(model, tokenizer, prompt="Is it? {name}")
