import gymnasium
import numpy as np
import pytest
from scipy import stats

from qsft_lite import envs
from qsft_lite.data.transcripts import ContextError
from qsft_lite.evaluate import Evaluation, evaluate, normalized_score, paired_difference
from qsft_lite.models import character_tokenizer, small_model, word_tokenizer
from qsft_lite.policy import ActionList, LastLine, QSFTPolicy
from qsft_lite.tasks.wordle.players import ConsistentPlayer, RandomPlayer


class Guess(gymnasium.Env):
    """Guess a number of 0 to 9 in three tries; the answer is the number less the guess."""

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.secret = int(self.np_random.integers(10))
        self.tries = 0
        return "guess\n", {}

    def step(self, action):
        self.tries += 1
        right = int(action) == self.secret
        reward = 0.0 if right else -1.0
        truncated = not right and self.tries == 3
        return f"{self.secret - int(action)}\n", reward, right, truncated, {"success": right}


class Constant:
    def __init__(self, number):
        self.number = number
        self.seeds = []
        self.batches = []

    def reset(self, seed):
        self.seeds.append(seed)

    def act(self, histories):
        self.batches.append(len(histories))
        return [f"{self.number}\n"] * len(histories)


class Clever:
    """Guesses 5, then what the answer implies."""

    def act(self, histories):
        return [self.next(history.split("\n")) for history in histories]

    def next(self, lines):
        return "5\n" if len(lines) == 2 else f"{int(lines[1]) + int(lines[2])}\n"


def test_an_evaluation_holds_what_was_played():
    result = evaluate(Clever(), Guess(), 50, seed=0)
    for transcript, length, score in zip(
        result.transcripts, result.lengths, result.returns, strict=True
    ):
        guesses = [t for t, a in zip(transcript["text"], transcript["is_action"], strict=True) if a]
        secret = int(guesses[-1])
        assert guesses[0] == "5\n"
        assert transcript["done"]
        assert length == len(guesses) == (1 if secret == 5 else 2)
        assert score == sum(transcript["reward"]) == 1 - length
        assert transcript["text"][::2] == ["guess\n", *(f"{secret - int(g)}\n" for g in guesses)]
        assert [len(transcript[key]) for key in ("is_action", "reward")] == [2 * length + 1] * 2
    assert result.success == 1.0
    assert result.mean == result.returns.mean()
    assert result.interval[0] < result.mean < result.interval[1]


def test_starts_can_be_given():
    env = envs.make("wordle", word_list=["crane", "slate", "eerie"])
    secrets = ["slate", "crane", "slate", "eerie", "slate"]
    options = [{"secret": secret} for secret in secrets]
    policy = Constant("slate")
    result = evaluate(policy, env, 5, seed=0, batch=2, options=options)
    assert result.returns.tolist() == [0, -6, 0, -6, 0]
    with pytest.raises(ValueError, match="5 episodes need as many options, not 4"):
        evaluate(policy, env, 5, seed=0, options=options[1:])


def test_a_truncated_episode_is_not_done_and_not_a_success():
    result = evaluate(Constant(0), Guess(), 60, seed=1)
    lost = result.returns == -3
    assert 0 < lost.sum() < 60
    assert [not transcript["done"] for transcript in result.transcripts] == lost.tolist()
    assert result.success == (~lost).mean()
    assert set(result.lengths[lost]) == {3}


def test_episodes_are_the_same_whatever_the_batch_and_the_policy():
    big = evaluate(Constant(3), Guess(), 40, seed=5)
    small = evaluate(Constant(3), Guess(), 40, seed=5, batch=7)
    first = evaluate(Constant(3), Guess(), 10, seed=5, batch=1)
    clever = evaluate(Clever(), Guess(), 40, seed=5)
    assert big.transcripts == small.transcripts
    assert big.transcripts[:10] == first.transcripts
    assert all(
        int(transcript["text"][-2]) == 3
        for transcript, right in zip(clever.transcripts, big.returns == 0, strict=True)
        if right
    )
    other = evaluate(Constant(3), Guess(), 40, seed=6)
    assert other.transcripts != big.transcripts


