"""What the template refuses before training, in its own words, and what it says after."""

import json
from types import SimpleNamespace

import nbformat
import pytest
from sample_tokenizers import CHATML, chat

from qsft_lite import data, models
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
        ({"LEFTOVER": "none"}, "LEFTOVER"),
        ({"LEFTOVER": "uniform"}, "BACKUP='behavior' needs LEFTOVER='dummy'"),
        ({"BACKUP": "mean"}, "BACKUP"),
        ({"SUPPORT": -0.1}, "SUPPORT"),
        ({"PLAY_SUPPORT": 2}, "PLAY_SUPPORT"),
        ({"TARGET_RATE": 0}, "TARGET_RATE"),
        ({"SCORE": "q"}, "SCORE"),
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


def test_opinions_of_texts_that_a_tokenizer_of_words_knows():
    tokenizer = models.word_tokenizer(["go\n", "left", "a\n"])
    model = models.small_model(tokenizer, layers=1, width=8, heads=1, context=8, seed=0)
    policy = QSFTPolicy(model, model, tokenizer, 1.0, dummy=models.dummy_id(tokenizer))
    history = [("a\n", False)]
    known = policy.candidates(history, ["go\n"])
    found = own_data.mean_opinion(policy, [history, history], ["go\n", "leftgo\n"])
    assert found == {"Q": known["Q"][0], "log_pi": known["log_pi"][0]}
    nothing = own_data.mean_opinion(policy, [history], ["leftgo\n"])
    assert nothing == {"Q": None, "log_pi": None}
    assert own_data.longest_action(["go\n", "leftgo\n", "go\ngo\n"][::2], tokenizer, False) == 2


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


# The verdict

FINE = {
    **{"behavior_losses": [3.0, 0.9, 0.9, 0.9], "epochs": (2.0, 3.0), "ratio": 0.8},
    **{"target": 0.5, "mean_return": 0.4, "familiar": 1.0, "new_tokens": 0.0},
    **{"calibration_error": 0.05},
}


def test_all_is_well():
    assert [row["verdict"] for row in own_data.verdict(**FINE)] == ["OK"] * 7
    assert len(own_data.verdict(**FINE | {"calibration_error": None})) == 6


@pytest.mark.parametrize(
    ("changes", "question", "remedy"),
    [
        ({"behavior_losses": [3.0, 2.5, 2.0, 1.5, 1.0, 0.5]}, "stage one", "BEHAVIOR_STEPS"),
        ({"epochs": (0.37, 54.0)}, "every episode", "BATCH_ROWS"),
        ({"ratio": 6.5}, "p and pi", "TRAIN_BEHAVIOR"),
        ({"target": 0.97}, "left their start", "TARGET_RATE"),
        ({"familiar": 0.0}, "actions of the data", "PLAY_SUPPORT"),
        ({"new_tokens": 0.3}, "words", "TOKENS = 'characters'"),
        ({"calibration_error": 0.47}, "match the returns", "VALUE_STEPS"),
    ],
)
def test_each_fault_speaks(changes, question, remedy):
    rows = own_data.verdict(**FINE | changes)
    (bad,) = [row for row in rows if row["verdict"] != "OK"]
    assert question in bad["question"]
    assert remedy in bad["found"]
    (line,) = [line for line in own_data.told(rows).splitlines() if not line.startswith("OK ")]
    assert line.startswith("NOT YET  ")


def test_values_of_good_data_may_be_high():
    rows = own_data.verdict(**FINE | {"target": 0.97, "mean_return": 0.95})
    assert [row["verdict"] for row in rows] == ["OK"] * 7


def test_new_tokens_are_counted_by_episode(tmp_path):
    episodes = load(tmp_path, GOOD, NEGATIVE, ([("c\n", 0)], True), ([("a\n", 0)], True))
    tokenizer = models.word_tokenizer(["s\n", "a\n", "b\n", "c\n"])
    encoded = data.encode(episodes, tokenizer, scale=data.RewardScale(-3, 1))
    train, test = encoded.select([0]), encoded.select([1, 2, 3])
    assert own_data.share_with_new_tokens(train, test) == pytest.approx(1 / 3)
