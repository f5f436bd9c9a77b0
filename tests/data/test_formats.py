"""Other projects' files, by small samples of their real shape, against episodes written by hand."""

import gzip
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from qsft_lite import data

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# As Llama 3's: a bos token in front, the content trimmed, nothing behind the mark.
HEADERS = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '[' + m.role + ']\n\n' + m.content | trim + '<eot>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '[assistant]\n\n' }}{% endif %}"
)
LINES = "{% for m in messages %}{{ m.content + '\n' }}{% endfor %}"  # no mark at the end of a turn
FORGETFUL = (  # as Qwen 3's: thoughts stay in the last turn only
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{{ m.content if loop.last else m.content.split('</think>')[-1] }}{{ '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
PICKY = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML
)


def chat_tokenizer(template):
    """Every byte is a token; the template is the chat model's."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>")
    tokenizer.chat_template = template
    return tokenizer


def load(tmp_path, *records, **options):
    path = tmp_path / "games.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return data.load_trajectories(path, **options).to_list()


def segments(episode):
    return list(zip(episode["text"], episode["is_action"], strict=True))


def episode(*texts, reward, done=True):
    """Texts with a leading "*" are actions, which have the rewards in turn."""
    rewards = iter(reward)
    return {
        "text": [text.removeprefix("*") for text in texts],
        "is_action": [text.startswith("*") for text in texts],
        "reward": [next(rewards) if text.startswith("*") else 0.0 for text in texts],
        "done": done,
    }


SEQUENCE = {"sequence": [["Wordle:\n", 0.0], ["c r a n e\n", 1.0]], "reward": [-1], "done": False}

MAZE = [
    {"state": "goal 8, 6; you 6, 6\n", "action": "move down\n", "reward": -1, "done": False},
    {"state": "goal 8, 6; you 7, 6\n", "action": "move down\n", "reward": 0, "done": True},
]
MAZE_EPISODE = episode(
    "goal 8, 6; you 6, 6\n", "*move down\n", "goal 8, 6; you 7, 6\n", "*move down\n", reward=[-1, 0]
)
CHESS = [
    {"from_state": "8/8 w", "action": "Qh5+", "reward": 0, "done": False, "to_state": "8/7 w"},
    {"from_state": "8/7 w", "action": "Qh8#", "reward": 1, "done": True, "to_state": ""},
]
CHESS_EPISODE = episode("8 / 8   w\n", "*Q h 5 +\n", "8 / 7   w\n", "*Q h 8 #\n", reward=[0.0, 1.0])
TEXT_NAV = {
    "text_history": ["-= Kitchen =-", "go east", "-= Office =-", "take key", "Done."],
    "rewards": [0, 1],
    "dones": [False, True],
}
TEXT_NAV_EPISODE = episode(
    "-= Kitchen =-", "*go east", "-= Office =-", "*take key", "Done.", reward=[0, 1]
)
PARTLY_SEEN = {  # the maze again: a reward and a done for each text
    "text_history": ["a wall\n", "move up\n", "a hall\n", "move left\n"],
    "rewards": [0, -1, 0, -1],
    "dones": [False, False, False, False],
}
TWENTY = {
    "lines": ["Is it an animal? No.", "Is it hot? or cold? Yes.", "Is it a stove? Yes."],
    "correct": True,
    "word": ["Stove"],
}
TWENTY_EPISODE = episode(
    "Questions:\n",
    "*Is it an animal?\n",
    "No.\n",
    "*Is it hot? or cold?\n",
    "Yes.\n",
    "*Is it a stove?\n",
    "Yes.\n",
    reward=[-1, -1, 0],
)
CITY = {
    "conversation": ["Is it in Asia? No. Why do you ask?", "My next question:\n\nIs it big? Yes."],
    "done": False,
    "word": "bogota,colombia",
}
CITY_EPISODE = episode(
    "Questions:\n",
    "*Is it in Asia?\n",
    "No. Why do you ask?\n",
    "*My next question:\n\nIs it big?\n",
    "Yes.\n",
    reward=[-1, -1],
    done=False,
)
WEBSHOP = {
    "conversations": [
        {"from": "human", "loss": None, "value": "You are web shopping."},
        {"from": "gpt", "loss": False, "value": "Ok."},
        {"from": "human", "loss": None, "value": "WebShop [SEP] Search"},
        {"from": "gpt", "loss": True, "value": "Thought:\nNow.\n\nAction:\nsearch[red shoes]"},
        {"from": "human", "loss": None, "value": "Page 1"},
        {"from": "gpt", "loss": True, "value": "Action:\nclick[Buy Now]"},
    ],
    "item_id": "webshop_6",
}
WEBSHOP_TEXTS = (
    "You are web shopping.\n",
    "Ok.\n",
    "WebShop [SEP] Search\n",
    "*Thought:\nNow.\n\nAction:\nsearch[red shoes]\n",
    "Page 1\n",
    "*Action:\nclick[Buy Now]\n",
)
ETO = {
    "id": "3",
    "conversations": [
        {"from": "human", "value": "Your task: find it.\n"},
        {"role": "assistant", "content": "Action: go to desk 1"},
    ],
}
ETO_TEXTS = ("Your task: find it.\n", "*Action: go to desk 1\n")
ETO_RUN = ETO | {"meta": {"reward": 0.25, "finished": False, "steps": 1}}
PAIR = {
    "id": "3",
    "prompt": [
        {"from": "human", "value": "Interact."},
        {"from": "gpt", "value": "OK"},
        {"from": "human", "value": "Task."},
    ],
    "chosen": [{"from": "gpt", "value": "go"}],
    "rejected": [
        {"from": "gpt", "value": "wait"},
        {"from": "human", "value": "Nothing happens."},
        {"from": "gpt", "value": "wait"},
    ],
}
PAIR_EPISODES = [
    episode("Interact.\n", "OK\n", "Task.\n", "*go\n", reward=[1]),
    episode(
        *("Interact.\n", "OK\n", "Task.\n", "*wait\n", "Nothing happens.\n", "*wait\n"),
        reward=[0, 0],
    ),
]
CHAT = {
    "messages": [
        {"role": "system", "content": "You play."},
        {"role": "user", "content": "A door."},
        {"role": "assistant", "content": "open it"},
        {"role": "tool", "content": "It opens."},
        {"role": "assistant", "content": "go"},
    ]
}

READ = {
    "sequence": (SEQUENCE, [episode("Wordle:\n", "*c r a n e\n", reward=[-1], done=False)]),
    "maze": (MAZE, [MAZE_EPISODE]),
    "two mazes in a list": (
        MAZE + MAZE[1:],
        [MAZE_EPISODE, episode("goal 8, 6; you 7, 6\n", "*move down\n", reward=[0])],
    ),
    "chess": (CHESS, [CHESS_EPISODE]),
    "text_nav": (TEXT_NAV, [TEXT_NAV_EPISODE]),
    "partly seen maze": (
        PARTLY_SEEN,
        [
            episode(
                "a wall\n", "*move up\n", "a hall\n", "*move left\n", reward=[-1, -1], done=False
            )
        ],
    ),
    "twenty questions": (TWENTY, [TWENTY_EPISODE]),
    "city": (CITY, [CITY_EPISODE]),
    "twenty lines": (
        {"lines": ["Is it? No."] * 20, "correct": False},
        [episode("Questions:\n", *("*Is it?\n", "No.\n") * 20, reward=[-1] * 20)],
    ),
    "a run of ETO": (ETO_RUN, [episode(*ETO_TEXTS, reward=[0.25], done=False)]),
    "rewarded": (ETO | {"reward": 0.5}, [episode(*ETO_TEXTS, reward=[0.5])]),
    "pair": (PAIR, PAIR_EPISODES),
}


@pytest.mark.parametrize("name", READ)
def test_a_form_with_rewards(name, tmp_path):
    record, expected = READ[name]
    assert load(tmp_path, record) == expected
    assert load(tmp_path, record, reward=7.0) == expected  # for those that have none


@pytest.mark.parametrize("record, texts", [(WEBSHOP, WEBSHOP_TEXTS), (ETO, ETO_TEXTS)])
def test_conversations_get_their_reward_from_the_caller(record, texts, tmp_path):
    actions = sum(text.startswith("*") for text in texts)
    rewards = [0.0] * (actions - 1) + [0.75]
    assert load(tmp_path, record, reward=0.75) == [episode(*texts, reward=rewards)]
    with pytest.raises(ValueError, match=r"games\.jsonl:1: no reward in this form: pass reward="):
        load(tmp_path, record)
    bare = {"conversation": ["Is it? Yes."]}
    expected = episode("Questions:\n", "*Is it?\n", "Yes.\n", reward=[0.75])
    assert load(tmp_path, bare, reward=0.75) == [expected]


def test_a_chat_is_what_its_template_writes(tmp_path):
    tokenizer = chat_tokenizer(CHATML)
    (chat,) = load(tmp_path, CHAT, tokenizer=tokenizer, reward=1.0)
    assert segments(chat) == [
        (
            "<|im_start|>system\nYou play.<|im_end|>\n<|im_start|>user\nA door.<|im_end|>\n"
            "<|im_start|>assistant\n",
            False,
        ),
        ("open it<|im_end|>", True),
        ("\n<|im_start|>tool\nIt opens.<|im_end|>\n<|im_start|>assistant\n", False),
        ("go<|im_end|>", True),
        ("\n", False),
    ]
    assert chat["reward"] == [0.0, 0.0, 0.0, 1.0, 0.0]
    (shop,) = load(tmp_path, WEBSHOP, tokenizer=tokenizer, reward=1.0)
    assert [text for text, act in segments(shop) if act] == [
        "Thought:\nNow.\n\nAction:\nsearch[red shoes]<|im_end|>",
        "Action:\nclick[Buy Now]<|im_end|>",
    ]
    assert "<|im_start|>assistant\nOk.<|im_end|>\n<|im_start|>user\nWebShop" in shop["text"][0]
    pair = load(tmp_path, PAIR, tokenizer=tokenizer)
    assert [one["reward"][one["is_action"].index(True)] for one in pair] == [1.0, 0.0]


@pytest.mark.parametrize("template", [CHATML, HEADERS, LINES])
def test_a_chat_joined_is_the_chat_rendered_at_once(template, tmp_path):
    tokenizer = chat_tokenizer(template)
    turns = [*CHAT["messages"], {"role": "user", "content": "End."}]
    for messages in (turns, turns[:-1], [*turns[:-2], {"role": "assistant", "content": " go \n"}]):
        (chat,) = load(tmp_path, {"messages": messages}, tokenizer=tokenizer, reward=1.0)
        whole = tokenizer.apply_chat_template(messages, tokenize=False)
        assert "".join(chat["text"]) == whole.removeprefix("<s>")
        actions = [text for text, act in segments(chat) if act]
        assert [action.strip().split("<")[0].strip() for action in actions] == ["open it", "go"]
        assert all(action.endswith(("<|im_end|>", "<eot>", "\n")) for action in actions)


def test_a_chat_is_refused_where_it_cannot_be_told_turn_by_turn(tmp_path):
    thinking = {"role": "assistant", "content": "<think>hm</think>go"}
    messages = [{"role": "user", "content": "Hi."}, thinking, {"role": "user", "content": "Next."}]
    with pytest.raises(ValueError, match=r"jsonl:1: turn 3: .* writes earlier turns anew"):
        load(tmp_path, {"messages": messages}, tokenizer=chat_tokenizer(FORGETFUL), reward=1.0)
    with pytest.raises(ValueError, match=r"jsonl:1: the chat template refuses.*no system"):
        load(tmp_path, CHAT, tokenizer=chat_tokenizer(PICKY), reward=1.0)
    with pytest.raises(ValueError, match=r"jsonl:1: .*pass tokenizer="):
        load(tmp_path, CHAT, reward=1.0)
    with pytest.raises(ValueError, match="no chat template"):
        load(tmp_path, CHAT, reward=1.0, tokenizer=chat_tokenizer(None))


def test_a_streamed_chat_is_the_loaded_one(tmp_path):
    path = tmp_path / "games.jsonl"
    path.write_text(json.dumps(CHAT) + "\n" + json.dumps(SEQUENCE) + "\n")
    options = {"tokenizer": chat_tokenizer(CHATML), "reward": 1.0}
    loaded = data.load_trajectories(path, **options)
    assert len(loaded) == 2
    assert list(data.load_trajectories(path, **options, streaming=True)) == loaded.to_list()


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 2)
    | st.just(1e400)
    | st.text("a?\n\ud800", max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["from", "role", "value", "content", "loss", "state", "action", "reward"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)
KEYS = ["sequence", "reward", "done", "text_history", "rewards", "dones", "lines", "conversation"]
KEYS += ["correct", "conversations", "meta", "prompt", "chosen", "rejected", "messages", "state"]
KEYS += ["from_state", "action"]


@given(st.dictionaries(st.sampled_from(KEYS), json_values, max_size=6), st.booleans())
def test_any_json_at_all_is_read_or_refused_with_its_line(record, chat):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "games.jsonl"
        path.write_text(json.dumps(record) + "\n" + json.dumps([record, record]) + "\n")
        tokenizer = chat_tokenizer(CHATML) if chat else None
        try:
            data.load_trajectories(path, reward=1.0, tokenizer=tokenizer)
        except ValueError as error:
            assert str(error).startswith(f"{path}:"), error


def test_lists_within_lists_are_one_bad_line(tmp_path):
    path = tmp_path / "games.jsonl"
    for depth in (3, 300, 900, 100_000):
        path.write_text("[" * depth + "]" * depth + "\n" + json.dumps(SEQUENCE))
        with pytest.warns(UserWarning, match="skipped 1 of 2"):
            assert len(data.load_trajectories(path, on_bad="skip")) == 1


# Files


def test_json_documents_lines_gzip_and_folders(tmp_path):
    """One line, one document of many lines, or several files: the same episodes."""
    records = [TWENTY, CITY, SEQUENCE]
    expected = load(tmp_path, *records)
    folder = tmp_path / "folder"
    folder.mkdir()
    mark = b"\xef\xbb\xbf"
    for content in (
        json.dumps(records).encode(),
        mark + json.dumps(records, indent=4).encode(),
        b"\n".join(json.dumps([record]).encode() for record in records),
    ):
        for name, held in {"a.json": content, "a.json.gz": gzip.compress(content)}.items():
            (tmp_path / name).write_bytes(held)
            assert data.load_trajectories(tmp_path / name).to_list() == expected
    for number, record in enumerate(records):  # ETO's runs: an indented document each
        (folder / f"{number}.json").write_text(json.dumps(record, indent=4))
    assert data.load_trajectories(folder).to_list() == expected
    loaded = data.load_trajectories([str(folder), tmp_path / "a.json"], streaming=True)
    assert list(loaded) == expected * 2
    (folder / "a.jsonl").write_text(json.dumps(SEQUENCE))  # beside the .json of its settings
    (folder / ".b.jsonl.17").write_text("half")
    assert data.load_trajectories(folder).to_list() == expected[2:]
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no file that ends with .jsonl or .json"):
        data.load_trajectories(tmp_path / "empty")


def test_transitions_of_a_line_each(tmp_path):
    cut_off = episode("goal 8, 6; you 6, 6\n", "*move down\n", reward=[-1], done=False)
    assert load(tmp_path, *CHESS, *MAZE, MAZE[0]) == [CHESS_EPISODE, MAZE_EPISODE, cut_off]
    assert load(tmp_path, MAZE, MAZE[:1], CHESS) == [MAZE_EPISODE, cut_off, CHESS_EPISODE]
    assert load(tmp_path, [MAZE, MAZE[:1], CHESS]) == [MAZE_EPISODE, cut_off, CHESS_EPISODE]
    path = tmp_path / "games.jsonl"
    lines = [json.dumps(step) for step in (*MAZE, *MAZE)]
    path.write_text("\n".join([*lines[:3], "{", *lines[3:]]))  # the second episode is damaged
    with pytest.raises(ValueError, match=r"games\.jsonl:3: transition 2: not a line of JSON"):
        data.load_trajectories(path)
    with pytest.warns(UserWarning, match="skipped 1 of 2"):
        assert data.load_trajectories(path, on_bad="skip").to_list() == [MAZE_EPISODE]


def test_an_item_of_a_document_is_named(tmp_path):
    path = tmp_path / "games.json"
    path.write_text(json.dumps([TWENTY, {"lines": ["No."]}, None], indent=1))
    with pytest.raises(ValueError, match=r"games\.json: item 2: lines 1 is 'No.', not 'question"):
        data.load_trajectories(path)
    with pytest.warns(UserWarning, match=r"skipped 2 of 3 (.|\n)*item 3: an episode is"):
        assert data.load_trajectories(path, on_bad="skip").to_list() == [TWENTY_EPISODE]


def test_encode_names_the_line_of_another_form(tmp_path):
    path = tmp_path / "games.jsonl"
    path.write_text(json.dumps(ETO | {"reward": 0.25}) + "\n" + json.dumps(WEBSHOP) + "\n")
    loaded = data.load_trajectories(path, reward=0.5)
    with pytest.raises(ValueError, match=r"games\.jsonl:2: a return to go outside"):
        data.encode(loaded, chat_tokenizer(CHATML), scale=data.RewardScale(0, 0.4))


FIRST = {"from": "human", "value": "Hi."}
WRONG = {
    "no form": ({"prompt": "a", "completion": "b"}, "with the keys .'prompt', 'completion'."),
    "no reward": ([{"state": "a", "action": "b", "done": True}], "transition 1 must have"),
    "state is a list": ([MAZE[0] | {"state": ["a"]}], "transition 1: state and action must be"),
    "transition done 'no'": ([MAZE[0] | {"done": "no"}], "done is 'no', not true or false"),
    "no transition": ([MAZE[0], [1]], "transition 2 must have"),
    "rewards of neither": (TEXT_NAV | {"rewards": [0, 1, 0]}, "5 texts, 5 is_action, 3 rewards"),
    "no dones": (TEXT_NAV | {"dones": []}, "dones must be lists, and not empty"),
    "a reward on a state": (PARTLY_SEEN | {"rewards": [1, 0, 0, 0]}, "not on an action"),
    "a history of numbers": (TEXT_NAV | {"text_history": [1, 2, 3, 4, 5]}, "text 0 is 1, not a"),
    "no lines": (TWENTY | {"lines": []}, "lines must be a list of 'question"),
    "a car dealer's lines": (TWENTY | {"lines": [{"role": "Seller"}]}, "lines 1 is {'role': 'S"),
    "correct": (TWENTY | {"correct": "yes"}, "correct or done is 'yes', not true or false"),
    "turns are a text": ({"conversations": "Hi."}, "conversations must be a list of turns"),
    "a turn is a text": ({"conversations": [FIRST, "Hi."]}, "conversations 2 is 'Hi.', not a turn"),
    "from nobody": ({"conversations": [{"from": "bing", "value": ""}]}, "1 is from 'bing', none"),
    "from a list": ({"conversations": [{"from": ["gpt"], "value": ""}]}, "is from .'gpt'., none"),
    "nothing said": ({"conversations": [{"from": "gpt"}]}, "turn 1 says None, not a text"),
    "no agent": ({"conversations": [FIRST]}, "no action in this episode"),
    "no role": ({"messages": [{"content": "Hi."}]}, "messages 1 has no role"),
    "a text of a pair": (PAIR | {"chosen": "go"}, "chosen must be a list of turns, got 'go'"),
    "many rewards": (ETO | {"rewards": [1.0]}, "rewards: a conversation has one number, 'reward'"),
    "a reward of words": (ETO | {"reward": "good"}, "reward 1 is 'good', not a finite number"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_sample_names_its_line_and_what_is_wrong(name, tmp_path):
    record, complaint = WRONG[name]
    tokenizer = chat_tokenizer(CHATML) if "messages" in record else None
    with pytest.raises(ValueError, match=rf"games\.jsonl:2: .*{complaint}"):
        load(tmp_path, TWENTY, record, reward=1.0, tokenizer=tokenizer)
    with pytest.warns(UserWarning, match=f"skipped 1 of 2 (.|\n)*:2: .*{complaint}"):
        load(tmp_path, TWENTY, record, reward=1.0, tokenizer=tokenizer, on_bad="skip")


def test_a_reward_for_all_is_a_number(tmp_path):
    with pytest.raises(ValueError, match="reward= is nan"):
        load(tmp_path, ETO, reward=float("nan"))
