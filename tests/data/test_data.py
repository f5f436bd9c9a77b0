"""Trajectories, tokens and packing against plain Python loops over the same episodes."""

import gzip
import hashlib
import json
import math
import random
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import tokenizers
import torch
from datasets import Dataset, Features
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from qsft_lite import data, models
from qsft_lite.data.packing import best_fit
from qsft_lite.data.trajectories import EPISODES

WORDLE = {
    "sequence": [
        ["Wordle:\n", 0.0],
        ["c r a n e\n", 1.0],
        ["b y g b b\n", 0.0],
        ["t r a i n\n", 1.0],
        ["g g g g g\n", 0.0],
    ],
    "reward": [0.0, -1.0, 0, 0.0, 0.0],
    "done": True,
}
SCALE = data.RewardScale(-6, 0)
STEPS = data.RewardScale(-6, 0, place="step")
TOKENIZER = models.character_tokenizer("abcdefghijklmnopqrstuvwxyzW:")


def dataset(episodes):
    return Dataset.from_list(episodes, features=Features.from_arrow_schema(EPISODES))


def episode(segments, rewards, done=True):
    text, is_action = zip(*segments, strict=True)
    return {"text": [*text], "is_action": [*is_action], "reward": [*rewards], "done": done}


def write(path, *records):
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def wordle_games(n, seed=0):
    """Games with LMRL-Gym's text and lengths (4.8 guesses on average), and random letters."""
    rng = random.Random(seed)
    games = []
    for _ in range(n):
        guesses = rng.choices(range(1, 7), [0.002, 0.04, 0.12, 0.2, 0.2, 0.438])[0]
        won = guesses < 6 or rng.random() < 0.3
        segments, rewards = [("Wordle:\n", False)], [0.0]
        for turn in range(guesses):
            segments.append((" ".join(rng.choices("abcde", k=5)) + "\n", True))
            segments.append((" ".join(rng.choices("byg", k=5)) + "\n", False))
            rewards += [0.0 if won and turn == guesses - 1 else -1.0, 0.0]
        games.append(episode(segments, rewards))
    return dataset(games)


@st.composite
def episodes(draw, text=None, low=-3.0, high=3.0, done=None):
    """An episode with at least one action, and no action without text."""
    text = st.text(max_size=8) if text is None else text
    flags = draw(st.lists(st.booleans(), min_size=1, max_size=7).filter(any))
    count = sum(flags)
    number = st.floats(low / count, high / count)
    return episode(
        [(draw(text.filter(len) if action else text), action) for action in flags],
        [draw(number) if action else 0.0 for action in flags],
        draw(st.booleans()) if done is None else done,
    )


readable = st.text(alphabet="ab \n", max_size=6)  # by TOKENIZER


# Files


def test_a_line_of_lmrl_gym(tmp_path):
    loaded = data.load_trajectories(write(tmp_path / "games.jsonl", WORDLE))
    assert loaded.column_names == ["text", "is_action", "reward", "done"]
    assert loaded[0] == {
        "text": ["Wordle:\n", "c r a n e\n", "b y g b b\n", "t r a i n\n", "g g g g g\n"],
        "is_action": [False, True, False, True, False],
        "reward": [0.0, -1.0, 0.0, 0.0, 0.0],
        "done": True,
    }


def test_the_one_reward_that_lmrl_gym_leaves_out(tmp_path):
    """Its writer adds the header after the rewards, and its reader a 0 before them."""
    line = {
        "sequence": [["Wordle:\n", 0.0], ["c r a n e\n", 1.0], ["g g g g g\n", 0.0]],
        "reward": [0.0, 0.0],
        "done": True,
    }
    lost = with_(reward=[-1.0, 0.0, -1.0, 0.0])
    path = write(tmp_path / "games.jsonl", line, lost)
    rewards = [[0.0] * 3, [0.0, -1.0, 0.0, -1.0, 0.0]]
    assert data.load_trajectories(path)["reward"] == rewards
    assert [row["reward"] for row in data.load_trajectories(path, streaming=True)] == rewards


@given(
    st.lists(episodes(), min_size=1, max_size=5),
    st.sampled_from(["a.jsonl", "a.jsonl.gz", "a.JSONL.GZ"]),
)
@settings(max_examples=25)
def test_saved_and_loaded_is_the_same(games, name):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        data.save_trajectories(dataset(games), path)
        assert data.load_trajectories(path).to_list() == games
        zipped = name.lower().endswith("gz")
        content = gzip.decompress(path.read_bytes()) if zipped else path.read_bytes()
        assert data.data_hash(dataset(games)) == hashlib.sha256(content).hexdigest()
        first = path.read_bytes()
        data.save_trajectories(data.load_trajectories(path), path)
        assert path.read_bytes() == first