def test_episodes_that_ended_leave_the_batch():
    policy = Constant(0)
    result = evaluate(policy, Guess(), 20, seed=1, batch=8)
    assert policy.seeds == [1]
    assert sum(policy.batches) == result.lengths.sum()
    assert policy.batches[0] == 8
    assert min(policy.batches) < 8


def test_policies_are_given_transcripts_that_know_their_segments():
    seen = []

    class Noting(Clever):
        def act(self, histories):
            seen.append(histories[0].segments)
            return super().act([str(history) for history in histories])

    result = evaluate(Noting(), Guess(), 1, seed=0)
    [transcript] = result.transcripts
    pairs = tuple(zip(transcript["text"], transcript["is_action"], strict=True))
    assert seen == [pairs[: 2 * turn + 1] for turn in range(len(seen))]


class Endless(gymnasium.Env):
    """Its texts are of as many letters as were said before; the first one is drawn."""

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.letters = options["letters"]
        return "a" * self.letters + "\n", {}

    def step(self, action):
        return "a" * self.letters + "\n", 1.0, self.letters == 3, False, {}


def test_episodes_of_too_many_steps_are_cut_off_and_counted():
    options = [{"letters": letters} for letters in (1, 3, 2, 3, 5)]
    result = evaluate(Constant(0), Endless(), 5, seed=0, batch=4, options=options, max_steps=4)
    assert result.cut_off == 3
    assert result.returns.tolist() == [4, 1, 4, 1, 4]
    assert result.lengths.tolist() == [4, 1, 4, 1, 4]
    assert [transcript["done"] for transcript in result.transcripts] == [0, 1, 0, 1, 0]
    assert all(transcript["text"][-1].startswith("a") for transcript in result.transcripts)
    assert evaluate(Constant(0), Guess(), 9, seed=0, max_steps=3).cut_off == 0
    with pytest.raises(ValueError, match="max_steps must be at least 1"):
        evaluate(Constant(0), Guess(), 2, seed=0, max_steps=0)


class Subset:
    """Hands over half of the episodes, and answers the others itself."""

    def __init__(self, policy):
        self.policy = policy

    def act(self, histories):
        others = self.policy.act(histories[1::2]) if len(histories) > 1 else []
        actions = ["b\n"] * len(histories)
        actions[1::2] = others
        return actions


def endless_policy(context=20):
    tokenizer = character_tokenizer("ab")
    model = small_model(tokenizer, layers=1, width=16, heads=2, context=context, seed=0)
    return QSFTPolicy(
        model, None, tokenizer, 0.0, constraint=ActionList(tokenizer, ["b\n"]), max_new_tokens=2
    )


def test_episodes_beyond_the_context_are_cut_off_and_the_others_go_on():
    letters = [4, 3, 9, 2, 16]
    options = [{"letters": number} for number in letters]
    policy = endless_policy()
    result = evaluate(policy, Endless(), 5, seed=0, options=options, max_steps=5)
    # After k actions there are 1 + (k + 1) (letters + 1) + 2 k tokens. The last token of the next
    # action need not be read: there must be room for one more, in 20.
    expected = [
        1 if n == 3 else next(k for k in range(99) if k == 5 or (k + 1) * (n + 3) > 20)
        for n in letters
    ]
    assert expected == [2, 1, 1, 4, 1]
    assert result.lengths.tolist() == expected
    assert result.cut_off == 4
    assert [transcript["done"] for transcript in result.transcripts] == [0, 1, 0, 0, 0]
    # Each is what it is alone.
    alone = [
        evaluate(endless_policy(), Endless(), 1, seed=0, options=[o], max_steps=5) for o in options
    ]
    assert [one.transcripts[0] for one in alone] == result.transcripts


