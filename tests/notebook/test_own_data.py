"""What the template refuses before training, in its own words, and what it says after."""

import json
import math
from types import SimpleNamespace

import datasets
import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from sample_tokenizers import CHATML, chat

from qsft_lite import data, models
from qsft_lite.data import formats
from qsft_lite.data.transcripts import ContextError
from qsft_lite.notebook import own_data
from qsft_lite.notebook.parameters import default_parameters
from qsft_lite.policy import QSFTPolicy
from qsft_lite.results import project_root

TEMPLATE = project_root() / "notebooks" / "template_your_own_data.ipynb"


@pytest.fixture
def parameters():
    return default_parameters(nbformat.read(TEMPLATE, as_version=4))


def test_the_template_s_own_parameters_are_good(parameters):
    own_data.check_parameters(parameters | {"something": "else"})
    assert set(own_data._RULES) < set(parameters)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"BEHAVIOR_STEPS": 30.0}, "BEHAVIOR_STEPS must be a whole number.*, not 30.0"),
        ({"VALUE_STEPS": "many"}, "VALUE_STEPS"),
        ({"BATCH_ROWS": 0}, "BATCH_ROWS"),
        ({"ROW_TOKENS": True}, "ROW_TOKENS"),
        ({"MAX_TOKENS": [3]}, "MAX_TOKENS"),
        ({"ACCUMULATE": 0}, "ACCUMULATE"),
        ({"LEARNING_RATE": 0}, "LEARNING_RATE must be a number above 0"),
        ({"REWARD": "good"}, "REWARD must be a number, or None"),
        ({"RETURN_LOW": "0"}, "RETURN_LOW"),
        ({"RETURN_HIGH": float("inf")}, "RETURN_HIGH"),
        ({"RETURN_LOW": 1, "RETURN_HIGH": 1}, "RETURN_LOW=1 must be below RETURN_HIGH=1"),
        ({"REWARD_PLACE": "start"}, "REWARD_PLACE must be one of 'step', 'end', None"),
        ({"GAMMA": 1.01}, "GAMMA"),
        ({"DISCOUNT": "step"}, "DISCOUNT"),
        ({"STOP": ""}, "STOP"),
        ({"STOP": r"\n"}, r"a newline may be meant.*-p STOP '\"\\n\"'"),
        ({"TOKENS": "lines"}, "TOKENS"),
        ({"HELD_OUT": 0.5}, "HELD_OUT"),
        ({"HELD_OUT": 1}, "HELD_OUT"),
        ({"BACKUP": "max"}, "BACKUP must be one of 'recorded', 'returns', 'behavior', 'policy'"),
        ({"RETURNS_FIRST": 1.5}, "RETURNS_FIRST must be a number from 0 to 1"),
        ({"PRIOR": "mean"}, "PRIOR must be 'returns', or a number between 0 and 1"),
        ({"PRIOR": 1}, "PRIOR"),
        ({"PRIOR": 0.0}, "PRIOR"),
        ({"SUPPORT": -0.1}, "SUPPORT"),
        ({"PLAY_SUPPORT": 2}, "PLAY_SUPPORT"),
        ({"TARGET_RATE": 0}, "TARGET_RATE"),
        ({"BETA": float("nan")}, "BETA"),
        ({"BETAS": []}, "BETAS"),
        ({"BETAS": [1, -1]}, "BETAS"),
    ],
)
def test_bad_parameters_are_named(parameters, changes, message):
    with pytest.raises(ValueError, match=message):
        own_data.check_parameters(parameters | changes)


# Places


def test_where_a_policy_may_be_saved(tmp_path):
    own_data.check_output(tmp_path / "new" / "run")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="OUTPUT: nothing can be written in .*file"):
        own_data.check_output(tmp_path / "file" / "run")
    (tmp_path / "run" / "policy").mkdir(parents=True)
    own_data.check_output(tmp_path / "run")
    (tmp_path / "run" / "policy" / "letters.txt").write_text("")
    with pytest.raises(ValueError, match="OUTPUT: .*policy holds something that is not a policy"):
        own_data.check_output(tmp_path / "run")
    (tmp_path / "run" / "policy" / "policy.json").write_text("{}")
    own_data.check_output(tmp_path / "run")


