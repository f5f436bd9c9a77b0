"""Chats end to end: the tokens of the chat template, in training and in play."""

import json
import warnings

import datasets
import pytest
from sample_tokenizers import CHATML, LLAMA_3, chat

from qsft_lite import data, models
from qsft_lite.data.formats import chat_segments
from qsft_lite.data.transcripts import Reader, Transcript
from qsft_lite.policy import ActionList, QSFTPolicy
from qsft_lite.trainer import train_q_sft
from qsft_lite.trainer.config import QSFTConfig

MESSAGES = [
    {"role": "system", "content": "You play."},
    {"role": "user", "content": "A door."},
    {"role": "assistant", "content": "open it"},
    {"role": "user", "content": "It opens.\n\nA hall."},
    {"role": "assistant", "content": "go"},
]
TEXTS = [message["content"] for message in MESSAGES]
SCALE = data.RewardScale(0, 1)
KINDS = {"chatml": (CHATML, "<|im_end|>"), "llama 3": (LLAMA_3, "<|eot_id|>")}


@pytest.fixture(params=KINDS)
def kind(request):
    """A tokenizer, the text of its mark at the end of a turn, and that token."""
    template, end = KINDS[request.param]
    tokenizer = chat(template, TEXTS)
    return tokenizer, end, tokenizer.convert_tokens_to_ids(end)


def load(tmp_path, tokenizer, *chats):
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps({"messages": one}) + "\n" for one in chats))
    return data.load_trajectories(path, tokenizer=tokenizer, reward=1.0)


def templated(tokenizer, messages, prompt=False):
    """The start token, and the tokens that transformers gives."""
    ids = tokenizer.apply_chat_template(
        messages, tokenize=True, add_generation_prompt=prompt, return_dict=False
    )
    return ids if ids[0] == tokenizer.bos_token_id else [data.start_id(tokenizer), *ids]


def test_tokens_are_those_of_the_template(kind, tmp_path):
    tokenizer, end, end_id = kind
    chats = load(tmp_path, tokenizer, MESSAGES, MESSAGES[:3])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoded = data.encode(chats, tokenizer, scale=SCALE, chat_template=True)
    assert encoded["input_ids"][0] == templated(tokenizer, MESSAGES)
    assert encoded["input_ids"][1] == templated(tokenizer, MESSAGES[:3])
    for row in encoded:
        acted = [i for i, a in zip(row["input_ids"], row["action_mask"], strict=True) if a]
        turns = Reader(tokenizer, True).read([("open it" + end, True), ("go" + end, True)])
        expected = [i for turn in turns[: acted.count(end_id)] for i in turn]
        assert acted == expected and acted[-1] == end_id
    for text, is_action in zip(chats[0]["text"], chats[0]["is_action"], strict=True):
        assert text.endswith(end) == is_action


def test_without_a_word_the_marks_are_letters_and_a_warning_says_so(kind, tmp_path):
    tokenizer, _, _ = kind
    chats = load(tmp_path, tokenizer, MESSAGES)
    with pytest.warns(UserWarning, match="is read as letters: .* chat_template=True"):
        [ids] = data.encode(chats, tokenizer, scale=SCALE)["input_ids"]
    assert ids != templated(tokenizer, MESSAGES)


def test_a_chat_that_cannot_be_encoded_is_named_by_its_line(kind, tmp_path):
    tokenizer, _, _ = kind
    chats = load(tmp_path, tokenizer, MESSAGES[:3], MESSAGES).select([1])
    with pytest.raises(ValueError, match=r"chats\.jsonl:2: a return to go outside"):
        data.encode(chats, tokenizer, scale=data.RewardScale(0, 0.5), chat_template=True)


@pytest.mark.parametrize("turn", [1, 2])
@pytest.mark.parametrize("where", ["text", "part", "tool"])
def test_a_message_that_spells_a_special_token_is_refused_by_its_line(kind, turn, where, tmp_path):
    tokenizer, end, _ = kind
    bad = [dict(message) for message in MESSAGES]
    content = f"{TEXTS[turn]} {end}"
    if where == "text":
        bad[turn]["content"] = content
    elif where == "part":
        bad[turn]["content"] = [{"type": "text", "text": content}]
    else:
        bad[turn]["tool_calls"] = [{"function": {"arguments": {content: 1}}}]
    with pytest.raises(ValueError, match=rf"chats\.jsonl:2: turn {turn + 1} holds .*special token"):
        load(tmp_path, tokenizer, MESSAGES, bad)
    with pytest.raises(ValueError, match=rf"turn {turn + 1} holds the text of the special token"):
        chat_segments(bad, tokenizer)