def test_a_wrapped_policy_cuts_off_the_right_episodes():
    options = [{"letters": number} for number in (4, 2, 4, 4)]
    result = evaluate(Subset(endless_policy()), Endless(), 4, seed=0, options=options, max_steps=3)
    assert result.lengths.tolist() == [3, 3, 3, 2]
    assert result.cut_off == 4

    # LastLine hands over other texts: which of them is too long is then tried out.
    class Growing(Endless):
        def step(self, action):
            self.letters *= 3
            return super().step(action)

    options = [{"letters": number} for number in (4, 1, 2)]
    result = evaluate(
        LastLine(endless_policy()), Growing(), 3, seed=0, options=options, max_steps=3
    )
    # 36 letters; done at 3; 18 letters, which leave no room for the whole action.
    assert result.lengths.tolist() == [2, 1, 2]
    assert result.cut_off == 2


def test_a_first_text_beyond_the_context_is_an_error():
    options = [{"letters": 3}, {"letters": 40}]
    with pytest.raises(RuntimeError, match="episode 1: .* context is 20") as raised:
        evaluate(endless_policy(), Endless(), 2, seed=0, options=options)
    assert isinstance(raised.value.__cause__, ContextError)


@pytest.mark.parametrize("reward", [np.nan, np.inf, None, "much"])
def test_a_reward_that_is_no_number_is_named(reward):
    class Odd(Guess):
        def step(self, action):
            text, _, *rest = super().step(action)
            return text, reward, *rest

    with pytest.raises(RuntimeError, match=r"Episode 0: .* action '5\\n' is not a finite number"):
        evaluate(Clever(), Odd(), 3, seed=0)


def test_an_observation_that_is_no_text_is_named():
    class Silent(Guess):
        def step(self, action):
            return None, *super().step(action)[1:]

    with pytest.raises(RuntimeError, match="Episode 0: .* said None"):
        evaluate(Clever(), Silent(), 3, seed=0)
    silent = Guess()
    silent.reset = lambda **_: (None, {})
    silent.clone = lambda: silent
    with pytest.raises(RuntimeError, match="Episode 0: .* said None"):
        evaluate(Clever(), silent, 3, seed=0)


def test_an_environment_may_say_how_it_is_copied():
    made = []

    class Cloned(Guess):
        def clone(self):
            made.append(Guess())
            return made[-1]

        def __deepcopy__(self, memo):
            raise AssertionError("too heavy")

    evaluate(Constant(0), Cloned(), 5, seed=0, batch=3)
    assert len(made) == 3


def test_the_interval_is_the_bootstrap_one():
    result = evaluate(Constant(0), Guess(), 200, seed=2)
    reference = stats.bootstrap((result.returns,), np.mean, method="percentile", n_resamples=9999)
    low, high = reference.confidence_interval
    assert result.interval == pytest.approx((low, high), abs=0.05)
    assert result.interval == evaluate(Constant(0), Guess(), 200, seed=2).interval


def evaluation(returns, seed=0):
    returns = np.asarray(returns, dtype=float)
    ones = np.ones(len(returns), dtype=int)
    return Evaluation(returns.mean(), (0.0, 0.0), returns, 0.0, ones, [], seed)


def test_pairing_removes_what_the_episodes_have_in_common():
    random = np.random.default_rng(0)
    easy = random.normal(0, 10, 400)
    better = easy + 1 + random.normal(0, 0.5, 400)
    mean, low, high = paired_difference(evaluation(better), evaluation(easy))
    assert mean == pytest.approx((better - easy).mean())
    half_width = 1.96 * (better - easy).std() / 20  # of the normal approximation
    assert (low, high) == pytest.approx((mean - half_width, mean + half_width), abs=0.01)


def test_different_episodes_are_not_paired():
    with pytest.raises(ValueError, match="seed 1"):
        paired_difference(evaluation([1, 2]), evaluation([1, 2], seed=1))
    with pytest.raises(ValueError, match="3 of seed 0"):
        paired_difference(evaluation([1, 2]), evaluation([1, 2, 3]))


def test_normalized_scores_are_lmrl_gyms():
    # Wordle: least -6, data -4.12, best -1.94. Published: BC -2.82 is 79.9, ILQL -2.04 is 97.7.
    raw = np.array([-6.0, -4.12, -1.94, -2.82, -2.04, -5.06, -1.504])
    expected = [0, 50, 100, 79.8, 97.7, 25, 110]
    assert np.allclose(normalized_score(raw, -6, -4.12, -1.94), expected, atol=0.05)
    assert normalized_score(-4.12, -6, -4.12, -1.94) == 50
    with pytest.raises(ValueError, match="low < middle < high"):
        normalized_score(0, 1, 1, 2)


