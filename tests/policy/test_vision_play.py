"""Play on pictures: caches, transcripts that look alike, values, and what evaluate hands over."""

import numpy as np
import pytest
import torch
from hf_vision import FAMILIES, write_model
from small_pictures import ACTIONS, ASK, TOKENIZER, Sides, picture, vision_model

from qsft_lite import models
from qsft_lite.baselines.heads import ActionValues
from qsft_lite.baselines.trained import ValuePolicy
from qsft_lite.data.transcripts import Transcript
from qsft_lite.evaluate import evaluate
from qsft_lite.models import NewHead
from qsft_lite.policy import QSFTPolicy
from qsft_lite.policy.last_line import LastLine
from qsft_lite.policy.whole_actions import ask_actions

RED, BLUE = picture("red"), picture("blue")
FIRST = Transcript([(ASK, False)])


def sharp(seed):
    """A model that is far from uniform, and looks hard at pictures."""
    model = vision_model(seed=seed).eval()
    with torch.no_grad():
        model.model.language_model.embed_tokens.weight *= 20
        model.model.multi_modal_projector.linear_2.weight *= 20
    return model


def values_of(kind):
    if kind == "logits":
        return sharp(2)
    head = NewHead.on(sharp(2), seed=2).eval()
    torch.manual_seed(0)
    torch.nn.init.normal_(head.output.weight)
    return head


class Seen:
    """Keeps all logits that a policy's weights are made of."""

    logits = []

    def log_weights(self, logits, ruled_out=None):
        self.logits.append([each.clone() for each in logits])
        return super().log_weights(logits, ruled_out)

    def act(self, *arguments, **options):
        self.logits = []
        return super().act(*arguments, **options)


class SeenQSFT(Seen, QSFTPolicy):
    pass


class SeenHeads(Seen, ValuePolicy):
    pass


def make(kind="logits", **options):
    options = {"max_new_tokens": 1, "stop": "\n", **options}
    if kind == "ilql":
        values = ActionValues.on(sharp(2)).eval()
        torch.manual_seed(0)
        torch.nn.init.normal_(values.q_heads[0][-1].weight)
        return SeenHeads(sharp(1), values, TOKENIZER, 4.0, **options)
    return SeenQSFT(sharp(1), values_of(kind), TOKENIZER, 4.0, "paired", **options)


def random_picture(random):
    return random.integers(0, 256, (8, 8, 3), dtype=np.uint8)


@pytest.mark.parametrize("kind", ["logits", "head", "ilql"])
def test_what_is_cached_is_what_is_read_anew(kind):
    """Four episodes of four turns, one of which ends early; every turn has a picture."""
    random = np.random.default_rng(0)
    cached, fresh = make(kind), make(kind)
    segments = [[] for _ in range(4)]
    images = [[] for _ in range(4)]
    for turn in range(4):
        if turn == 2:
            del segments[1], images[1]
        for own, shown in zip(segments, images, strict=True):
            own.append((ASK, False))
            shown.append(random_picture(random))
        histories = [Transcript(own) for own in segments]
        actions = cached.act(histories, images=images)
        fresh.reset(0)
        fresh.act(histories, images=images)
        for one, other in zip(cached.logits[0], fresh.logits[0], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)
        for own, action in zip(segments, actions, strict=True):
            own.append((action, True))
    # Each token was read once, but for the last action of each episode, which nothing follows.
    assert cached.computed_tokens == cached.transcript_tokens - 4


