"""What a policy reads is what it was trained on, and where its actions end."""

import math
import warnings
from collections import Counter
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from sample_tokenizers import MAKERS, byte_level
from torch import nn

from qsft_lite import data
from qsft_lite.baselines.trained import ClonedPolicy
from qsft_lite.data.transcripts import ContextError, Transcript
from qsft_lite.models import character_tokenizer, small_model, word_tokenizer
from qsft_lite.policy import ActionList, LastLine, QSFTPolicy

TEXTS = ["S\n", "zz\n", "\n", "ab\n", "E\n", "a\n\nb\n\n"]
EPISODE = [("S\n", False), ("zz\n", True), ("\n", False), ("ab\n", True), ("E\n", False)]
TOKENIZERS = {kind: make(TEXTS) for kind, make in MAKERS.items()}


class Recorder(nn.Module):
    """A model of even logits that notes the token ids it is given; for one episode at a time."""

    def __init__(self, tokenizer, logits=None, context=1000):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(len(tokenizer)) if logits is None else logits)
        self.config = SimpleNamespace(
            vocab_size=len(tokenizer),
            num_hidden_layers=0,
            max_position_embeddings=context,
            _attn_implementation="sdpa",
        )
        self.read = []

    def forward(self, input_ids, **options):
        self.read += input_ids[0].tolist()
        return SimpleNamespace(logits=self.logits.expand(*input_ids.shape, -1))


def ids_of_training(segments, tokenizer):
    text, is_action = (list(column) for column in zip(*segments, strict=True))
    reward = [0.0] * len(text)
    row = {"text": text, "is_action": is_action, "reward": reward, "done": True}
    scale = data.RewardScale(0, 1, place="step")
    encoded = data.encode(datasets.Dataset.from_list([row]), tokenizer, scale=scale)
    return encoded[0]["input_ids"]


def cloning(tokenizer, logits=None, **options):
    return QSFTPolicy(Recorder(tokenizer, logits), None, tokenizer, 0.0, **options)


def q_sft(tokenizer, **options):
    shape = {"layers": 1, "width": 16, "heads": 2, "context": 64}
    models = [small_model(tokenizer, **shape, seed=seed) for seed in (0, 1)]
    return QSFTPolicy(*models, tokenizer, 2.0, **options)


# Tokens


@pytest.mark.parametrize("form", [list, Transcript])
@pytest.mark.parametrize("kind", MAKERS)
def test_act_reads_the_tokens_of_training(kind, form):
    tokenizer = TOKENIZERS[kind]
    expected = ids_of_training(EPISODE, tokenizer)
    policy = cloning(tokenizer, max_new_tokens=1)
    policy.act([form(EPISODE)])
    assert policy.behavior.read == expected