# With this package's environments and policies


def test_a_language_model_plays_wordle():
    env = envs.make("wordle", rules="lmrl")
    tokenizer = character_tokenizer("Wordle:\nabcdefghijklmnopqrstuvwxyz")
    models = [
        small_model(tokenizer, layers=1, width=16, heads=2, context=100, seed=seed)
        for seed in (0, 1)
    ]
    constraint = ActionList(tokenizer, env.rules.guess_texts)
    policy = QSFTPolicy(*models, tokenizer, 4.0, max_new_tokens=6, constraint=constraint)
    result = evaluate(policy, env, 12, seed=0, batch=5)
    assert -6 <= result.mean < -4  # it knows nothing
    assert result.lengths.max() == 6
    for transcript in result.transcripts:
        text = "".join(transcript["text"])
        assert tokenizer.decode(tokenizer(text).input_ids) == text
        assert set(transcript["text"][1::2]) <= set(env.rules.guess_texts)
    assert policy.computed_tokens <= 1.02 * policy.transcript_tokens
    again = evaluate(policy, env, 12, seed=0, batch=5)
    assert again.transcripts == result.transcripts


def test_a_language_model_walks_the_gridworld():
    env = envs.make("gridworld", max_steps=6)
    tokenizer = word_tokenizer(env.texts)
    model = small_model(tokenizer, layers=1, width=16, heads=2, context=20, seed=0)
    policy = QSFTPolicy(model, None, tokenizer, 0.0, max_new_tokens=1)
    result = evaluate(policy, env, 20, seed=0)
    assert result.lengths.max() == 6
    assert policy.transcript_tokens - policy.computed_tokens == 20  # each episode's last action


def test_consistent_play_of_wordle_beats_random_play_on_the_same_secrets():
    env = envs.make("wordle", rules="lmrl")
    consistent = evaluate(ConsistentPlayer(env.rules), env, 100, seed=0)
    random = evaluate(RandomPlayer(env.rules), env, 100, seed=0)
    _, low, _ = paired_difference(consistent, random)
    assert low > 2


# Failures


class Failing:
    """Fails at the one history that has this text in it."""

    def __init__(self, text):
        self.text = text

    def act(self, histories):
        if any(self.text in history for history in histories):
            raise KeyError("lost")
        return ["0\n"] * len(histories)


def test_an_error_of_the_policy_names_the_episode():
    secrets = [
        int(transcript["text"][-1]) + int(transcript["text"][-2])
        for transcript in evaluate(Constant(0), Guess(), 30, seed=0).transcripts
    ]
    wanted = max(secrets)
    with pytest.raises(RuntimeError, match=f"episode {secrets.index(wanted)}: 'lost'"):
        evaluate(Failing(f"\n{wanted}\n"), Guess(), 30, seed=0)


def test_an_error_of_the_environment_names_the_episode_and_the_action():
    with pytest.raises(RuntimeError, match="Episode 0: .* action 'x\\\\n'"):
        evaluate(Constant("x"), Guess(), 3, seed=0)


def test_actions_that_are_none_are_refused():
    policy = Constant(0)
    policy.act = lambda histories: ["0\n"]
    with pytest.raises(RuntimeError, match="1 actions for 2 episodes"):
        evaluate(policy, Guess(), 2, seed=0)
    policy.act = lambda histories: [None, None]
    with pytest.raises(RuntimeError, match="Episode 0: .* None, not a text"):
        evaluate(policy, Guess(), 2, seed=0)


@pytest.mark.parametrize("options", [{"episodes": 0}, {"episodes": 1, "batch": 0}])
def test_at_least_one_episode_at_once(options):
    with pytest.raises(ValueError, match="at least 1"):
        evaluate(Constant(0), Guess(), seed=0, **options)
