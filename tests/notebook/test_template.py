"""The template notebook: as committed, on a file and model of one's own, and on bad ones."""

import json

import nbformat
import pytest
import sample_tokenizers
import test_notebook_hygiene
from transformers import AutoModelForCausalLM, AutoTokenizer

from qsft_lite import data, envs, models, notebook, trainer
from qsft_lite.data import formats, trajectories
from qsft_lite.notebook.runner import NotebookError
from qsft_lite.policy import QSFTPolicy
from qsft_lite.results import project_root

TEMPLATE = project_root() / "notebooks" / "template_your_own_data.ipynb"
MAZE = ("S..", ".TG")
SMOKE = {
    "PROFILE": "smoke",
    "BEHAVIOR_STEPS": 12,
    "VALUE_STEPS": 12,
    "BATCH_ROWS": 2,
    "BETAS": [0.0, 8.0],
}


# The template is a tool: it has no exercises, and asks for no predictions.
OF_CHAPTERS = (test_notebook_hygiene.check_exercises, test_notebook_hygiene.check_predictions)
CHECKS = [check for check in test_notebook_hygiene.CHECKS if check not in OF_CHAPTERS]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_hygiene(check):
    check(nbformat.read(TEMPLATE, as_version=4), TEMPLATE.name)


@pytest.fixture
def own_data(tmp_path):
    """A file of walks, whose rewards run from -2 to 3, and the maze's texts."""
    walks = envs.generate("gridworld", 60, 0, maze=MAZE, behavior=(0.25,) * 4, max_steps=8)
    path = tmp_path / "walks.jsonl"
    with open(path, "w", encoding="utf-8") as file:
        for walk in walks:
            reward = [5.0 * r for r in walk["reward"]]
            reward[-2] -= 2.0  # of the last action
            sequence = list(zip(walk["text"], walk["is_action"], strict=True))
            line = {"sequence": sequence, "reward": reward, "done": walk["done"]}
            file.write(json.dumps(line) + "\n")
    return path, envs.make("gridworld", maze=MAZE).texts


@pytest.fixture
def run_template(tmp_path, monkeypatch):
    """Run the template with parameters; results and pictures go beside the test's files."""
    for name in ("RESULTS", "FIGURES"):
        monkeypatch.setenv(f"QSFT_{name}", str(tmp_path / name.lower()))
    monkeypatch.setenv("QSFT_THREADS", "1")

    def run(**parameters):
        output = tmp_path / "executed.ipynb"
        notebook.run(TEMPLATE, {**SMOKE, **parameters}, output)
        return nbformat.read(output, as_version=4)

    return run


def test_own_data_and_model(tmp_path, own_data, run_template):
    path, texts = own_data
    tokenizer = models.word_tokenizer(texts)
    model = models.small_model(tokenizer, layers=1, width=16, heads=2, context=64, seed=0)
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "model")

    executed = run_template(
        DATA=str(path),
        MODEL=str(tmp_path / "model"),
        OUTPUT=str(tmp_path / "run"),
        RETURN_LOW=-2,
        RETURN_HIGH=3,
        BETA=10,  # not one of BETAS
    )

    printed = "".join(
        output.get("text", "") for cell in executed.cells for output in cell.get("outputs", [])
    )
    assert "a return of -2 becomes 0, one of 3 becomes 1" in printed
    pictures = filter(test_notebook_hygiene.has_picture, test_notebook_hygiene.code_cells(executed))
    assert len(list(pictures)) == 3
    assert "1. Is pi fitted?" in printed
    assert "5. Does the support hold the data?" in printed
    assert "policy: " in printed
    result = json.loads((tmp_path / "results" / f"{TEMPLATE.stem}.smoke.json").read_text())
    assert result["data_hash"] == trajectories.data_hash(trajectories.load_trajectories(path))

    for name in ("behavior", "q_model"):  # plain models and tokenizers of transformers
        folder = tmp_path / "run" / "policy" / name
        loaded = AutoModelForCausalLM.from_pretrained(folder, use_safetensors=True)
        changed = any(
            (weight != model.state_dict()[key]).any() for key, weight in loaded.state_dict().items()
        )
        assert changed, f"{name} was not trained"
        assert AutoTokenizer.from_pretrained(folder).get_vocab() == tokenizer.get_vocab()
    policy = QSFTPolicy.from_pretrained(tmp_path / "run" / "policy")
    assert (policy.beta, policy.score, policy.stop) == (10.0, "paired", "\n")
    assert (policy.relative_support, policy.gamma, policy.dummy) == (0.05, 0.95, None)
    assert policy.scale == data.RewardScale(-2.0, 3.0, place="step")  # some were cut off
    assert policy.data_hash == result["data_hash"]
    # The prior is that of the training episodes, eight of ten.
    assert policy.prior == pytest.approx(mean_return(path), abs=0.02)
    assert [row["beta"] for row in result["tables"]["beta"]] == ["0", "8", "10", "0, greedy"]
    assert all(action in texts for action in policy.act(["r0c0\n", "r0c0\nright\nr0c1\n"]))