def test_several_files_blank_lines_and_a_dataset(tmp_path):
    one = write(tmp_path / "one.jsonl", WORDLE, "", WORDLE)
    two = write(tmp_path / "two.jsonl", WORDLE | {"done": False})
    loaded = data.load_trajectories([one, str(two)])
    assert loaded["done"] == [True, True, False]
    assert list(loaded.info.download_checksums) == [str(one), str(two)]
    assert data.load_trajectories(loaded).to_list() == loaded.to_list()


def test_a_dataset_with_its_columns_in_another_order():
    games = wordle_games(3)
    other = games.select_columns(["done", "reward", "text", "is_action"])
    assert data.load_trajectories(other).to_list() == games.to_list()
    assert data.data_hash(other) == data.data_hash(games)
    missing = dataset([episode([("a", True)], [0.0]) | {"text": None}])
    with pytest.raises(ValueError, match="row 0: text is None, not a list"):
        data.load_trajectories(missing)


def with_(**changes):
    return WORDLE | changes


def with_segment(i, text, is_action):
    sequence = [*WORDLE["sequence"]]
    sequence[i] = [text, is_action]
    return WORDLE | {"sequence": sequence}


BAD = {
    "not JSON": ('{"sequence": [["Wor', "not a line of JSON"),
    "too deep": ("[" * 100_000, "not a line of JSON"),
    "no object": ("[1, 2]", "an episode is an object"),
    "no reward": ({"sequence": WORDLE["sequence"], "done": True}, "'reward' is missing"),
    "no done": ({"sequence": WORDLE["sequence"], "reward": [0.0] * 5}, "'done' is missing"),
    "sequence is a string": (with_(sequence="abc"), "sequence must be a list"),
    "no pair": (with_(sequence=[["a", 1, 2]]), r"sequence\[0\] must be \[text, is_action\]"),
    "an action without reward": (with_(reward=[0.0, -1.0]), "5 texts, 5 is_action, 2 rewards"),
    "one reward fewer, shifted": (with_(reward=[0.0, -1.0, 0.0, 0.0]), "reward 2 is -1.0 but not"),
    "one reward fewer, no header": (
        with_(sequence=WORDLE["sequence"][1:], reward=[-1.0, 0.0, 0.0]),
        "4 texts, 4 is_action, 3 rewards",
    ),
    "one reward more": (with_(reward=[0.0] * 6), "5 texts, 5 is_action, 6 rewards"),
    "reward is a number": (with_(reward=1.0), "reward is 1.0, not a list"),
    "is_action 2": (with_segment(1, "c\n", 2), "is_action 1 is 2, not"),
    "is_action is a string": (with_segment(1, "c\n", "1"), "is_action 1 is '1', not"),
    "is_action null": (with_segment(1, "c\n", None), "is_action 1 is None, not"),
    "text is a number": (with_segment(0, 7, 0), "text 0 is 7, not a string"),
    "half a character": (with_segment(0, "\ud800", 0), "text 0 is no valid Unicode"),
    "NaN": (with_(reward=[0, math.nan, 0, 0, 0]), "reward 1 is nan, not a finite number"),
    "infinite": (with_(reward=[0, -math.inf, 0, 0, 0]), "reward 1 is -inf, not a finite number"),
    "beyond float32": (with_(reward=[0, -1e308, 0, 0, 0]), "reward 1 is -1e\\+308, not a finite"),
    "beyond float32 together": (with_(reward=[0, 3e38, 0, -3e38, 0]), "more than a float32 holds"),
    "huge": (with_(reward=[0, 10**400, 0, 0, 0]), "reward 1 is 1000.*, not a finite number"),
    "reward null": (with_(reward=[0, None, 0, 0, 0]), "reward 1 is None, not a finite number"),
    "reward is a string": (with_(reward=[0, "-1", 0, 0, 0]), "reward 1 is '-1', not a finite"),
    "reward is a bool": (with_(reward=[0, True, 0, 0, 0]), "reward 1 is True, not a finite"),
    "reward on no action": (with_(reward=[0, 0, -1.0, 0, 0]), "reward 2 is -1.0 but not on"),
    "done is a string": (with_(done="yes"), "done is 'yes'"),
    "no action": (with_(sequence=[["a", 0]], reward=[0]), "no action in this episode"),
    "no segment": (with_(sequence=[], reward=[]), "no action in this episode"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_line_is_refused_or_skipped(name, tmp_path):
    line, complaint = BAD[name]
    path = write(tmp_path / "games.jsonl", WORDLE, "", line, WORDLE)
    with pytest.raises(ValueError, match=rf"games\.jsonl:3: .*{complaint}.*on_bad='skip'"):
        data.load_trajectories(path)
    stream = data.load_trajectories(path, streaming=True)
    with pytest.raises(ValueError, match=rf"games\.jsonl:3: .*{complaint}"):
        list(stream)
    with pytest.warns(UserWarning, match=rf"skipped 1 of 3 episodes:\n.*:3: .*{complaint}"):
        loaded = data.load_trajectories(path, on_bad="skip")
    assert len(loaded) == 2
    assert loaded.info.description.startswith("skipped 1 of 3 episodes")
    stream = data.load_trajectories(path, on_bad="skip", streaming=True)
    with pytest.warns(UserWarning, match="skipped 1 of 3 episodes"):
        assert list(stream) == loaded.to_list()


def test_not_utf8_and_damaged_gzip(tmp_path):
    path = tmp_path / "latin.jsonl"
    path.write_bytes(b'{"sequence": [["caf\xe9", 1]], "reward": [0], "done": true}\n')
    with pytest.raises(ValueError, match="latin.jsonl:1: not a line of JSON in UTF-8"):
        data.load_trajectories(path)
    whole = gzip.compress((json.dumps(WORDLE) + "\n").encode() * 50)
    for name, content in {"short": whole[:5], "cut": whole[:-20]}.items():
        path = tmp_path / f"{name}.jsonl.gz"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"{name}.jsonl.gz: damaged gzip after line"):
            data.load_trajectories(path)


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_file_is_read_whatever_its_name_and_mark(tmp_path, mark):
    content = mark + json.dumps(WORDLE).encode() + b"\r\n"
    names = {"a.jsonl": content, "b.jsonl.gz": gzip.compress(content), "c.txt": content}
    names |= {"d.GZ": gzip.compress(content), "zipped": gzip.compress(content), "plain.gz": content}
    for name, held in names.items():
        (tmp_path / name).write_bytes(held)
        assert data.load_trajectories(tmp_path / name)["reward"] == [WORDLE["reward"]]
    paths = [tmp_path / name for name in names]
    assert len(data.load_trajectories(paths, on_bad="skip")) == len(names)
    assert len(list(data.load_trajectories(paths, streaming=True))) == len(names)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf16_is_called_by_its_name(tmp_path, encoding):
    path = tmp_path / "games.jsonl"
    for content in (json.dumps(WORDLE).encode(encoding), "".encode(encoding)):
        path.write_bytes(content)
        for held in (content, gzip.compress(content)) if content else ():
            path.write_bytes(held)
            with pytest.raises(ValueError, match=r"games\.jsonl: this is UTF-16: save it as UTF-8"):
                data.load_trajectories(path, on_bad="skip")


def test_a_message_is_short_however_long_the_line(tmp_path):
    long = ["x" * 100] * 20_000
    lines = [
        with_(sequence=[[long, 1]]),
        with_(sequence=[["x" * 2_000_000, "y" * 2_000_000]], reward=[0]),
        with_(reward=long),
        with_(reward="x" * 2_000_000),
        with_(done=long),
        {"x" * 2_000_000: 1},
    ]
    for line in lines:
        with pytest.raises(ValueError) as caught:
            data.load_trajectories(write(tmp_path / "games.jsonl", line))
        assert len(str(caught.value)) < 600
    path = write(tmp_path / "games.jsonl", *lines, WORDLE)
    with pytest.warns(UserWarning, match="skipped 6 of 7") as warned:
        data.load_trajectories(path, on_bad="skip")
    assert len(str(warned[0].message)) < 3000


def test_what_cannot_be_loaded_at_all(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.jsonl: no such file"):
        data.load_trajectories(tmp_path / "none.jsonl")
    with pytest.raises(ValueError, match="empty.jsonl: no episode to load"):
        data.load_trajectories(write(tmp_path / "empty.jsonl", ""))
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="no episode.*skipped 1 of 1"):
        data.load_trajectories(write(tmp_path / "bad.jsonl", "{"), on_bad="skip")
    with pytest.raises(TypeError, match="got dict"):
        data.load_trajectories({"a": 1})
    with pytest.raises(ValueError, match="no column done, reward"):
        data.load_trajectories(wordle_games(1).select_columns(["text", "is_action"]))
    with pytest.raises(ValueError, match="unknown on_bad 'drop'.* raise, skip"):
        data.load_trajectories(wordle_games(1), on_bad="drop")


def test_a_failed_save_leaves_the_old_file(tmp_path):
    path = write(tmp_path / "games.jsonl", WORDLE)
    before = path.read_bytes()
    good, bad = episode([("a", True)], [0.0]), episode([("a", True)], [math.nan])
    with pytest.raises(ValueError, match="row 1: reward 0 is nan"):
        data.save_trajectories(dataset([good, bad]), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights on Windows")
def test_saving_onto_a_link_writes_the_file_it_leads_to(tmp_path):
    (tmp_path / "disk").mkdir()
    target, link = tmp_path / "disk" / "games.jsonl", tmp_path / "games.jsonl.gz"
    link.symlink_to(target)
    for games in (wordle_games(2), wordle_games(3)):  # a link to nothing, and one to a file
        data.save_trajectories(games, link)
        assert link.is_symlink()
        assert not target.is_symlink()
        assert data.load_trajectories(target).to_list() == games.to_list()
    assert gzip.decompress(target.read_bytes())  # as the path that was asked for says
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["games.jsonl"]


def test_streamed_is_the_same_as_loaded(tmp_path):
    games = wordle_games(300)
    paths = [tmp_path / "a.jsonl", tmp_path / "b.jsonl.gz"]
    data.save_trajectories(games.select(range(200)), paths[0])
    data.save_trajectories(games.select(range(200, 300)), paths[1])
    stream, loaded = (data.load_trajectories(paths, streaming=s) for s in (True, False))
    assert list(stream) == loaded.to_list() == games.to_list()
    assert data.data_hash(stream) == data.data_hash(loaded)
    encoded = (
        data.encode(stream, TOKENIZER, scale=SCALE),
        data.encode(loaded, TOKENIZER, scale=SCALE),
    )
    assert list(encoded[0]) == encoded[1].to_list()
    packed = [data.pack(part, 162, seed=3) for part in encoded]
    for a, b in zip(*packed, strict=True):
        assert a.keys() == b.keys()
        assert all(np.array_equal(a[name], b[name]) for name in a)


# Splits


def test_split_is_a_partition_drawn_with_the_seed():
    games = dataset([episode([(f"{i}\n", True)], [0.0]) for i in range(100)])
    parts = data.split(games, validation=0.1, test=5, seed=0)
    assert {name: len(part) for name, part in parts.items()} == {
        "train": 85,
        "validation": 10,
        "test": 5,
    }
    texts = [text for part in parts.values() for (text,) in part["text"]]
    assert sorted(texts) == sorted(text for (text,) in games["text"])
    again, other = (data.split(games, 0.1, 5, seed) for seed in (0, 1))
    for name, part in parts.items():
        assert part.to_list() == again[name].to_list()
        assert part.to_list() != other[name].to_list()
        assert part.info.description == (
            f"{name}: {len(part)} of 100 episodes, seed 0, "
            f"sha256 {data.data_hash(part)} of {data.data_hash(games)}"
        )


@pytest.mark.parametrize("validation, test", [(0, 1), (1, 0.0), (0.5, 0.5), (3, -1), (0.01, 1)])
def test_no_part_of_a_split_may_be_empty(validation, test):
    with pytest.raises(ValueError, match="would have -?[0-9]+ of 4 episodes"):
        data.split(wordle_games(4), validation, test, seed=0)


def test_split_refuses_a_stream(tmp_path):
    stream = data.load_trajectories(write(tmp_path / "a.jsonl", WORDLE), streaming=True)
    with pytest.raises(TypeError, match="one file a part"):
        data.split(stream, 1, 1, seed=0)


# Reward scale


@given(st.floats(-100, 100), st.floats(0.01, 100), st.floats(0, 1))
def test_scale_is_invertible(low, width, unit):
    scale = data.RewardScale(low, low + width)
    raw = scale.to_raw(unit)
    assert low - 1e-9 <= raw <= low + width + 1e-9
    assert scale.to_unit(raw) == pytest.approx(unit, abs=1e-9)


def test_scale_refuses_nonsense():
    for low, high in [(1, 1), (2, 1), (0, math.inf), (math.nan, 1)]:
        with pytest.raises(ValueError, match="low < high"):
            data.RewardScale(low, high)
    with pytest.raises(ValueError, match="unknown place 'begin'.* end, step"):
        data.RewardScale(0, 1, place="begin")


# Tokens


def naive_encode(game, tokenizer, scale, gamma, per_turn, apart=False):
    """One token at a time, from the last to the first."""
    tokens, mask, rewards, turn_ends = [1], [False], [0.0], [False]
    width = scale.high - scale.low
    last_action = max(i for i, action in enumerate(game["is_action"]) if action)
    for i, text in enumerate(game["text"]):
        ids = [tokenizer.get_vocab()[token] for token in tokenizer.tokenize(text)]
        if scale.place == "step":
            reward = game["reward"][i] / width
            if i == last_action and game["done"]:
                reward -= scale.low / width
        else:
            reward = (sum(game["reward"]) - scale.low) / width if i == last_action else 0.0
        if apart and i and game["is_action"][i - 1] and not game["is_action"][i]:
            for column, value in ((tokens, 1), (mask, False), (rewards, 0.0), (turn_ends, False)):
                column.append(value)
        for j, token in enumerate(ids):
            action, last = game["is_action"][i], j == len(ids) - 1
            tokens.append(token)
            mask.append(action)
            rewards.append(reward if action and last else 0.0)
            turn_ends.append(last)
    n = len(tokens)
    next_action, discount, to_go = [-1] * n, [0.0] * n, [0.0] * n
    later, value = (-1 if game["done"] else n), 0.0
    for i in reversed(range(n)):
        if mask[i]:
            next_action[i] = later
            discount[i] = gamma if turn_ends[i] or not per_turn else 1.0
            value = to_go[i] = rewards[i] + discount[i] * value
            later = i
    begin = np.maximum.accumulate([i if token == 1 else 0 for i, token in enumerate(tokens)])
    return {
        **({"position_ids": (np.arange(n) - begin).tolist()} if apart else {}),
        "input_ids": tokens,
        "action_mask": mask,
        "reward": pytest.approx(rewards, abs=1e-6),
        "next_action": next_action,
        "discount": pytest.approx(discount, abs=1e-6),
        "return_to_go": pytest.approx(to_go, abs=1e-6),
    }


@given(
    st.lists(episodes(readable, low=0, done=True), min_size=1, max_size=6),
    st.sampled_from(["end", "step"]),
    st.sampled_from([1.0, 0.9, 0.0]),
    st.sampled_from(["token", "turn"]),
)
@settings(max_examples=25)
def test_encode_is_the_naive_loop(games, place, gamma, discount):
    scale = data.RewardScale(0, 3, place=place)
    encoded = data.encode(dataset(games), TOKENIZER, scale=scale, gamma=gamma, discount=discount)
    naive = [naive_encode(game, TOKENIZER, scale, gamma, discount == "turn") for game in games]
    assert encoded.to_list() == naive


@given(st.lists(episodes(readable, done=False), min_size=1, max_size=6))
@settings(max_examples=20)
def test_encode_of_cut_off_episodes_is_the_naive_loop(games):
    scale = data.RewardScale(-3, 3, place="step")
    encoded = data.encode(dataset(games), TOKENIZER, scale=scale, gamma=0.9)
    assert encoded.to_list() == [naive_encode(g, TOKENIZER, scale, 0.9, False) for g in games]


@given(st.lists(episodes(readable), min_size=1, max_size=6), st.integers(60, 120))
@settings(max_examples=20)
def test_turns_apart_are_the_naive_loop_and_stay_apart_in_rows(games, length):
    scale = data.RewardScale(-3, 3, place="step")
    encoded = data.encode(dataset(games), TOKENIZER, scale=scale, memory="turn")
    naive = [naive_encode(game, TOKENIZER, scale, 1.0, False, apart=True) for game in games]
    assert encoded.to_list() == naive
    tokens = 0
    for row in data.pack(encoded, length).with_format(None):
        segment = 0
        for i, (token, position) in enumerate(
            zip(row["input_ids"], row["position_ids"], strict=True)
        ):
            if not row["segment_ids"][i]:
                break
            segment += token == 1  # a start token
            assert row["segment_ids"][i] == segment
            assert position == (0 if token == 1 else row["position_ids"][i - 1] + 1)
            after = row["next_action"][i]
            assert after == -1 or row["action_mask"][i]
            if after >= 0 and after < length and row["segment_ids"][after] == segment:
                assert after == i + 1 or not row["action_mask"][i + 1]
            tokens += 1
    assert tokens == sum(len(row["input_ids"]) for row in naive)


@given(st.lists(episodes(readable), min_size=1, max_size=6), st.integers(0, 60))
@settings(max_examples=25)
def test_pieces_of_turns_hold_every_action_once_with_the_state_that_follows(games, spare):
    scale = data.RewardScale(-3, 3, place="step")
    encoded = data.encode(dataset(games), TOKENIZER, scale=scale, memory="turn")
    whole = encoded.to_list()
    longest_turn = 0
    for row in whole:
        begins = [i for i, place in enumerate(row["position_ids"]) if place == 0]
        begins += [len(row["input_ids"])] * 2
        longest_turn = max(longest_turn, *(b - a for a, b in zip(begins, begins[2:], strict=False)))
    length = longest_turn + spare
    pieces = data.cut_turns(encoded, length).to_list()
    returns = [sum(row["reward"]) for row in whole for action in row["action_mask"] if action]
    told = [piece["return"] for piece in pieces for action in piece["action_mask"] if action]
    assert told == pytest.approx(returns)
    pieces = [{name: piece[name] for name in encoded.column_names} for piece in pieces]
    assert all(len(piece["input_ids"]) <= length for piece in pieces)
    if length >= max(len(row["input_ids"]) for row in whole):
        assert pieces == whole

    def actions(row):
        """Of each action token: what its state and the following one read, and its numbers."""
        found = []
        for i, is_action in enumerate(row["action_mask"]):
            if is_action:
                after = row["next_action"][i]
                seen = row["input_ids"][i - row["position_ids"][i] : i + 1]
                places = row["position_ids"][: max(after, 0)]
                begin = after - 1 - places[-1] if places else 0
                following = row["input_ids"][begin:after] if after >= 0 else None
                numbers = [row[name][i] for name in ("reward", "discount", "return_to_go")]
                found.append((seen, following, numbers))
        return found

    assert [a for row in pieces for a in actions(row)] == [a for row in whole for a in actions(row)]
    with pytest.raises(ValueError, match="row 0: a turn and the state after it"):
        data.cut_turns(encoded, 1)
    with pytest.raises(ValueError, match="memory"):
        data.cut_turns(data.encode(dataset(games), TOKENIZER, scale=scale), length)


def test_wordle_by_hand():
    (row,) = data.encode(dataset([naive_episode(WORDLE)]), TOKENIZER, scale=STEPS)
    assert TOKENIZER.decode(row["input_ids"][1:]) == "".join(t for t, _ in WORDLE["sequence"])
    actions = [i for i, action in enumerate(row["action_mask"]) if action]
    assert actions == [*range(9, 15), *range(21, 27)]  # bos, 8 of "Wordle:\n", then sixes
    assert [row["next_action"][i] for i in actions] == [*range(10, 15), *range(21, 27), -1]
    assert {i: r for i, r in enumerate(row["reward"]) if r} == {
        14: pytest.approx(-1 / 6),
        26: pytest.approx(1.0),
    }
    assert row["return_to_go"][9] == pytest.approx(5 / 6)
    assert row["return_to_go"][21] == pytest.approx(1.0)


def naive_episode(record):
    text, is_action = zip(*record["sequence"], strict=True)
    return episode(zip(text, map(bool, is_action), strict=True), record["reward"], record["done"])


def test_both_places_of_the_reward_agree_without_discount():
    games = wordle_games(50)
    for row, game in zip(data.encode(games, TOKENIZER, scale=STEPS), games, strict=True):
        assert sum(row["reward"]) == pytest.approx(SCALE.to_unit(sum(game["reward"])), abs=1e-6)
    for row, game in zip(data.encode(games, TOKENIZER, scale=SCALE), games, strict=True):
        assert max(row["reward"]) == pytest.approx(SCALE.to_unit(sum(game["reward"])), abs=1e-6)
        values = np.array(row["return_to_go"])[row["action_mask"]]
        assert np.all(values == values[0])


def byte_pair_tokenizer(texts):
    """A tokenizer that would join the end of one segment with the start of the next one."""
    core = tokenizers.Tokenizer(tokenizers.models.BPE())
    core.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        texts, tokenizers.trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet)
    )
    core.add_special_tokens(["<end>"])
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>")