@pytest.mark.parametrize("form", ["plain", "transcript"])
@pytest.mark.parametrize("kind", MAKERS)
def test_play_reads_the_tokens_of_training_turn_by_turn(kind, form):
    tokenizer = TOKENIZERS[kind]
    texts = [text for text, _ in EPISODE]
    policy = cloning(tokenizer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for turn in (1, 3, 5):
            # The action of the episode, and no other, is what the policy writes next.
            action = texts[turn] if turn < 5 else "zz\n"
            policy.constraint = ActionList(tokenizer, [action])
            history = "".join(texts[:turn]) if form == "plain" else Transcript(EPISODE[:turn])
            assert policy.act([history]) == [action]
    action = ids_of_training([("zz\n", True)], tokenizer)[1:]
    assert policy.behavior.read == ids_of_training(EPISODE, tokenizer) + action[:-1]
    assert policy.computed_tokens == len(policy.behavior.read)  # each of them once


@pytest.mark.parametrize("form", ["text", "segments"])
@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.filterwarnings("ignore:A text alone does not say")
def test_values_and_candidates_read_the_tokens_of_training(kind, form):
    tokenizer = TOKENIZERS[kind]
    expected = ids_of_training(EPISODE, tokenizer)
    forms = {"text": "".join(text for text, _ in EPISODE), "segments": EPISODE}
    policy = q_sft(tokenizer)
    seen = []
    logits = policy._logits
    policy._logits = lambda ids, *rest: seen.extend(ids) or logits(ids, *rest)
    table = policy.values(forms[form])
    assert len(table) == len(expected) - 1
    assert ("is_action" in table) == (form == "segments")
    policy.candidates(forms[form], ["zz\n", "ab\n"])
    actions = [ids_of_training([(text, True)], tokenizer)[1:] for text in ("zz\n", "ab\n")]
    assert seen == [expected, *(expected + action for action in actions)]


@pytest.mark.parametrize("kind", MAKERS)
def test_a_prompt_is_read_before_the_same_tokens(kind):
    tokenizer = TOKENIZERS[kind]
    model, expected = Recorder(tokenizer), ids_of_training(EPISODE, tokenizer)
    ClonedPolicy(model, tokenizer, prompt="<dummy>", max_new_tokens=1).act([EPISODE])
    dummy = tokenizer.convert_tokens_to_ids("<dummy>")
    assert model.read == [expected[0], dummy, *expected[1:]]


def test_a_text_alone_warns_where_its_borders_matter():
    policy = cloning(TOKENIZERS["byte_level"])
    with pytest.warns(UserWarning, match="Give segments"):
        policy.act(["S\nzz\n\nab\nE\n"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        policy.act(["S\nzz\nab\nE\n"])
        cloning(TOKENIZERS["words"]).act(["S\nzz\n\nab\nE\n"])


def test_a_plain_text_with_a_stop_text_within_a_line():
    tokenizer = word_tokenizer(["s\n", "goEND"])
    policy = cloning(tokenizer, stop="END", max_new_tokens=1)
    assert policy.act(["s\ngoENDs\n"]) == ["goEND"]
    assert policy.behavior.read == [1, *tokenizer.convert_tokens_to_ids(["s\n", "goEND", "s\n"])]


def test_histories_of_all_forms_continue_what_was_read():
    tokenizer = TOKENIZERS["characters"]
    policy = cloning(tokenizer, max_new_tokens=1, stop="\n")
    histories = ["S\n", Transcript([("S\n", False)])]
    for _ in range(3):
        before = policy.transcript_tokens
        actions = policy.act(histories)
        assert actions == ["\n"] * 2
        histories = [
            histories[0] + "\n" + "E\n",
            Transcript([*histories[1].segments, ("\n", True), ("E\n", False)]),
        ]
    assert policy.transcript_tokens - before == 2 * 3  # only what is new


def test_borders_that_are_others_are_read_anew():
    tokenizer = TOKENIZERS["byte_level"]
    policy = cloning(tokenizer, max_new_tokens=1)
    history = [("S\n", False), ("a\n\nb\n\n", False)]
    [action] = policy.act([history])
    policy.behavior.read.clear()
    # The same text, but what the policy took for its own action now is a part of the state.
    other = [*history[:-1], (history[-1][0] + action, False)]
    policy.act([other])
    assert policy.behavior.read == ids_of_training([*other, ("S\n", True)], tokenizer)[:-2]


@pytest.mark.parametrize(
    "history",
    [None, [("a", True), "b"], [1, 5]],
)
def test_what_is_no_history_is_refused(history):
    with pytest.raises(TypeError, match="A history is"):
        cloning(TOKENIZERS["characters"]).act([history])


@pytest.mark.parametrize("histories", ["ab\n", None, 3, Transcript([("ab\n", False)])])
def test_one_text_is_no_list_of_histories(histories):
    with pytest.raises(TypeError, match="a list of histories"):
        cloning(TOKENIZERS["characters"]).act(histories)
    with pytest.raises(TypeError, match="a list of histories"):
        LastLine(cloning(TOKENIZERS["characters"])).act(histories)


def test_a_refused_text_leaves_everything_as_it_was():
    tokenizer = character_tokenizer("abcdef")
    policy, fresh = (q_sft(tokenizer, greedy=True, max_new_tokens=8) for _ in range(2))
    histories = ["abc\n", "def\n"]
    actions = policy.act(histories)
    long = [h + a + "fed\n" for h, a in zip(histories, actions, strict=True)]
    counted = policy.transcript_tokens
    for bad in (["abc\n", long[0] + "?"], [long[1], "?"], [long[0], "a" * 70]):
        with pytest.raises(ValueError, match="know|context"):
            policy.act(bad)
        assert policy.transcript_tokens == counted
    with pytest.raises(ValueError, match="know all of"):
        policy.act(long, [["?"], []])
    computed = policy.computed_tokens
    assert policy.act(long) == fresh.act(long)
    # What was read is still known: no more than the action's end and the new line were read.
    assert policy.computed_tokens - computed <= 2 * (1 + 4 + 8)
    with pytest.raises(ValueError, match="know all of"):
        policy.act([long[0] + "?"])
    assert policy.act([long[1]]) == fresh.act([long[1]])


def test_an_episode_that_is_too_long_is_named():
    tokenizer = character_tokenizer("ab")
    policy = QSFTPolicy(Recorder(tokenizer, context=6), None, tokenizer, 0.0, max_new_tokens=1)
    long = "aaaaaaaaa\n"
    with pytest.raises(ContextError, match="11 tokens, but the models' context is 6") as raised:
        policy.act(["a\n", long])
    assert raised.value.histories[0] is long
    assert len(raised.value.histories) == 1


def test_the_last_line_of_segments_is_shown():
    policy = cloning(TOKENIZERS["characters"], max_new_tokens=2)
    LastLine(policy).act([EPISODE])
    assert policy.behavior.read[:3] == [1, *TOKENIZERS["characters"]("E\n").input_ids]


# Ends of actions


def favour(tokenizer, texts):
    """Logits that like these tokens more and more."""
    logits = torch.zeros(len(tokenizer))
    for place, text in enumerate(texts):
        logits[tokenizer.convert_tokens_to_ids(text)] = 10.0 + place
    return logits


def test_several_stop_texts():
    tokenizer = character_tokenizer("ab.!")
    policy = cloning(tokenizer, stop=[".", "!"], max_new_tokens=50)
    actions = policy.act(["a\n"] * 400)
    assert {action[-1] for action in actions} == {".", "!"}
    assert not any({".", "!"} & set(action[:-1]) for action in actions)
    assert any("\n" in action for action in actions)  # actions of several lines


def test_a_stop_text_of_several_tokens():
    tokenizer = character_tokenizer("abED")
    policy = cloning(tokenizer, stop="ED", max_new_tokens=40)
    actions = policy.act(["a\n"] * 300)
    assert all(action.endswith("ED") and "ED" not in action[:-2] for action in actions)
    # Each token is E with chance 1/10, and D as likely: most have to be ended.
    lengths = Counter(len(tokenizer(action).input_ids) for action in actions)
    assert max(lengths) == 40
    assert 0 < sum(count for length, count in lengths.items() if length < 40) < 300
    with pytest.raises(ValueError, match="max_new_tokens=1"):
        cloning(tokenizer, stop="ED", max_new_tokens=1)


def test_a_stop_text_that_is_a_token_and_can_be_spelt():
    tokenizer = word_tokenizer(["a ", "go END", "EN ", "END"])
    policy = cloning(tokenizer, favour(tokenizer, ["a "]), stop="END", max_new_tokens=3)
    assert policy.act(["a "]) == ["a a END"]


def test_tokens_with_a_stop_text_in_their_middle_are_not_written():
    tokenizer = byte_level(["go.\n", ".\n", "x.\n\ny", "\n"])
    inside = "\n\ny"
    tokenizer.add_tokens([inside, ".\ngo", "\n\n"])
    logits = favour(tokenizer, ["\n\n", ".\ngo", inside])
    policy = cloning(tokenizer, logits, greedy=True)
    assert policy.act(["go"]) == ["\n\n"]  # one stop text after the other is an end
    policy = cloning(tokenizer, favour(tokenizer, [".\ngo"]), max_new_tokens=20)
    assert all(a.endswith("\n") and "\ngo" not in a for a in policy.act(["go"] * 50))


def test_no_token_goes_beyond_a_stop_text_that_others_began():
    tokenizer = word_tokenizer(["x "])
    tokenizer.add_tokens(["EN", "D", "Ds", "END", "Dx"])
    policy = cloning(tokenizer, stop="END", max_new_tokens=30)
    actions = policy.act(["x "] * 500)
    assert all(action.index("END") == len(action) - 3 for action in actions)
    assert any("Ds" in action for action in actions)  # elsewhere it may be written


def test_an_action_that_has_to_end_does_not_go_beyond_a_stop_text_either():
    tokenizer = word_tokenizer(["x "])
    tokenizer.add_tokens(["E", "b", "bbEb"])
    likes = favour(tokenizer, ["E", "bbEb"])
    policy = cloning(tokenizer, likes, stop="Eb", max_new_tokens=2, greedy=True)
    assert policy.act(["x "]) == ["bbEb"]
    likes[tokenizer.convert_tokens_to_ids("bbEb")] = 5.0  # E, and then there is nothing else
    assert policy.act(["x "]) == ["EbbEb"]


def test_a_stop_text_of_several_bytes():
    tokenizer = byte_level(["ab"])  # no token has the whole of 。
    policy = cloning(tokenizer, stop="。", max_new_tokens=20)
    assert all(action.endswith("。") for action in policy.act(["ab"] * 10))


def test_the_eos_token_as_a_stop():
    tokenizer = byte_level(["go\n"])
    eos, logits = tokenizer.eos_token, favour(tokenizer, ["g", "</s>"])
    logits[tokenizer.eos_token_id] = 10.5
    policy = cloning(tokenizer, logits, stop=eos, max_new_tokens=9)
    history = [("go\n", False)]
    for _ in range(3):
        [action] = policy.act([history])
        assert action.endswith(eos)
        assert eos not in action[: -len(eos)]
        history = [*history, (action, True), ("go\n", False)]
    read = policy.behavior.read
    # The eos token was read after each of the first two actions, as it is in training.
    assert read.count(tokenizer.eos_token_id) == 2
    expected = ids_of_training(history, tokenizer)
    assert expected.count(tokenizer.eos_token_id) == 3
    # And a policy with another stop never writes it.
    other = cloning(tokenizer, logits, max_new_tokens=9)
    assert eos not in "".join(other.act(["go\n"] * 20))


def test_an_action_of_a_list_is_written_to_its_end():
    tokenizer = character_tokenizer("Thought: goActin")
    actions = ["Thought: go\nAction: go\n", "Action: go\n"]
    policy = cloning(tokenizer, constraint=ActionList(tokenizer, actions))
    assert set(policy.act(["go\n"] * 50)) == set(actions)


def test_actions_of_a_list_that_have_no_clear_end_are_refused():
    tokenizer = character_tokenizer("ab")
    with pytest.raises(ValueError, match=r"Another action of the list begins with 'a\\n'"):
        ActionList(tokenizer, ["a\n", "a\nb\n"])
    with pytest.raises(ValueError, match=r"'ab' of the constraint does not end with the stop"):
        cloning(tokenizer, constraint=ActionList(tokenizer, ["a\n", "ab"]))
    with pytest.raises(ValueError, match="max_new_tokens=2"):
        cloning(tokenizer, constraint=ActionList(tokenizer, ["aaa\n"]), max_new_tokens=2)
    with pytest.raises(TypeError, match="a list of texts"):
        ActionList(tokenizer, "ab\n")


# Refused actions


def test_refused_actions_that_cannot_be_are_ignored_or_named():
    tokenizer = character_tokenizer("ab")
    policy = cloning(tokenizer, constraint=ActionList(tokenizer, ["a\n", "b\n"]))
    assert policy.act(["a\n"] * 9, [["a\n", "a\nb\n", "a", "b"]] * 9) == ["b\n"] * 9
    with pytest.raises(ValueError, match="2 histories need as many refused, not 1"):
        policy.act(["a\n", "b\n"], [["a\n"]])
    with pytest.raises(TypeError, match="a list of texts for each"):
        policy.act(["a\n"], ["a\nb\n"])


def test_refusing_what_is_no_whole_action_changes_nothing():
    tokenizer = character_tokenizer("ab")
    policy = cloning(tokenizer, max_new_tokens=3)
    expected = policy.act(["a\n"] * 100)
    policy.reset(0)
    assert policy.act(["a\n"] * 100, [["a", "", "a\nb\n"]] * 100) == expected


@pytest.mark.parametrize("odd", ["\u2028", "\u0085", "\x0c", "\r", "\x1e"])
def test_what_changed_nothing_is_not_repeated_whatever_the_line_holds(odd):
    line = f"a{odd}b\n"

    class Echo:
        def act(self, histories, refused):
            return [" ".join(texts) for texts in refused]

    assert LastLine(Echo()).act([f"{line}u{odd}\n{line}"]) == [f"u{odd}\n"]


# Values


def test_logits_that_are_no_numbers_are_said():
    policy = q_sft(character_tokenizer("ab"))
    with torch.no_grad():
        policy.q_model.model.norm.weight.fill_(math.nan)
    with pytest.raises(FloatingPointError, match="NaN"):
        policy.candidates("a\n", ["b\n"])
    with pytest.raises(FloatingPointError, match="NaN"):
        policy.values("a\n")


def test_nothing_has_no_values():
    policy = q_sft(character_tokenizer("ab"))
    for nothing in ("", [], Transcript()):
        with pytest.raises(ValueError, match="transcript is empty"):
            policy.values(nothing)
    assert np.isfinite(policy.candidates("", ["b\n"]).Q).all()
    with pytest.raises(TypeError, match="a list of actions"):
        policy.candidates("a\n", "b\n")