def test_the_disk_must_have_room(tmp_path, monkeypatch):
    model = SimpleNamespace(num_parameters=lambda: 2**20)
    monkeypatch.setattr(own_data.shutil, "disk_usage", lambda _: SimpleNamespace(free=24 * 2**20))
    own_data.check_disk(tmp_path, model, checkpoints=False)
    with pytest.raises(ValueError, match="has 24 MiB free, and 84 MiB are needed"):
        own_data.check_disk(tmp_path, model, checkpoints=True)


def test_a_model_that_is_nowhere_says_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("QSFT_CALLER_FOLDER", str(tmp_path))
    with pytest.raises(OSError, match=r"MODEL: .*As a folder, it was looked for at .*no.such"):
        own_data.load_model("no/such/folder")
    tokenizer = models.word_tokenizer(["a\n"])
    model = models.small_model(tokenizer, layers=1, width=8, heads=1, context=8, seed=0)
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "mine")
    assert own_data.load_model("mine")[0].num_parameters() == model.num_parameters()


# Data


def load(tmp_path, *episodes):
    """Episodes, each (actions with their rewards, done); "s" stands before every action."""
    path = tmp_path / "games.jsonl"
    with open(path, "w", encoding="utf-8") as file:
        for actions, done in episodes:
            sequence = [part for text, _ in actions for part in (["s\n", 0], [text, 1])]
            reward = [part for _, reward in actions for part in (0, reward)]
            file.write(json.dumps({"sequence": sequence, "reward": reward, "done": done}) + "\n")
    return data.load_trajectories(path)


@pytest.mark.parametrize(
    ("text", "stop", "message"),
    [
        ("go", "\n", r"games, episode 2: the action 'go' does not end with STOP='\\n'"),
        ("Thought: go\nAction: go\n", "\n", r"episode 2: .*has STOP='\\n' before its end, too"),
        ("x" * 100_000 + "\n\n", "\n", r"^.{1,300}$"),
        ("aa\n", "a\n", "episode 1: .*does not end"),
    ],
)
def test_actions_must_end_with_stop_and_only_end(tmp_path, text, stop, message):
    episodes = load(tmp_path, ([("left\n", 0)], True), ([("left\n", 0), (text, 1)], True))
    with pytest.raises(ValueError, match=message):
        own_data.check_actions(episodes, stop, "games")


def test_the_actions_of_the_data(tmp_path):
    episodes = load(
        tmp_path, ([("left END", 0), ("right END", 0)], True), ([("left END", 1)], True)
    )
    assert own_data.check_actions(episodes, "END", "games") == {"left END", "right END"}


GOOD = ([("a\n", 0), ("b\n", 1)], True)
NEGATIVE = ([("a\n", -1), ("b\n", -2)], True)
CUT_OFF = ([("a\n", 0)], False)


@pytest.mark.parametrize(
    ("episodes", "place"),
    [
        ([GOOD, ([("a\n", 0)], True)], "step"),
        ([GOOD, CUT_OFF], "step"),
        ([GOOD, NEGATIVE], "end"),
        ([GOOD, NEGATIVE, CUT_OFF], "step"),
        ([GOOD, ([("a\n", 5), ("b\n", 0)], True)], "end"),  # no return is 0
    ],
)
def test_the_place_of_rewards_is_chosen(tmp_path, episodes, place):
    episodes = load(tmp_path, *episodes)
    scale = own_data.reward_scale(episodes, None, None, None, "games")
    returns = [sum(rewards) for rewards in episodes["reward"]]
    assert (scale.low, scale.high, scale.place) == (min(returns), max(returns), place)
    if place == "end":  # what "step" would have made of it
        step = own_data.reward_scale(episodes, None, None, "step", "games")
        with pytest.raises(ValueError, match="outside"):
            encode(episodes, step)
    if all(episodes["done"]):
        encode(episodes, scale)