@torch.no_grad()
def test_logits_at_play_are_those_of_training():
    policy = make()
    policy.act([FIRST, FIRST], images=[[RED], [BLUE]])
    turn = [1, 3, 3, 3, 3, *TOKENIZER(" which side?\n", add_special_tokens=False).input_ids]
    ids = torch.tensor([turn * 2])
    positions = torch.arange(len(turn)).repeat(2)[None]
    segments = torch.tensor([1, 2]).repeat_interleave(len(turn))[None]
    pixels = models.pixel_rule(policy.behavior)([RED, BLUE])
    for model, found in zip(policy.models, policy.logits[0], strict=True):
        hidden = models.final_hidden(model, ids, positions, segments, pixel_values=pixels)
        expected = models.output_head(model)(hidden)[0, [len(turn) - 1, 2 * len(turn) - 1]]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_the_same_text_with_another_picture_is_another_transcript():
    policy, fresh = make(), make()
    [action] = policy.act([FIRST], images=[[RED]])
    second = Transcript([(ASK, False), (action, True), (ASK, False)])
    policy.act([second], images=[[BLUE, BLUE]])  # it cannot go on from the one that saw red
    fresh.act([second], images=[[BLUE, BLUE]])
    for one, other in zip(policy.logits[0], fresh.logits[0], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    policy.reset(0)
    policy.act([second], images=[[RED, BLUE]])
    assert (policy.logits[0][0] - fresh.logits[0][0]).abs().max() > 0.01


def test_one_turn_is_shown_with_its_own_picture():
    policy, fresh = make(), make()
    long = Transcript(
        [(ASK, False), (ACTIONS[0], True), (ASK, False), (ACTIONS[1], True), (ASK, False)]
    )
    LastLine(policy).act([long, FIRST], images=[[RED, RED, BLUE], [RED]])
    fresh.act([FIRST, FIRST], images=[[BLUE], [RED]])
    for one, other in zip(policy.logits[0], fresh.logits[0], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_refused_actions_are_refused_with_pictures():
    policy = make()
    for refused, left in ((ACTIONS[0], ACTIONS[1]), (ACTIONS[1], ACTIONS[0])):
        others = ["which ", "side?\n"]
        played = policy.act([FIRST] * 8, [[refused, *others]] * 8, images=[[RED], [BLUE]] * 4)
        assert refused not in played and left in played
    # Of several tokens, the mass that is left is read with the pictures.
    long = make(max_new_tokens=3)
    played = long.act([FIRST] * 4, [["which left\n"]] * 4, images=[[RED], [BLUE]] * 2)
    assert "which left\n" not in played


# Values


def test_values_and_candidates_see_the_picture():
    policy = make()
    tables = {}
    for name, shown in (("red", RED), ("blue", BLUE)):
        table = tables[name] = policy.candidates(FIRST, ACTIONS, images=[shown])
        for row, action in enumerate(ACTIONS):
            said = policy.values(Transcript([(ASK, False), (action, True)]), images=[shown])
            assert said["Q"].iloc[-1] == pytest.approx(table["Q"][row], abs=1e-5)
            assert np.log(said["pi"].iloc[-1]) == pytest.approx(table["log_pi"][row], abs=1e-4)
        asked = ask_actions(policy, FIRST, ACTIONS, images=[shown])
        np.testing.assert_allclose(asked["Q"], table["Q"], atol=1e-5)
        np.testing.assert_allclose(np.log(asked["pi"]), table["log_pi"], atol=1e-4)
    assert np.abs(tables["red"]["Q"] - tables["blue"]["Q"]).max() > 1e-3


def test_a_policy_that_sees_is_saved_and_loaded(tmp_path):
    policy = make()
    policy.save_pretrained(tmp_path / "policy")
    again = QSFTPolicy.from_pretrained(tmp_path / "policy")
    tables = [each.candidates(FIRST, ACTIONS, images=[BLUE]) for each in (policy, again)]
    np.testing.assert_allclose(tables[0]["Q"], tables[1]["Q"], atol=1e-6)
    assert again.act([FIRST], images=[[RED]])


@pytest.mark.parametrize("family", FAMILIES)
def test_families_of_transformers_play_with_their_cache(family, tmp_path):
    write_model(family, tmp_path)
    behavior, tokenizer = models.load_model(tmp_path)
    q_model, _ = models.load_model(tmp_path)
    with torch.no_grad():
        q_model.lm_head.weight += 0.1
    cached, fresh = (
        SeenQSFT(behavior, q_model, tokenizer, 3.0, "paired", max_new_tokens=1) for _ in range(2)
    )
    [action] = cached.act([FIRST], images=[[RED]])
    second = Transcript([(ASK, False), (action, True), (ASK, False)])
    cached.act([second], images=[[RED, BLUE]])
    fresh.act([second], images=[[RED, BLUE]])
    for one, other in zip(cached.logits[0], fresh.logits[0], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


# What does not fit


def test_pictures_that_do_not_fit_a_transcript_are_refused():
    policy = make()
    with pytest.raises(ValueError, match='has 1 "<image>", and 0 pictures came'):
        policy.act([FIRST])
    with pytest.raises(ValueError, match='has 1 "<image>", and 2 pictures came'):
        policy.act([FIRST], images=[[RED, BLUE]])
    with pytest.raises(ValueError, match="2 histories need as many images, not 1"):
        policy.act([FIRST, FIRST], images=[[RED]])
    with pytest.raises(ValueError, match="of 16 x 16 pixels, where the model sees 8 x 8"):
        policy.act([FIRST], images=[[np.zeros((16, 16, 3), np.uint8)]])
    assert policy.act([FIRST], images=[[RED]])  # and nothing is left half-read
    text = models.small_model(TOKENIZER, layers=1, width=32, heads=2, context=64, seed=0)
    with pytest.raises(ValueError, match="see no pictures"):
        QSFTPolicy(text, None, TOKENIZER, 0.0).act(["which side?\n"], images=[[RED]])
    other = models.small_vision_model(
        TOKENIZER, layers=1, width=32, heads=2, context=64, seed=0, image_size=16
    )  # which has four tokens for a picture, too
    for q_model in (text, other):
        with pytest.raises(ValueError, match="read pictures by different rules"):
            QSFTPolicy(sharp(1), q_model, TOKENIZER, 1.0)


# evaluate


class Watcher:
    """Plays left, and keeps what it was given."""

    def __init__(self):
        self.calls = []

    def act(self, histories, **others):
        self.calls.append((histories, others))
        return [ACTIONS[0]] * len(histories)


class LongSides(Sides):
    """Three turns, the last of which says no more than an end."""

    def reset(self, *, seed=None, options=None):
        self.turn = 0
        return super().reset(seed=seed)

    def clone(self):
        return LongSides()

    def step(self, action):
        self.turn += 1
        if self.turn == 3:
            return "\n", 1.0, True, False, {}
        return ASK, 0.0, False, False, {"image": picture(self.color)}


def test_evaluate_hands_over_a_picture_for_each_image_of_the_transcript():
    watcher = Watcher()
    played = evaluate(watcher, LongSides(), 3, seed=0)
    assert played.mean == 1.0 and len(watcher.calls) == 3
    for turn, (histories, others) in enumerate(watcher.calls, start=1):
        assert list(others) == ["images"]
        for history, own in zip(histories, others["images"], strict=True):
            assert history.count("<image>") == len(own) == turn
            assert all(each.shape == (8, 8, 3) and each.dtype == np.uint8 for each in own)


def test_a_text_environment_is_played_as_ever():
    class Text(Sides):
        images = False

        def clone(self):
            return Text()

    watcher = Watcher()
    evaluate(watcher, Text(), 3, seed=0)
    assert [others for _, others in watcher.calls] == [{}]


def test_a_picture_too_few_is_said_with_its_episode():
    class Forgets(LongSides):
        def clone(self):
            return Forgets()

        def step(self, action):
            return ASK, 0.0, False, False, {}

    with pytest.raises(RuntimeError, match='Episode 0: the environment said 1 "<image>", and info'):
        evaluate(Watcher(), Forgets(), 2, seed=0)


def test_episodes_beyond_the_context_are_cut_off_with_pictures():
    behavior = vision_model(context=20)
    played = evaluate(
        QSFTPolicy(behavior, None, TOKENIZER, 0.0, max_new_tokens=1), LongSides(), 3, 0
    )
    assert played.cut_off == 3 and (played.lengths == 2).all()


def test_a_policy_fails_in_the_episode_that_it_names():
    policy = QSFTPolicy(vision_model(), None, TOKENIZER, 0.0, max_new_tokens=1)

    class Other(Sides):
        def clone(self):
            return Other()

        def reset(self, *, seed=None, options=None):
            return "strange words\n<image>", {"image": RED}

    with pytest.raises(
        RuntimeError, match="The policy failed in episode 0: The tokenizer does not"
    ):
        evaluate(policy, Other(), 2, seed=0)