def test_no_token_is_half_action_half_state():
    tokenizer = byte_pair_tokenizer(["yesno yesno yesno"] * 10)
    assert len(tokenizer("yesno")["input_ids"]) == 1
    games = [episode([("yes", False), ("no", True), ("yesno", False), ("é", True)], [0, 0, 0, 1])]
    (row,) = data.encode(dataset(games), tokenizer, scale=data.RewardScale(0, 1))
    assert row["input_ids"][0] == tokenizer.eos_token_id == data.start_id(tokenizer)
    pieces = [tokenizer(text)["input_ids"] for text in games[0]["text"]]
    assert row["input_ids"][1:] == sum(pieces, [])
    mask = [[False] * len(pieces[0]), [True] * len(pieces[1]), [False], [True] * len(pieces[3])]
    assert row["action_mask"][1:] == sum(mask, [])


def test_encode_reads_a_shuffled_and_sliced_dataset():
    games = wordle_games(30)
    order = np.random.default_rng(0).permutation(30)[5:]
    encoded = data.encode(games.select(order), TOKENIZER, scale=SCALE).to_list()
    whole = data.encode(games, TOKENIZER, scale=SCALE)
    assert encoded == [whole[int(i)] for i in order]


def test_encode_names_file_and_line_even_after_a_shuffle(tmp_path):
    path = tmp_path / "games.jsonl"
    games = wordle_games(20)
    lost = [sum(game["reward"]) for game in games].index(-6)
    scale = data.RewardScale(-5, 0)  # which the return of a lost game is outside of
    data.save_trajectories(games, path)
    lines = path.read_text().splitlines()
    write(path, "{", *lines)  # a bad line, so that rows and lines differ
    with pytest.warns(UserWarning, match="skipped 1 of 21"):
        loaded = data.load_trajectories(path, on_bad="skip")
    shuffled = loaded.shuffle(seed=1)
    with pytest.raises(ValueError, match=r"games.jsonl:\d+: a return to go outside"):
        data.encode(shuffled, TOKENIZER, scale=scale)
    alone = loaded.select([lost])
    with pytest.raises(ValueError, match=rf"games.jsonl:{lost + 2}: a return to go outside"):
        data.encode(alone, TOKENIZER, scale=scale)
    path.unlink()
    with pytest.raises(ValueError, match="row 0: "):
        data.encode(alone, TOKENIZER, scale=scale)