def encode(episodes, scale):
    tokenizer = models.word_tokenizer(["s\n", "a\n", "b\n"])
    return data.encode(episodes, tokenizer, scale=scale, gamma=0.95, discount="turn")


@pytest.mark.parametrize(
    ("episodes", "bounds", "place", "message"),
    [
        ([GOOD, NEGATIVE], (0, None), None, r"games.jsonl:2: .* outside RETURN_LOW=0.0, .*widen"),
        ([GOOD, GOOD], (None, None), None, "all returns lie .*set these two"),
        ([GOOD, NEGATIVE], (None, -4), None, "RETURN_LOW=-3 and RETURN_HIGH=-4"),
        ([GOOD, CUT_OFF], (None, None), "end", r"games.jsonl:2: cut off .*REWARD_PLACE='step'"),
    ],
)
def test_returns_that_no_scale_fits(tmp_path, episodes, bounds, place, message):
    episodes = load(tmp_path, *episodes)
    with pytest.raises(ValueError, match=message), own_data.own_words():
        encode(episodes, own_data.reward_scale(episodes, *bounds, place, "games"))


def test_errors_of_the_package_in_the_template_s_words(tmp_path):
    episodes = load(tmp_path, GOOD, NEGATIVE)
    scale = own_data.reward_scale(episodes, None, None, "step", "games")
    with pytest.raises(ValueError, match="games.jsonl:2") as caught, own_data.own_words():
        encode(episodes, scale)
    for ours in ("RETURN_LOW=-3.0, RETURN_HIGH=1.0", "REWARD_PLACE='end'", "widen RETURN_LOW and"):
        assert ours in str(caught.value)

    tokenizer = models.character_tokenizer("END")
    model = models.small_model(tokenizer, layers=1, width=8, heads=1, context=8, seed=0)
    with pytest.raises(ValueError, match="^STOP='END' is not what"), own_data.own_words():
        QSFTPolicy(model, None, tokenizer, 0.0, stop="END", max_new_tokens=2)


def test_the_form_of_the_data_is_found(tmp_path):
    path, tokenizer = tmp_path / "games.jsonl", chat(CHATML, ["go"])
    turns = [{"role": "user", "content": "A door."}, {"role": "assistant", "content": "go"}]
    record = {"messages": turns, "reward": 0.5}
    plain = {"sequence": [["a\n", False], ["go\n", True]], "reward": [0, 1], "done": True}

    def found(*records, reward=None, tokenizer=tokenizer):
        path.write_text("".join(json.dumps(one) + "\n" for one in records))
        with own_data.own_words():
            episodes, written = own_data.load_episodes(path, reward, tokenizer)
        return episodes["text"][0][1], sum(episodes["reward"][0]), written

    assert found(record) == ("go<|im_end|>", 0.5, True)
    assert found({"messages": turns}, reward=2.0) == ("go<|im_end|>", 2.0, True)
    assert found(plain) == ("go\n", 1, False)
    assert found({"conversations": turns, "reward": 1}, tokenizer=None) == ("go\n", 1, False)
    with pytest.raises(ValueError, match="has chats, .* and other episodes .sequence."):
        found(record, plain)
    with pytest.raises(ValueError, match=r"games.jsonl:1: no reward in this form: set REWARD, .*"):
        found({"messages": turns})
    with pytest.raises(ValueError, match=r"games.jsonl:1: .*: set MODEL to a model.*\. Mend it$"):
        found(record, tokenizer=None)


# What the models say, and the policy at work


@pytest.fixture
def policy():
    """Two small models from scratch that differ, so that values do; rewards from -2 to 3."""
    return make_policy(["go\n", "left\n", "\n", "left", "a\n"])


