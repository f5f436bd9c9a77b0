"""Two adapters of one base, played in one pass, do what two whole models do."""

import pytest
import torch

from qsft_lite import models
from qsft_lite.models.networks import Adapter
from qsft_lite.policy import QSFTPolicy

peft = pytest.importorskip("peft")

TOKENIZER = models.character_tokenizer("abcdefgh")


def adapted(seed, base=0, **options):
    """A tiny Llama with adapters that change it."""
    network = models.small_model(TOKENIZER, layers=2, width=32, heads=2, context=64, seed=base)
    torch.manual_seed(seed)
    config = peft.LoraConfig(r=4, lora_alpha=8, init_lora_weights=False, **options)
    return peft.get_peft_model(network, config).eval()


def policies(**options):
    """The same policy of two whole models, and of one base."""
    pi, q = adapted(1), adapted(2)
    q.config.q_sft_prior = 0.3
    apart = QSFTPolicy(pi, q, TOKENIZER, 8.0, max_new_tokens=6, **options)
    shared = models.share_base(adapted(1), q)
    return apart, QSFTPolicy(*shared, TOKENIZER, 8.0, max_new_tokens=6, **options)


@pytest.mark.parametrize("greedy", [True, False])
def test_one_pass_plays_what_two_models_play(greedy):
    apart, together = policies(greedy=greedy)
    assert together.score == apart.score == "paired" and together.prior == 0.3
    passes = []
    together.models[0].shared.register_forward_hook(lambda *_: passes.append(1))
    histories = [["ab\n"], ["cde\n"], ["h\n"]]
    for turn in range(3):  # rows of other lengths, in another order, and one that goes
        texts = ["".join(history) for history in histories]
        actions = apart.act(texts)
        assert together.act(texts) == actions
        for history, action in zip(histories, actions, strict=True):
            history += [action, "fg\n" if turn else "a\n"]
        histories = histories[::-1][: 3 - turn]
    assert together.computed_tokens == apart.computed_tokens
    assert 3 <= len(passes) <= 3 * 6  # one a token, and not two
    assert len(together._caches) == 1


def test_values_candidates_and_refused_actions_are_the_same():
    apart, together = policies()
    said = [policy.values([("ab\n", False), ("cd\n", True)]) for policy in (apart, together)]
    assert (said[0]["token"] == said[1]["token"]).all()
    for column in ("pi", "Q", "V"):
        torch.testing.assert_close(*(torch.tensor(each[column].to_numpy()) for each in said))
    found = [policy.candidates("ab\n", ["c\n", "de\n"])["Q"] for policy in (apart, together)]
    torch.testing.assert_close(*(torch.tensor(each.to_numpy()) for each in found))
    refused = [{"c\n", "d\n", "e\n"}]
    assert apart.act(["ab\n"], refused) == together.act(["ab\n"], refused)


def test_a_policy_of_one_base_is_saved_as_whole_models(tmp_path):
    _, together = policies()
    expected = together.candidates("ab\n", ["c\n", "de\n"])["Q"]
    together.save_pretrained(tmp_path)
    found = QSFTPolicy.from_pretrained(tmp_path).candidates("ab\n", ["c\n", "de\n"])["Q"]
    torch.testing.assert_close(
        torch.tensor(found.to_numpy()), torch.tensor(expected.to_numpy()), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("together", [False, True])
def test_values_are_read_against_a_reference_where_there_is_one(together, tmp_path):
    pi, q = adapted(1), adapted(2)
    reference = models.small_model(TOKENIZER, layers=2, width=32, heads=2, context=64, seed=0)
    row = torch.tensor([[1, 3, 4, 5]])
    with torch.no_grad():
        z_pi, z_q, z_0 = (each.eval()(row).logits[0, -1] for each in (pi, q, reference))
    expected = (z_q - z_0).sigmoid()
    if together:
        pi, q, reference = models.share_base(pi, q, bare=True)
    policy = QSFTPolicy(pi, q, TOKENIZER, 8.0, "paired", reference=reference, max_new_tokens=6)
    found = policy._action_values(policy._logits([[1, 3, 4, 5, 0]], 4))[0, 0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    weights = policy.log_weights([z_pi[None], z_q[None], z_0[None]])[0]
    torch.testing.assert_close(weights, z_pi.log_softmax(0) + 8 * expected)
    assert policy.act(["ab\n", "c\n"]) and len(policy._caches) == (1 if together else 3)

    policy.save_pretrained(tmp_path)
    saved = QSFTPolicy.from_pretrained(tmp_path)
    again = saved._action_values(saved._logits([[1, 3, 4, 5, 0]], 4))[0, 0]
    torch.testing.assert_close(again, expected, rtol=0, atol=1e-5)


def test_one_pass_with_a_reference_plays_what_three_models_play():
    reference = models.small_model(TOKENIZER, layers=2, width=32, heads=2, context=64, seed=0)
    options = {"score": "paired", "max_new_tokens": 6}
    apart = QSFTPolicy(adapted(1), adapted(2), TOKENIZER, 8.0, reference=reference, **options)
    pi, q, base = models.share_base(adapted(1), adapted(2), bare=True)
    together = QSFTPolicy(pi, q, TOKENIZER, 8.0, reference=base, **options)
    for texts in (["ab\n", "cde\n"], ["h\n"]):
        assert together.act(texts) == apart.act(texts)


@pytest.mark.parametrize("score", ["p", "ratio"])
def test_a_reference_is_of_paired_values_alone(score):
    with pytest.raises(ValueError, match="a reference is for score="):
        QSFTPolicy(adapted(1), adapted(2), TOKENIZER, 1.0, score, reference=adapted(3))


def test_the_base_is_held_once():
    pi, q = models.share_base(adapted(1), adapted(2))
    assert isinstance(pi, Adapter) and pi.shared is q.shared
    weights = [sum(p.numel() for p in net.parameters()) for net in (q.shared, adapted(1), q)]
    assert weights[0] == weights[1] + weights[2]  # one model, and the other's adapter


@pytest.mark.parametrize(
    ("other", "complaint"),
    [
        (lambda: adapted(2, base=1), "the bases differ in"),
        (lambda: adapted(2, target_modules=["q_proj"]), "adapters of different kinds"),
        (
            lambda: models.small_model(TOKENIZER, layers=2, width=32, heads=2, context=64, seed=0),
            "models of peft",
        ),
    ],
)
def test_what_cannot_share_a_base_is_refused(other, complaint):
    with pytest.raises(ValueError, match=complaint):
        models.share_base(adapted(1), other())