ODD = {
    "cut off": (episode([("a", True)], [0.0], done=False), SCALE, 1.0, "cut off.*place='step'"),
    "return": (episode([("a", True)], [1.0]), SCALE, 1.0, "return to go outside"),
    "suffix": (
        episode([("a", True), ("b", True)], [-1.0, 1.0]),
        data.RewardScale(-1, 0, place="step"),
        1.0,
        "return to go outside",
    ),
    "discounted below 0": (
        episode([("abcdefgh", True), ("a", True)], [-6.0, 0.0]),
        STEPS,
        0.5,
        "return to go outside.*place='end'",
    ),
    "unknown text": (episode([("a", True), ("é", False)], [0, 0]), SCALE, 1.0, "cannot read"),
    "no token": (episode([("a", True), ("", True)], [0, 0]), SCALE, 1.0, "without any token"),
    "no action": (episode([("a", False)], [0]), SCALE, 1.0, "no action"),
}


@pytest.mark.parametrize("name", ODD)
def test_an_episode_that_cannot_be_encoded(name):
    odd, scale, gamma, complaint = ODD[name]
    good = episode([("a", True)], [0.0])
    with pytest.raises(ValueError, match=f"row 1: .*{complaint}"):
        data.encode(dataset([good, odd]), TOKENIZER, scale=scale, gamma=gamma)