def mean_return(path):
    """Of the actions, discounted and scaled from [-2, 3], by hand; what is below 0 counts as 0."""
    followed = []
    for line in path.read_text(encoding="utf-8").splitlines():
        episode, value = json.loads(line), 0.0
        is_action = [is_action for _, is_action in episode["sequence"]]
        scaled = [r / 5 for r, action in zip(episode["reward"], is_action, strict=True) if action]
        scaled[-1] += 2 / 5 if episode["done"] else 0
        for reward in reversed(scaled):
            value = reward + 0.95 * value
            followed.append(max(value, 0))
    return sum(followed) / len(followed)


@pytest.mark.slow
def test_a_chat_and_its_model(tmp_path, run_template):
    """Chats of a file without rewards in every one, and a chat model: its end mark is STOP."""
    tokenizer = sample_tokenizers.chat(sample_tokenizers.LLAMA_3, ["go left", "go right"])
    model = models.small_model(tokenizer, layers=1, width=16, heads=2, context=128, seed=0)
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "model")
    turns = [("user", "A hall.\n\nTwo doors."), ("assistant", "go left"), ("user", "A wall.")]
    turns += [("assistant", "go right")]
    messages = [{"role": role, "content": content} for role, content in turns]
    chats = [
        {"messages": messages[: 2 + i % 3]} | ({"reward": 0} if i % 2 else {}) for i in range(40)
    ]
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in chats))
    executed = run_template(
        DATA=str(path),
        MODEL=str(tmp_path / "model"),
        OUTPUT=str(tmp_path / "run"),
        REWARD=1.0,
        STOP="<|eot_id|>",
    )
    test_notebook_hygiene.check_executed_in_order(executed, TEMPLATE.name)
    policy = QSFTPolicy.from_pretrained(tmp_path / "run" / "policy")
    assert policy.chat_template
    [action] = policy.act([formats.chat_segments(messages[:1], policy.tokenizer)])
    assert action.endswith("<|eot_id|>")
    end = policy.tokenizer.convert_tokens_to_ids("<|eot_id|>")
    assert policy._rows[0].ids.count(end) == 2  # the one of the user, and its own


def test_a_bad_line_is_named(own_data, run_template):
    path, _ = own_data
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[6] = lines[6].replace('"done": true', '"done": "perhaps"')
    lines[6] = lines[6].replace('"done": false', '"done": "perhaps"')
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(NotebookError, match=r"walks\.jsonl.*\b7\b.*done"):
        run_template(DATA=str(path))


@pytest.mark.parametrize(
    ("parameters", "error", "message"),
    [
        ({"MODEL": "no/such/folder"}, OSError, "looked for at .*shell.no.such.folder"),
        ({"STOP": "!"}, ValueError, r"episode 1: the action '\w+\\n' does not end with STOP='!'"),
        ({"RETURN_LOW": 0, "RETURN_HIGH": 3}, ValueError, r"walks\.jsonl.*outside RETURN_LOW=0"),
        ({"DATA": "nowhere.jsonl"}, FileNotFoundError, r"shell.nowhere\.jsonl: no such file"),
        ({"MAX_TOKENS": 1}, ValueError, "no episode has at most 1 tokens"),
        ({"BEHAVIOR_STEPS": 12.0}, ValueError, "BEHAVIOR_STEPS must be a whole number"),
        ({"OUTPUT": "file/run"}, ValueError, "OUTPUT: nothing can be written"),
        ({"REWARD": "1"}, ValueError, "REWARD must be a number, or None"),
        ({"PRIOR": 1.0}, ValueError, "PRIOR must be 'returns', or a number between 0 and 1"),
    ],
)
def test_bad_settings_are_plain(tmp_path, own_data, monkeypatch, parameters, error, message):
    """Before training. The cells are run here: a kernel for each would take long to start."""
    path, _ = own_data
    (tmp_path / "shell").mkdir()
    (tmp_path / "shell" / "file").write_text("")
    monkeypatch.setenv("QSFT_CALLER_FOLDER", str(tmp_path / "shell"))
    monkeypatch.setattr(trainer, "train_q_sft", None)
    monkeypatch.setenv("QSFT_THREADS", "1")
    names = {}
    with pytest.raises(error, match=message):
        for cell in test_notebook_hygiene.code_cells(nbformat.read(TEMPLATE, as_version=4))[1:]:
            exec(cell.source, names)
            if "parameters" in test_notebook_hygiene.tags(cell):
                names.update({**SMOKE, "DATA": str(path), **parameters})
