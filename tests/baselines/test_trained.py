"""A trained method: what it says of actions, and saved and loaded."""

import json

import numpy as np
import pytest
import torch
from test_baselines_parts import WORDS, random_values

from qsft_lite.baselines import METHODS, TrainedMethod
from qsft_lite.baselines.q_transformer import TokenValues
from qsft_lite.models import NewHead, add_dummy, small_model, word_tokenizer

TOKENIZER = word_tokenizer(WORDS)
PLAY = {"stop": " ", "max_new_tokens": 1}


def trained(method):
    def model(seed):
        made = small_model(TOKENIZER, layers=1, width=16, heads=2, context=32, seed=seed)
        add_dummy(made, TOKENIZER)
        with torch.no_grad():  # or all that it says would be nearly alike
            made.lm_head.weight *= 30
        return made.eval()

    family = METHODS[method].family
    values = {"cloning": lambda: None, "heads": lambda: random_values(model(1)).eval()}
    made = values.get(family, lambda: model(2))()
    if method == "q_transformer":
        made = TokenValues.on(model(1), seed=1).eval()
        torch.nn.init.normal_(made.q_head[-1].weight, generator=torch.Generator().manual_seed(0))
        made.choices = torch.rand(3, made.choices.shape[1]) < 0.5
    if method == "q_sft_new_head":
        made = NewHead.on(made, seed=0).eval()
        torch.nn.init.normal_(made.output.weight, generator=torch.Generator().manual_seed(0))
    if METHODS[method].score == "paired":
        made.config.q_sft_prior = 0.3
    return TrainedMethod(method, METHODS[method].options, model(0), made, TOKENIZER, "", [])


@torch.no_grad()
@pytest.mark.parametrize(
    "method",
    ["bc", "q_sft", "q_sft_new_head", "q_sft_dummy", "q_sft_paper", "cql", "q_transformer"],
)
def test_values_are_those_of_each_prefix_alone(method):
    one = trained(method)
    rng = np.random.default_rng(0)
    prefixes = [[1, *rng.integers(3, len(TOKENIZER), n).tolist()] for n in rng.integers(0, 9, 300)]
    actions = [rng.permutation(len(TOKENIZER))[: rng.integers(0, 4)] for _ in prefixes]
    log_pi, values = one.values_of(prefixes, actions)
    assert (values is None) == (method == "bc")
    assert len({len(prefix) for prefix in prefixes}) > 5
    for i in (0, 1, 17, 255, 256, 299):
        ids = torch.tensor([prefixes[i]])
        behavior_logits = one.behavior(ids).logits[0, -1].numpy()
        alone = behavior_logits - np.log(np.exp(behavior_logits).sum())
        np.testing.assert_allclose(log_pi[i], alone[actions[i]], atol=1e-5)
        if method == "bc":
            continue
        learned = one.values(ids).logits[0, -1]
        if method in ("q_sft", "q_sft_new_head"):
            added = learned.numpy() - (behavior_logits if method == "q_sft" else 0)
            learned = torch.tensor(1 / (1 + np.exp(-added) * 0.7 / 0.3))
        elif method not in ("cql", "q_transformer"):
            learned = (learned.log_softmax(-1).numpy() - alone).clip(max=0)
            learned = torch.tensor(np.exp(learned))
        np.testing.assert_allclose(values[i], learned.numpy()[actions[i]], atol=1e-5)


def test_values_of_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="one list of actions for each prefix"):
        trained("bc").values_of([[1]], [])
    with pytest.raises(ValueError, match="none empty"):
        trained("bc").values_of([[1], []], [[3], [3]])


@pytest.mark.parametrize(
    "method", ["bc", "q_sft", "q_sft_new_head", "q_sft_dummy", "ilql", "q_transformer"]
)
def test_a_method_is_saved_and_loaded_whole(method, tmp_path):
    one, folder = trained(method), tmp_path / "runs" / "one"
    one.save_pretrained(folder)
    one.save_pretrained(folder)  # in place of itself
    assert [path.name for path in folder.parent.iterdir()] == ["one"]
    files = {path.suffix for path in folder.rglob("*") if path.is_file()}
    assert files <= {".json", ".safetensors", ".jinja"}
    again = TrainedMethod.from_pretrained(folder)
    assert (again.method, again.settings, again.prompt) == (method, one.settings, "")
    prefixes, actions = [[1, 3], [1, 4, 5]], [[3, 4, 5], [6]]
    for before, after in zip(
        one.values_of(prefixes, actions), again.values_of(prefixes, actions), strict=True
    ):
        if before is None:
            assert after is None and method == "bc"
        else:
            assert all(map(np.array_equal, before, after))
    beta = {} if method == "bc" else {"beta": 4.0}
    played = [each.policy(**beta, **PLAY, seed=3).act(["s0 "] * 20) for each in (one, again)]
    assert played[0] == played[1]


def test_the_prior_of_values_is_loaded(tmp_path):
    for method in ("q_sft", "q_sft_new_head"):
        trained(method).save_pretrained(tmp_path / method)
        again = TrainedMethod.from_pretrained(tmp_path / method)
        assert again.policy(beta=1.0, **PLAY).prior == 0.3


def test_what_cannot_be_loaded_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no method: there is no method.json"):
        TrainedMethod.from_pretrained(tmp_path)
    folder = tmp_path / "one"
    trained("ilql").save_pretrained(folder)

    def broken(name, content, named=None):
        before = (folder / name).read_bytes()
        (folder / name).write_bytes(content)
        with pytest.raises(ValueError, match=named or name):
            TrainedMethod.from_pretrained(folder)
        (folder / name).write_bytes(before)

    said = json.loads((folder / "method.json").read_text())
    for content in (
        b"",
        b"[]",
        b'{"method": "ilql"}',
        json.dumps({**said, "method": "x"}).encode(),
    ):
        broken("method.json", content)
    broken("behavior/model.safetensors", b"x")
    broken("values/heads.safetensors", b"x")
    broken("values/model.safetensors", b"x", named="values cannot be read")
    (folder / "values").rename(folder / "elsewhere")
    with pytest.raises(ValueError, match="values cannot be read"):
        TrainedMethod.from_pretrained(folder)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="holds something that is no method"):
        trained("bc").save_pretrained(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_save_that_fails_leaves_the_method_before_it(tmp_path, monkeypatch):
    folder = tmp_path / "one"
    trained("bc").save_pretrained(folder)
    monkeypatch.setattr(json, "dumps", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trained("q_sft").save_pretrained(folder)
    monkeypatch.undo()
    assert TrainedMethod.from_pretrained(folder).method == "bc"
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


def test_cloned_elsewhere():
    one = trained("bc")
    assert vars(TrainedMethod.cloned(one.behavior, TOKENIZER)) == vars(one)