def test_encode_refuses_nonsense():
    games = wordle_games(2)
    with pytest.raises(ValueError, match="gamma must be in"):
        data.encode(games, TOKENIZER, scale=SCALE, gamma=1.1)
    with pytest.raises(ValueError, match="unknown discount 'step'.* token, turn"):
        data.encode(games, TOKENIZER, scale=SCALE, discount="step")
    with pytest.raises(ValueError, match="no column done"):
        data.encode(games.remove_columns("done"), TOKENIZER, scale=SCALE)
    bare = PreTrainedTokenizerFast(tokenizer_object=TOKENIZER.backend_tokenizer)
    with pytest.raises(ValueError, match="neither a bos nor an eos"):
        data.encode(games, bare, scale=SCALE)


# Packing


def unpack(rows):
    """The episodes of packed rows, as `encode` has them, in any order."""
    found = []
    for row in rows.with_format(None):
        for number in range(1, max(row["segment_ids"]) + 1):
            at = [i for i, segment in enumerate(row["segment_ids"]) if segment == number]
            assert at == [*range(at[0], at[-1] + 1)]
            part = {name: [row[name][i] for i in at] for name in row}
            assert part.pop("position_ids") == [*range(len(at))]
            part.pop("segment_ids")
            moved = part["next_action"]
            part["next_action"] = [i if i == -1 else i - at[0] for i in moved]
            found.append(part)
    return sorted(found, key=str)


