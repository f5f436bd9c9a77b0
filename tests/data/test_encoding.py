"""Text is text, in training and in play."""

import pickle
import warnings

import datasets
import numpy as np
import pytest
from sample_tokenizers import MAKERS, byte_level, with_prefix

from qsft_lite import data
from qsft_lite.data.transcripts import Reader, Transcript, cut
from qsft_lite.models import character_tokenizer, line_tokenizer, word_tokenizer

SCALE = data.RewardScale(-6, 6, place="step")
LETTERS = character_tokenizer("abcdefgh")
TEXTS = ["S\n", "zz\n", "\n", "ab\n", "E\n", "a\n\nb\n\n"]


def episode(segments, rewards=None, done=True):
    texts, is_action = zip(*segments, strict=True)
    rewards = [0.0] * len(texts) if rewards is None else rewards
    row = {"text": texts, "is_action": is_action, "reward": rewards, "done": done}
    return {name: list(value) if name != "done" else value for name, value in row.items()}


def encoded(episodes, tokenizer, **options):
    rows = datasets.Dataset.from_list(episodes)
    return data.encode(rows, tokenizer, scale=SCALE, **options).with_format("numpy")[:]


# Special tokens


@pytest.mark.parametrize("make", [byte_level, with_prefix, character_tokenizer])
def test_special_tokens_spelt_out_are_letters(make):
    segments = [("say <s> </s>\n", False), ("go</s>\n", True), ("<dummy>\n", False)]
    segments += [("<dummy>\n", True), ("<bos><pad>", False)]
    texts = [text for text, _ in segments]
    # A tokenizer of letters must know them; one of byte pairs knows all, and no "<s>" as a word.
    tokenizer = make([*texts, "<bos>"] if make is character_tokenizer else ["say go\n"])
    [ids] = encoded([episode(segments)], tokenizer)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert not set(ids[1:].tolist()) & set(tokenizer.added_tokens_decoder)
    # Each of them gives its text back.
    pieces = Reader(tokenizer).read(segments)
    assert [i for piece in pieces for i in piece] == ids[1:].tolist()
    assert [tokenizer.decode(piece) for piece in pieces] == texts


@pytest.mark.parametrize("make", [word_tokenizer, line_tokenizer])
def test_a_text_that_is_a_special_token_and_nothing_else_is_refused_by_its_line(make, tmp_path):
    tokenizer = make(["say\n"])
    rows = [episode([("say\n", False), ("say\n", True)]), episode([("<dummy>", True)])]
    data.save_trajectories(datasets.Dataset.from_list(rows), tmp_path / "games.jsonl")
    games = data.load_trajectories(tmp_path / "games.jsonl")
    with pytest.raises(ValueError, match=r"games.jsonl:2: a text that the tokenizer cannot read"):
        data.encode(games, tokenizer, scale=SCALE)


def test_an_action_may_end_with_the_eos_token():
    tokenizer = byte_level(["go"])
    [ids] = encoded([episode([("go</s>", False), ("go</s>", True), ("go", True)])], tokenizer)[
        "input_ids"
    ]
    eos, go = tokenizer.eos_token_id, tokenizer("go", add_special_tokens=False).input_ids
    assert ids.tolist().count(eos) == 1  # not the one of the state
    assert ids.tolist()[-2 * len(go) - 1 :] == [*go, eos, *go]


# Transcripts


def test_a_transcript_is_a_text_that_knows_its_segments():
    transcript = Transcript([("a\n", 0), ("b\n", 1)])
    assert transcript == "a\nb\n"
    assert transcript.segments == (("a\n", False), ("b\n", True))
    assert pickle.loads(pickle.dumps(transcript)).segments == transcript.segments  # noqa: S301
    assert type(transcript + "c") is str
    for wrong in ("user", "False", None, 2):
        with pytest.raises(TypeError, match="A segment is .text, is_action., not .'a', "):
            Transcript([("b", True), ("a", wrong)])


@pytest.mark.parametrize(
    ("text", "stops", "pieces"),
    [
        ("a\n\nb", ("\n",), ["a\n", "\n", "b"]),
        ("goENDs\nEND", ("END",), ["goEND", "s\nEND"]),
        ("a.b!c", (".", "!"), ["a.", "b!", "c"]),
        ("a...b", (".", "..."), ["a...", "b"]),
        ("ab", ("",), ["ab"]),
        ("", ("\n",), []),
    ],
)
def test_a_text_is_cut_after_each_stop_text(text, stops, pieces):
    assert cut(text, stops) == pieces


@pytest.mark.parametrize("kind", MAKERS)
def test_encode_tokenizes_segments_by_themselves(kind):
    segments = [("S\n", False), ("zz\n", True), ("\n", False), ("ab\n", True), ("E\n", False)]
    tokenizer = MAKERS[kind](TEXTS)
    [ids] = encoded([episode(segments)], tokenizer)["input_ids"]
    alone = [tokenizer(text, add_special_tokens=False).input_ids for text, _ in segments]
    assert ids.tolist() == [tokenizer.bos_token_id, *(i for piece in alone for i in piece)]


# The range of rewards


@pytest.mark.parametrize("reward", [100.0, -1e308, 12.1, -12.1])
def test_a_part_of_an_episode_has_its_bounds_too(reward):
    segments = [("a\n", False), ("b\n", True)]
    games = [episode(segments, [0, 12.0], done=False), episode(segments, [0, reward], done=False)]
    with pytest.raises(ValueError, match=r"row 1: a part of an episode with rewards outside"):
        encoded(games, LETTERS)
    assert encoded(games[:1], LETTERS)["reward"][0].max() == 1


@pytest.mark.parametrize("done", [True, False])
@pytest.mark.parametrize("reward", [np.nan, np.inf])
def test_rewards_that_are_no_numbers_are_refused(reward, done):
    games = [episode([("a\n", False), ("b\n", True)], [0, reward], done=done)]
    with pytest.raises(ValueError, match="row 0: .* outside"):
        encoded(games, LETTERS)


# Splits


def test_test_episodes_that_are_in_train_too_are_counted():
    def parts(different):
        rows = [episode([(f"{i % different}\n", False), ("b\n", True)]) for i in range(100)]
        return data.split(datasets.Dataset.from_list(rows), 10, 10, seed=0)

    with pytest.warns(UserWarning, match="10 of 10 test episodes are also in train"):
        assert "; 10 of 10 test episodes" in parts(2)["test"].info.description
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "are also in train" not in parts(100)["test"].info.description


def test_no_episode_cannot_be_split():
    rows = datasets.Dataset.from_list([episode([("b\n", True)])]).select([])
    with pytest.raises(ValueError, match="there is no episode to split"):
        data.split(rows, 0.1, 0.1, seed=0)