def make_policy(words, **options):
    tokenizer = models.word_tokenizer(words)
    pi, q = (
        models.small_model(tokenizer, layers=1, width=8, heads=1, context=12, seed=seed)
        for seed in (0, 1)
    )
    for model in (pi, q):  # sharper than a model from scratch
        models.output_head(model).weight.data.mul_(20)
    scale = data.RewardScale(-2, 3, place="step")
    options = {"relative_support": 0.2, "scale": scale, **options}
    return QSFTPolicy(pi, q, tokenizer, 1.0, "paired", **options)


def test_opinions_of_texts_that_a_tokenizer_of_words_knows(policy):
    history = [("a\n", False)]
    known = policy.candidates(history, ["go\n"])
    found = own_data.mean_opinion(policy, [history, history], ["go\n", "leftgo\n"])
    assert found == {"Q_task": known["Q_task"][0], "log_pi": known["log_pi"][0]}
    assert known["Q_task"][0] == pytest.approx(5 * known["Q"][0] - 2)
    nothing = own_data.mean_opinion(policy, [history], ["leftgo\n"])
    assert nothing == {"Q_task": None, "log_pi": None}


def test_the_longest_action():
    tokenizer = models.word_tokenizer(["go\n", "left", "a\n"])
    assert own_data.longest_action(["go\n", "leftgo\n", "go\ngo\n"][::2], tokenizer, False) == 2


def test_a_table_of_tokens_has_the_returns_that_followed(tmp_path, policy):
    [episode] = load(tmp_path, ([("go\n", 0), ("left\n", 1)], True))
    episode["text"] = [text.replace("s\n", "a\n") for text in episode["text"]]
    one = datasets.Dataset.from_list([episode])
    scale = data.RewardScale(-2, 3, place="step")
    [encoded] = data.encode(one, policy.tokenizer, scale=scale, gamma=0.5, discount="turn")
    table = own_data.token_table(policy, episode, encoded)
    assert list(table["token"]) == ["a\n", "go\n", "a\n", "left\n"]
    last = (1 + 2) / 5
    assert table["return"].tolist() == pytest.approx([0, 0.5 * last, 0, last])
    rows = own_data.action_tokens([table, table])
    assert list(rows["episode"]) == [0, 0, 1, 1]
    assert list(rows["token"]) == ["go\n", "left\n"] * 2
    policy.relative_support = 0.0
    everything = own_data.token_table(policy, episode, encoded)
    assert everything["in_support"].all()
    assert (everything["choices"] == len(policy.tokenizer)).all()


def test_the_support_of_a_token_is_the_one_that_is_played(policy):
    """Against pi itself, as transformers computes it."""
    ids = policy.tokenizer("a\ngo\n", add_special_tokens=False)["input_ids"]
    start = policy.tokenizer.bos_token_id
    with torch.inference_mode():
        pi = policy.behavior(input_ids=torch.tensor([[start, *ids]])).logits[0, :-1].softmax(-1)
    inside = pi >= 0.2 * pi.max(-1, keepdim=True).values
    table = policy.values([("a\n", False), ("go\n", True)])
    assert table["choices"].tolist() == inside.sum(-1).tolist()
    assert table["in_support"].tolist() == [bool(inside[i, token]) for i, token in enumerate(ids)]
    assert 1 < table["choices"].sum() < 2 * len(policy.tokenizer)  # or nothing would be told apart