@given(
    st.lists(episodes(readable), min_size=1, max_size=12), st.integers(45, 100), st.integers(0, 3)
)
@settings(max_examples=25)
def test_packing_keeps_every_episode_whole(games, length, seed):
    scale = data.RewardScale(-3, 3, place="step")
    encoded = data.encode(dataset(games), TOKENIZER, scale=scale)
    rows = data.pack(encoded, length, seed=seed)
    assert unpack(rows) == sorted(encoded.to_list(), key=str)
    for row in rows.with_format(None):
        assert {len(values) for values in row.values()} == {length}
        padding = [i for i, segment in enumerate(row["segment_ids"]) if segment == 0]
        assert padding == [*range(length - len(padding), length)]
        assert {row["next_action"][i] for i in padding} <= {-1}
        for name in set(row) - {"next_action"}:
            assert not any(row[name][i] for i in padding)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=40), st.integers(30, 60))
def test_best_fit_is_the_naive_best_fit(sizes, capacity):
    left = []
    for size in sizes:
        fitting = [room for room in left if room >= size]
        left.append((left.pop(left.index(min(fitting))) if fitting else capacity) - size)
    rows = best_fit(np.array(sizes), np.arange(len(sizes)), capacity)
    assert sorted(capacity - sum(sizes[i] for i in row) for row in rows) == sorted(left)
    assert sorted(i for row in rows for i in row) == [*range(len(sizes))]