def test_what_a_policy_could_not_write_is_refused():
    tokenizer = chat(LLAMA_3, TEXTS)
    rows = {
        "with a special token before its end": [
            ("A", False),
            ("<|end_header_id|>go<|eot_id|>", True),
        ],
        "a text that the tokenizer cannot read": [("a <dummy>", False), ("go<|eot_id|>", True)],
        "begins with the start token": [("<|begin_of_text|>A", False), ("go<|eot_id|>", True)],
    }
    for complaint, segments in rows.items():
        text, is_action = zip(*segments, strict=True)
        row = {"text": text, "is_action": is_action, "reward": [0.0, 1.0], "done": True}
        games = datasets.Dataset.from_list([row])
        with pytest.raises(ValueError, match=f"row 0: .*{complaint}"):
            data.encode(games, tokenizer, scale=SCALE, chat_template=True)


def test_an_empty_answer_is_its_mark(kind, tmp_path):
    tokenizer, end, _ = kind
    chats = load(tmp_path, tokenizer, [MESSAGES[1], {"role": "assistant", "content": ""}])
    assert chats[0]["text"][1] == end


# Play


def small(tokenizer):
    return models.small_model(tokenizer, layers=1, width=32, heads=2, context=192, seed=0)


def test_a_policy_of_chats_is_trained_saved_and_plays(kind, tmp_path):
    tokenizer, end, end_id = kind
    model = small(tokenizer)
    models.add_dummy(model, tokenizer)
    chats = load(tmp_path, tokenizer, *[MESSAGES, MESSAGES[:3]] * 4)
    encoded = data.encode(chats, tokenizer, scale=SCALE, chat_template=True)
    rows = data.pack(encoded, 192)
    stages = [
        QSFTConfig(
            output_dir=str(tmp_path / stage),
            stage=stage,
            max_steps=20,
            learning_rate=1e-2,
            per_device_train_batch_size=4,
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
        )
        for stage in ("behavior", "values")
    ]
    trained = train_q_sft(model, tokenizer, rows, rows, *stages)
    policy = QSFTPolicy(
        *(trained.behavior, trained.q_model, tokenizer, 2.0, "paired"),
        stop=end,
        max_new_tokens=8,
        greedy=True,
        chat_template=True,
    )
    policy.save_pretrained(tmp_path / "policy")
    loaded = QSFTPolicy.from_pretrained(tmp_path / "policy")
    assert loaded.chat_template is True

    messages = MESSAGES[:2]
    for reply in MESSAGES[3], MESSAGES[1]:
        history = chat_segments(messages, tokenizer)
        [action] = policy.act([history])
        said = action.removesuffix(end)
        assert action == said + end
        assert policy._rows[0].ids[-1] == end_id
        for other in (history, Transcript(history)):
            assert loaded.act([other]) == [action]
        messages = [*messages, {"role": "assistant", "content": said}, reply]
    # What was read and written in two turns is what transformers makes of the messages.
    read = templated(tokenizer, messages[:4], prompt=True)
    assert policy._rows[0].ids == read + policy._reader.read([(action, True)])[0]
    # The text that transformers writes, with its own start token, is the same.
    text = tokenizer.apply_chat_template(messages[:2], tokenize=False, add_generation_prompt=True)
    assert loaded.act([text]) == loaded.act([chat_segments(messages[:2], tokenizer)])

    table = loaded.values(chat_segments(MESSAGES, tokenizer))
    assert table["token"][table["is_action"]].tolist().count(end) == 2
    scores = loaded.candidates(chat_segments(MESSAGES[:2], tokenizer), ["open it" + end, "x" + end])
    assert scores["log_pi"][0] > scores["log_pi"][1]


def test_a_list_of_actions_is_read_as_the_policy_reads(kind):
    tokenizer, end, end_id = kind
    model = small(tokenizer)
    options = {"stop": end, "chat_template": True, "max_new_tokens": 64}
    list_of = ActionList(tokenizer, ["go" + end, "open it" + end], chat_template=True)
    policy = QSFTPolicy(model, None, tokenizer, 0.0, constraint=list_of, **options)
    assert set(policy.act(["a"] * 20)) == {"go" + end, "open it" + end}
    assert all(row.ids[-1] == end_id for row in policy._rows)
    assert set(policy.act(["a"] * 9, [["go" + end]] * 9)) == {"open it" + end}
    if end != tokenizer.eos_token:
        letters = ActionList(tokenizer, ["go" + end])
        with pytest.raises(ValueError, match="another tokenizer or chat_template"):
            QSFTPolicy(model, None, tokenizer, 0.0, constraint=letters, **options)
    with pytest.raises(ValueError, match="chat_template must be True or False"):
        QSFTPolicy(model, None, tokenizer, 0.0, chat_template="yes")