def test_replies_outside_the_support_come_last_however_high_their_value(policy):
    history, replies = [("a\n", False)], ["go\n", "left\n", "a\n", "\n"]
    plain = policy.candidates(history, replies)
    # A support that rules the reply of the highest value out, and leaves the likeliest.
    best = plain.loc[plain["Q"].idxmax()]
    likeliest = plain["log_pi"].max()
    assert best["log_pi"] < likeliest, "the models no longer show what this test is about"
    policy.relative_support = math.exp((best["log_pi"] - likeliest) / 2)
    ranked = own_data.rank(policy, history, replies)
    inside = ranked[ranked["in_support"]]
    outside = ranked[~ranked["in_support"]]
    assert len(inside) and best["action"] in set(outside["action"])
    assert ranked["in_support"].tolist() == sorted(ranked["in_support"], reverse=True)
    for part in (inside, outside):
        assert part["Q_task"].is_monotonic_decreasing
    assert (inside["note"] == "").all()
    assert outside["note"].str.startswith("outside the support").all()


class Parrot:
    """It answers what it is told to, and remembers what it was asked."""

    chat_template = False

    def __init__(self, *replies, stop="\n"):
        self.replies, self.stop, self.asked = iter(replies), stop, []

    def act(self, histories):
        self.asked.append(list(histories[0]))
        return [next(self.replies)]


def test_a_conversation_is_the_transcript_of_training():
    parrot, heard = Parrot("hello\n", "bye\n"), []
    found = own_data.converse(parrot, ["hi\n", "well\n"], heard.append)
    assert heard == ["hello\n", "bye\n"]
    whole = [("hi\n", False), ("hello\n", True), ("well\n", False), ("bye\n", True)]
    assert found == whole
    assert parrot.asked == [whole[:1], whole[:3]]
    assert own_data.converse(parrot, []) == []


@pytest.mark.parametrize(("reply", "stop"), [("\n", "\n"), (" \n", "\n"), ("END", ["\n", "END"])])
def test_a_policy_that_says_nothing_is_an_error(reply, stop):
    with pytest.raises(RuntimeError, match="said nothing .* after 'hi"):
        own_data.converse(Parrot(reply, stop=stop), ["hi\n"])


def test_a_real_policy_talks_until_its_context_is_full(policy):
    policy.greedy = True
    policy.constraint = None
    heard = []
    with pytest.raises(ContextError, match="context is 12"):
        own_data.converse(policy, ["a\n"] * 12, heard.append)
    assert len(heard) >= 1
    with pytest.raises(ValueError, match="does not know all of 'unheard"):
        own_data.converse(policy, ["unheard of\n"])


def test_a_chat_is_written_by_the_model_s_own_template():
    tokenizer = chat(CHATML, ["go"])
    parrot = Parrot("go<|im_end|>", "go on<|im_end|>", stop="<|im_end|>")
    parrot.chat_template, parrot.tokenizer = True, tokenizer
    own_data.converse(parrot, ["A door.", "A wall."], lambda reply: None)
    messages = [("user", "A door."), ("assistant", "go"), ("user", "A wall.")]
    messages = [{"role": role, "content": content} for role, content in messages]
    for asked, count in zip(parrot.asked, (1, 3), strict=True):
        assert asked == list(formats.chat_segments(messages[:count], tokenizer))


@pytest.mark.parametrize(
    ("sizes", "limit", "max_tokens", "held_out", "message"),
    [
        ([3, 9], 8, None, 0.1, "1 of 2 episodes have more tokens.*8, the longest 9"),
        ([4, 9], 3, 3, 0.1, r"no episode has at most 3 tokens \(MAX_TOKENS=3\).*shortest has 4"),
        ([4, 9], 3, None, 0.1, "no episode has at most 3 tokens"),
        ([1] * 4, 3, None, 0.1, "4 episodes are too few for HELD_OUT=0.1"),
        ([1] * 2, 3, None, 0.49, "2 episodes are too few"),
    ],
)
def test_lengths_that_leave_nothing(sizes, limit, max_tokens, held_out, message):
    with pytest.raises(ValueError, match=message):
        own_data.check_lengths(sizes, limit, max_tokens, held_out)


def test_lengths_that_will_do():
    own_data.check_lengths([1, 1, 1, 9], 8, 8, 0.3)
    own_data.check_lengths([1] * 10, 1, None, 0.1)


# The verdict. Frames are made by hand or by a world whose values are known.