def test_packed_wordle_is_hardly_padded():
    encoded = data.encode(wordle_games(2000), TOKENIZER, scale=SCALE)
    sizes = [len(ids) for ids in encoded["input_ids"]]
    longest, tokens = max(sizes), sum(sizes)
    assert longest == 81
    for times in (2, 3, 4, 6):
        assert tokens / (len(data.pack(encoded, times * longest)) * times * longest) >= 0.95


def test_packing_depends_on_the_seed_only():
    encoded = data.encode(wordle_games(200), TOKENIZER, scale=SCALE)
    first, again, other = (data.pack(encoded, 162, seed=s)["input_ids"] for s in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_an_episode_longer_than_a_row():
    encoded = data.encode(wordle_games(20), TOKENIZER, scale=SCALE)
    longest = int(np.argmax([len(ids) for ids in encoded["input_ids"]]))
    with pytest.raises(ValueError, match=f"row {longest}: .*81 tokens, a packed row has 80"):
        data.pack(encoded, 80)
    with pytest.raises(ValueError, match="at least 1 token"):
        data.pack(encoded, 0)
    with pytest.raises(ValueError, match="pack what data.encode returned"):
        data.pack(wordle_games(3), 100)


def test_a_batch_is_tensors_of_the_agreed_types():
    rows = data.pack(data.encode(wordle_games(20), TOKENIZER, scale=SCALE), 162)
    batch = data.collate([rows[i] for i in range(4)])
    assert {name: tensor.dtype for name, tensor in batch.items()} == {
        "input_ids": torch.int64,
        "position_ids": torch.int64,
        "segment_ids": torch.int64,
        "action_mask": torch.bool,
        "next_action": torch.int64,
        "reward": torch.float32,
        "discount": torch.float32,
        "return_to_go": torch.float32,
    }
    lists = data.collate([rows.with_format(None)[i] for i in range(4)])
    for name, tensor in batch.items():
        assert tensor.shape == (4, 162)
        assert torch.equal(tensor, lists[name])
    with pytest.raises(ValueError, match=r"one length, got \[1, 2\]"):
        data.collate([{"input_ids": [1]}, {"input_ids": [1, 2]}])


def test_nothing_crosses_between_packed_episodes():
    encoded = data.encode(wordle_games(12), TOKENIZER, scale=SCALE)
    rows = data.pack(encoded, 200)
    model = models.small_model(TOKENIZER, layers=2, width=32, heads=2, context=256, seed=0).eval()

    def hidden(batch):
        with torch.inference_mode():
            return models.final_hidden(
                model, batch["input_ids"], batch["position_ids"], batch["segment_ids"]
            )

    batch = data.collate(list(rows))
    packed = hidden(batch)
    compared = 0
    for row, segments in enumerate(batch["segment_ids"]):
        for number in range(1, int(segments.max()) + 1):
            here = segments == number
            alone = {name: tensor[row : row + 1, here] for name, tensor in batch.items()}
            alone["segment_ids"] = torch.ones_like(alone["segment_ids"])
            assert torch.allclose(packed[row, here], hidden(alone)[0], atol=1e-5)
            compared += 1
    assert compared == 12


def test_the_schema_on_disk_is_what_the_dataset_says(tmp_path):
    loaded = data.load_trajectories(write(tmp_path / "games.jsonl", WORDLE))
    assert loaded.features.arrow_schema.remove_metadata() == EPISODES
    assert isinstance(loaded.data.table, pa.Table)