def world(episodes=400, seed=0, length=5):
    """Action tokens whose Q is the true chance of the return, which is 0 or 1, and so calibrated.

    Each of an episode has a value of its own; V is one half.
    """
    rng = np.random.default_rng(seed)
    q = rng.uniform(0.05, 0.95, episodes * length)
    table = {
        "episode": np.repeat(np.arange(episodes), length),
        "token": rng.choice(["a", "b"], len(q)),
        "pi": 0.5,
        "Q": q,
        "V": 0.5,
        "return": (rng.random(len(q)) < q).astype(float),
        "in_support": True,
        "choices": 2,
    }
    return pd.DataFrame(table)


UNIT = data.RewardScale(0, 1)
FALLEN = [3.0, 0.7, 0.7, 0.7, 0.7, 0.7]


def verdict(held_out, train=None, **changes):
    given = {"behavior_losses": FALLEN, "clamped": 0.0, "scale": UNIT, "of_the_data": True}
    train = world(seed=1) if train is None else train
    return own_data.verdict(held_out, train, **given | changes)


def looks(rows):
    """The numbers of the checks that are not ok."""
    return [number for number, row in enumerate(rows, 1) if row["verdict"] != own_data.OK]


def test_all_is_well():
    rows = verdict(world())
    assert looks(rows) == []
    assert len(rows) == 5
    lines = own_data.told(rows).splitlines()
    assert sum(line.startswith("ok ") for line in lines) == 5
    assert "To do" not in own_data.told(rows)


@pytest.mark.parametrize(
    ("changes", "checks", "remedy"),
    [
        ({"pi": 0.4}, [1], "BEHAVIOR_STEPS"),  # worse than the counts of two tokens, ln 2
        ({"Q": 0.5}, [2], "VALUE_STEPS"),  # a constant, and calibrated
        ({"Q": lambda table: 1 - table["Q"]}, [2, 3], "VALUE_STEPS"),
        ({"Q": lambda table: 0.5 + 0.1 * (table["Q"] - 0.5)}, [3], "RETURNS_FIRST"),
        ({"Q": lambda table: (table["Q"] > 0.5) * 1.0}, [3, 4], "LEARNING_RATE"),
        ({"choices": 1}, [5], "a smaller PLAY_SUPPORT, or data"),
        ({"in_support": lambda table: table["episode"] % 5 > 0}, [5], "a smaller PLAY_SUPPORT"),
    ],
)
def test_each_fault_speaks(changes, checks, remedy):
    rows = verdict(world().assign(**changes))
    assert looks(rows) == checks
    assert remedy in rows[checks[-1] - 1]["remedy"]
    told = own_data.told(rows).splitlines()
    assert sum(line.startswith("look here") for line in told) == len(checks)
    assert sum(line.strip().startswith("To do: ") for line in told) == len(checks)
    assert max(map(len, told)) <= 98


def test_of_training_and_its_losses():
    by_heart = world(seed=1).assign(pi=0.6)
    assert looks(verdict(world(), by_heart)) == [1]
    assert "by heart" in verdict(world(), by_heart)[0]["means"]
    falling = verdict(world(), behavior_losses=[3.0, 2.5, 2.0, 1.5, 1.0, 0.5])
    assert looks(falling) == [1]
    assert falling[0]["remedy"] == "more BEHAVIOR_STEPS"
    clamped = verdict(world(), clamped=0.2)
    assert looks(clamped) == [4]
    assert "RETURN_LOW" in clamped[3]["remedy"]


def test_values_of_a_better_policy_may_lie_above_the_returns_not_below():
    hopeful = world().assign(Q=lambda table: 0.5 + table["Q"] / 2)
    assert looks(verdict(hopeful)) == [3]
    assert looks(verdict(hopeful, of_the_data=False)) == []
    gloomy = world().assign(Q=lambda table: table["Q"] / 2)
    assert looks(verdict(gloomy, of_the_data=False)) == [3]


def test_certain_values_of_certain_outcomes_are_in_range():
    certain = world().assign(Q=lambda table: table["return"])
    assert looks(verdict(certain)) == []


def test_numbers_are_in_the_task_s_own_units():
    scale = data.RewardScale(-10, 10)
    table = world()
    found = verdict(table, scale=scale)[2]["found"]
    assert f"mean Q {20 * table['Q'].mean() - 10:.3g}, " in found
    assert f"the spread of returns is {20 * table['return'].std(ddof=0):.2g}" in found


def test_few_episodes_tell_little():
    """The same values and returns, but as if all of them were four episodes."""
    table = world(40).assign(Q=lambda table: 0.8 * (table["episode"] % 2) + 0.1)
    table["return"] = table["episode"] % 4 // 2 * 0.5 + table["episode"] % 2 * 0.25
    assert own_data.check_outcome(table, 0.5)["verdict"] == "ok"
    few = table[table["episode"] < 4]
    assert own_data.check_outcome(few, 0.5)["verdict"] == "look here"


def test_counts_of_tokens_by_hand():
    train, held_out = pd.Series(["a", "a", "a", "b"]), pd.Series(["a", "b", "new"])
    # Each of the two tokens, and one that was never seen, is counted once more: 4 + 2 + 1.
    expected = -(np.log(4 / 7) + np.log(2 / 7) + np.log(1 / 7)) / 3
    assert own_data.unigram_cross_entropy(train, held_out) == pytest.approx(expected)


def test_correlation_is_pearson_s_and_its_interval_covers():
    """Against numpy, and against the truth: 95 % intervals of 200 samples that are clustered."""
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(200):
        episode = np.repeat(np.arange(60), 4)
        shared = rng.normal(size=(2, 60)) @ np.eye(60).repeat(4, axis=1)
        x = pd.Series(shared[0] + rng.normal(size=240))
        y = pd.Series(shared[0] + shared[1] + rng.normal(size=240))
        found, low, high = own_data.correlation(x, y, pd.Series(episode))
        assert found == pytest.approx(np.corrcoef(x, y)[0, 1])
        covered.append(low <= 1 / np.sqrt(6) <= high)
    assert 0.89 <= np.mean(covered) <= 0.99
    constant = pd.Series(np.full(240, 0.3))
    assert own_data.correlation(constant, y, pd.Series(episode)) == (0, 0, 0)


def test_calibration_by_hand():
    table = pd.DataFrame(
        {"episode": [7, 7, 9, 9], "Q": [0.1, 0.9, 0.3, 0.5], "return": [0.0, 1.0, 0.0, 1.0]}
    )
    found = own_data.calibration(table, bins=2)
    assert found["Q"].tolist() == pytest.approx([0.2, 0.7])
    assert found["return"].tolist() == [0.0, 1.0]
    # Both episodes have the same return in each part, so drawing other ones changes nothing.
    assert found["low"].tolist() == found["high"].tolist() == [0.0, 1.0]
    wide = own_data.calibration(table.assign(Q=[0.1, 0.2, 0.3, 0.4]), bins=2)
    assert wide["return"].tolist() == [0.5, 0.5]
    one_each = own_data.calibration(table.assign(episode=range(4), Q=0.5), bins=1)
    assert one_each["low"].item() == 0.0
    assert one_each["high"].item() == 1.0


def test_new_tokens_are_counted_by_episode(tmp_path):
    episodes = load(tmp_path, GOOD, NEGATIVE, ([("c\n", 0)], True), ([("a\n", 0)], True))
    tokenizer = models.word_tokenizer(["s\n", "a\n", "b\n", "c\n"])
    encoded = data.encode(episodes, tokenizer, scale=data.RewardScale(-3, 1))
    train, test = encoded.select([0]), encoded.select([1, 2, 3])
    assert own_data.share_with_new_tokens(train, test) == pytest.approx(1 / 3)
