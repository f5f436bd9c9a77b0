"""Every method against its own fixed point, on a small text gridworld.

The model has no layers: its hidden states depend on the current token alone, so it is a table of
states and tokens, and nothing but the loss decides where training ends. What each method should
reach is worked out in numpy from counts of the same recorded steps.
"""

from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from scipy import stats
from transformers import TrainerCallback

from qsft_lite import baselines, data, envs
from qsft_lite.baselines import episodes as episode_tools
from qsft_lite.models import small_model, word_tokenizer
from qsft_lite.tabular import (
    bellman_backup,
    offline,
    policy_value,
    q_sft,
    q_sft_probabilities,
    value_iteration,
)
from qsft_lite.tabular.mdps import gridworld
from qsft_lite.trainer import QSFTConfig, StageTrainer

MAZE = gridworld(("S..", "TTG"))
ENV = envs.make("gridworld", maze=MAZE)
STATES, ACTIONS = MAZE.mdp.R.shape
GAMMA = 0.7
LENGTH = 256

datasets.disable_progress_bars()


def counted(transcripts):
    """The recorded steps as states and actions, read from the text."""
    steps = []
    for episode, row in enumerate(transcripts):
        states = [ENV.state_of(text) if text != "end\n" else -1 for text in row["text"][::2]]
        actions = [ENV.action_texts.index(text) for text in row["text"][1::2]]
        rewards = row["reward"][1::2]
        steps += zip(
            states[:-1], actions, rewards, states[1:], [episode] * len(actions), strict=True
        )
    columns = (np.array(column) for column in zip(*steps, strict=True))
    return offline.OfflineData(*columns, STATES, ACTIONS)


def arguments(folder, **changes):
    settings = {
        "output_dir": str(folder),
        "max_steps": 100,
        "per_device_train_batch_size": 64,
        "learning_rate": 0.05,
        "lr_scheduler_type": "linear",
        "target_rate": 0.1,  # a quicker one lets the max feed on its own errors
        "adam_beta2": 0.9,
        "support": 0.01,
        "save_strategy": "no",
        "disable_tqdm": True,
        "logging_steps": 100,
    }
    return QSFTConfig(**{**settings, **changes})


@pytest.fixture(scope="module")
def problem(tmp_path_factory):
    """Recorded steps, the same as tokens, and a model cloned from them."""
    behavior = np.random.default_rng(4).dirichlet(np.full(ACTIONS, 4.0), size=STATES)
    return problem_of(behavior, 0, tmp_path_factory.mktemp("runs"))


def problem_of(behavior, seed, folder):
    """Recorded steps of a behavior policy (S, A), and the rest."""
    options = {"maze": MAZE, "behavior": behavior, "max_steps": 8}
    transcripts = envs.generate("gridworld", 150, seed=seed, **options)
    recorded = counted(transcripts)
    tokenizer = word_tokenizer(ENV.texts)
    scale = data.RewardScale(low=0.0, high=1.0, place="step")
    episodes = data.encode(transcripts, tokenizer, scale=scale, gamma=GAMMA)
    model = small_model(tokenizer, layers=0, width=16, heads=2, context=LENGTH, seed=seed)
    cloned = baselines.train(
        "bc", model, tokenizer, episodes, episodes, arguments(folder), length=LENGTH
    )
    return SimpleNamespace(
        recorded=recorded,
        mdp=offline.empirical_mdp(recorded, GAMMA),
        policy=offline.cloned_policy(recorded),
        episodes=episodes,
        tokenizer=tokenizer,
        model=model,
        cloned=cloned,
        folder=folder,
    )


def train(problem, method, *, start=None, steps=100, learning_rate=0.05, **options):
    return baselines.train(
        method,
        start or problem.cloned.behavior,
        problem.tokenizer,
        problem.episodes,
        None,
        arguments(problem.folder, max_steps=steps, learning_rate=learning_rate),
        length=LENGTH,
        **options,
    )


def kept(start):
    """What training must leave alone of a network, or of a trained method's networks."""
    networks = [start.behavior, start.values] if hasattr(start, "behavior") else [start]
    return [
        (name, weight.tolist(), weight.requires_grad, network.training)
        for network in networks
        for name, weight in network.named_parameters()
    ]


@torch.no_grad()
def logits(model, tokenizer):
    """(S, V), float64, of what follows each state."""
    states = torch.tensor(tokenizer.convert_tokens_to_ids(list(ENV.state_texts)))
    return model(states[:, None], use_cache=False).logits[:, 0].double()


def probabilities(model, tokenizer):
    """(S, V), of what follows each state."""
    return logits(model, tokenizer).softmax(-1).numpy()


def actions_of(table, tokenizer):
    """The columns (S, A) of the actions."""
    return np.asarray(table)[:, tokenizer.convert_tokens_to_ids(list(ENV.action_texts))]


def ratio(trained):
    """p / pi (S, A)."""
    p, pi = (
        actions_of(probabilities(model, trained.tokenizer), trained.tokenizer)
        for model in (trained.values, trained.behavior)
    )
    return p / pi


def paired(trained):
    """q (S, A): the logistic function of what was added to the prior's and the behavior's logits.

    A new head has no behavior's logits under it.
    """
    added = logits(trained.values, trained.tokenizer).numpy()
    if trained.settings.get("values") != "head":
        added = added - logits(trained.behavior, trained.tokenizer).numpy()
    prior = trained.values.config.q_sft_prior
    return actions_of(1 / (1 + np.exp(-added) * (1 - prior) / prior), trained.tokenizer)


def q_of_recorded_actions(problem):
    """(S, A): the values that are the means of their targets over the recorded steps.

    Those of the next action as it was recorded; where a walk was cut off, of what pi does there.
    """
    steps, q = problem.recorded, np.zeros((STATES, ACTIONS))
    counts = offline.action_counts(steps)
    for _ in range(200):
        sums = np.zeros_like(q)
        for i, (state, action) in enumerate(zip(steps.states, steps.actions, strict=True)):
            y, following = steps.rewards[i], steps.next_states[i]
            if following != offline.ENDED:
                recorded = i + 1 < len(steps.states) and steps.episodes[i + 1] == steps.episodes[i]
                value = problem.policy[following] @ q[following]
                y += GAMMA * (q[following, steps.actions[i + 1]] if recorded else value)
            sums[state, action] += y
        q = sums / counts
    return q


def test_the_data_are_what_the_tests_need(problem):
    assert offline.action_counts(problem.recorded).min() > 5
    cut_off = [max(row) == len(row) for row in problem.episodes["next_action"]]
    assert 0 < sum(cut_off) < 30
    optimal, played = value_iteration(problem.mdp), policy_value(problem.mdp, problem.policy)
    assert (optimal.max(1) - played).min() > 0.05  # so that their tests tell them apart
    assert problem.policy.min() > 0.015  # all actions are in the support
    recorded = q_of_recorded_actions(problem)
    assert 0.003 < np.abs(recorded - bellman_backup(problem.mdp, played)).max() < 0.1


def test_cloning_learns_the_behavior_policy(problem):
    cloned = actions_of(
        probabilities(problem.cloned.behavior, problem.tokenizer), problem.tokenizer
    )
    assert np.abs(cloned - problem.policy).max() < 0.005
    assert problem.cloned.values is None


def test_filtered_cloning_learns_the_policy_of_the_best_episodes(problem):
    trained = train(problem, "filtered_bc", fraction=0.2)
    kept = episode_tools.best_episodes(problem.episodes, 0.2, seed=42)  # the Trainer's own seed
    counts = np.zeros((STATES, ACTIONS))
    words = problem.tokenizer.convert_ids_to_tokens(range(len(problem.tokenizer)))
    for ids, mask in zip(kept["input_ids"], kept["action_mask"], strict=True):
        for index in np.flatnonzero(mask):
            state, action = words[ids[index - 1]], words[ids[index]]
            counts[ENV.state_of(state), ENV.action_texts.index(action)] += 1
    expected = counts / counts.sum(1, keepdims=True)
    learned = actions_of(probabilities(trained.behavior, problem.tokenizer), problem.tokenizer)
    assert np.abs(learned - expected).max() < 0.005
    assert np.abs(learned - problem.policy).max() > 0.1


def test_returns_give_the_mean_recorded_return(problem):
    expected = offline.monte_carlo_q(problem.recorded, GAMMA)
    trained = train(problem, "mc_returns")
    assert np.abs(paired(trained) - expected).max() < 0.005
    one_dummy = train(problem, "q_sft_dummy", backup="returns", train_behavior=False)
    assert np.abs(ratio(one_dummy) - expected).max() < 0.005


BACKUPS = {
    "recorded": q_of_recorded_actions,
    "behavior": lambda problem: bellman_backup(
        problem.mdp, policy_value(problem.mdp, problem.policy)
    ),
    "support": lambda problem: value_iteration(problem.mdp),
}
# Returns say little of the optimum, so they do not come first there.
TRAINED = {"recorded": {}, "behavior": {}, "support": {"returns_first": 0.0, "steps": 200}}


@pytest.mark.parametrize("backup", BACKUPS)
@pytest.mark.parametrize("method", ["q_sft", "q_sft_new_head"])
def test_paired_values_are_the_fixed_point(problem, method, backup):
    trained = train(problem, method, **TRAINED[backup], backup=backup)
    assert np.abs(paired(trained) - BACKUPS[backup](problem)).max() < 0.01


@pytest.mark.slow
@pytest.mark.parametrize("seed", [101, 102, 103])
def test_paired_values_are_the_fixed_point_of_other_data(tmp_path, seed):
    """Of other behavior policies, walks and first weights, with nothing tuned to them."""
    behavior = np.random.default_rng(seed).dirichlet(np.full(ACTIONS, 6.0), size=STATES)
    problem = problem_of(behavior, seed, tmp_path)
    for method in ("q_sft", "q_sft_new_head"):
        for backup in ("recorded", "support"):
            trained = train(problem, method, **TRAINED[backup], backup=backup)
            error = np.abs(paired(trained) - BACKUPS[backup](problem)).max()
            assert error < 0.02, (method, backup)


@pytest.mark.parametrize("backup", ["support", "behavior"])
def test_one_dummy_has_the_same_fixed_points(problem, backup):
    expected = q_sft(problem.mdp, problem.policy, leftover="dummy", backup=backup).target
    assert np.allclose(expected, BACKUPS[backup](problem))
    trained = train(problem, "q_sft_dummy", backup=backup, train_behavior=False)
    assert np.abs(ratio(trained) - expected).max() < 0.02


def test_the_papers_form_believes_tokens_that_were_never_played(problem):
    """The leak of Eq. 3 over the tiny pi of a token without data is a ratio above 1.

    So the hard max says 1 of every next state, and the target is 1 wherever there is one.
    """
    trained = train(problem, "q_sft_paper")
    vocabulary = len(problem.tokenizer)
    goes_on = problem.recorded.next_states != offline.ENDED
    target, behavior = np.zeros((2, STATES, vocabulary))
    ids = problem.tokenizer.convert_tokens_to_ids(list(ENV.action_texts))
    counts = offline.action_counts(problem.recorded)
    pairs = (problem.recorded.states, np.array(ids)[problem.recorded.actions])
    np.add.at(target, pairs, np.where(goes_on, 1.0, problem.recorded.rewards))
    target[:, ids] /= counts
    behavior[:, ids] = problem.policy
    expected, _ = q_sft_probabilities(behavior, target, "uniform")
    assert np.abs(probabilities(trained.values, problem.tokenizer) - expected).max() < 0.02


def test_random_targets_say_a_half_of_everything(problem):
    trained = train(problem, "random_targets")
    assert np.abs(paired(trained) - 0.5).max() < 0.1  # one sample of y a visit


def pi_hat(problem, q, options):
    """(S, A): pi^(1 / temperature) exp(beta q) within the support of pi, normalised."""
    pi = actions_of(probabilities(problem.cloned.behavior, problem.tokenizer), problem.tokenizer)
    inside = pi >= options.get("relative_support", 0) * pi.max(1, keepdims=True)
    score = np.log(pi) / options.get("temperature", 1.0) + options["beta"] * q
    weights = np.where(inside, np.exp(score - score.max(1, keepdims=True)), 0.0)
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize("teacher", ["q_sft", "q_sft_new_head", "q_sft_dummy", "ilql"])
def test_a_distilled_network_plays_as_its_teacher_does(problem, teacher):
    trained = train(problem, teacher, steps=40)
    before = kept(trained)
    if teacher == "ilql":
        q = actions_of(logits(trained.values, problem.tokenizer), problem.tokenizer)
    else:
        q = np.minimum(ratio(trained), 1) if teacher == "q_sft_dummy" else paired(trained)
    options = {"beta": 8.0, "temperature": 2.0, "relative_support": 0.3}
    student = train(problem, "q_sft_distilled", start=trained, **options)
    learned = probabilities(student.behavior, problem.tokenizer)
    learned = actions_of(learned / learned.sum(1, keepdims=True), problem.tokenizer)
    expected = pi_hat(problem, q, options)
    assert np.abs(learned - expected).max() < 0.01
    assert np.abs(expected - problem.policy).max() > 0.2 and (expected == 0).any()
    assert student.values is None and student.policy(temperature=0.5).temperature == 0.5
    assert kept(trained) == before  # though it was trained a moment ago


def test_only_a_method_with_values_is_distilled(problem):
    for start in (problem.cloned.behavior, problem.cloned):
        with pytest.raises(ValueError, match="learns from a trained method that has values"):
            train(problem, "q_sft_distilled", start=start)
    start = train(problem, "q_transformer", steps=1)
    with pytest.raises(ValueError, match="places that q_transformer tells apart"):
        train(problem, "q_sft_distilled", start=start)


def expectile_q(mdp, policy, expectile):
    """(S, A) the fixed point of ILQL: V(s) is the expectile of Q(s, .) under the data's actions."""
    values = np.zeros(mdp.n_states)
    for _ in range(200):
        q = bellman_backup(mdp, values)
        values = np.array(
            [stats.expectile(row, expectile, weights=pi) for row, pi in zip(q, policy, strict=True)]
        )
    return bellman_backup(mdp, values)


def test_the_expectile_leads_from_the_behavior_to_the_optimum(problem):
    behavior = bellman_backup(problem.mdp, policy_value(problem.mdp, problem.policy))
    assert np.allclose(expectile_q(problem.mdp, problem.policy, 0.5), behavior)
    nearly_one = expectile_q(problem.mdp, problem.policy, 0.9999)
    assert np.abs(nearly_one - value_iteration(problem.mdp)).max() < 1e-3


@pytest.mark.parametrize("expectile", [0.5, 0.9])
def test_ilql_reaches_its_expectile(problem, expectile):
    trained = train(
        problem, "ilql", steps=150, learning_rate=0.01, expectile=expectile, conservatism=0.0
    )
    learned = actions_of(logits(trained.values, problem.tokenizer), problem.tokenizer)
    expected = expectile_q(problem.mdp, problem.policy, expectile)
    assert np.abs(learned - expected).max() < 0.02


@pytest.mark.parametrize("conservatism", [0.001, 0.05])
def test_cql_reaches_the_conservative_optimum(problem, conservatism):
    trained = train(problem, "cql", steps=150, learning_rate=0.01, conservatism=conservatism)
    learned = actions_of(logits(trained.values, problem.tokenizer), problem.tokenizer)
    expected = offline.conservative_q(problem.recorded, GAMMA, alpha=conservatism)
    assert np.abs(learned - expected).max() < 0.02
    if conservatism == 0.001:
        assert np.abs(learned - value_iteration(problem.mdp)).max() < 0.02


def train_heads(problem, folder, *, own=None, **changes):
    """ILQL for a few steps at a constant rate, with what it logged."""
    changes = {"max_steps": 14, "learning_rate": 0.01, "lr_scheduler_type": "constant", **changes}
    return baselines.train(
        "ilql",
        problem.cloned.behavior,
        problem.tokenizer,
        problem.episodes,
        problem.episodes,
        arguments(folder, **changes),
        length=LENGTH,
        **own or {},
    )


@pytest.mark.parametrize("method", ["bc", "q_sft", "ilql", "q_sft_distilled"])
def test_a_killed_training_resumes_bit_for_bit(problem, tmp_path, method):
    class Kill(TrainerCallback):
        def on_step_end(self, args, state, control, **others):
            if state.global_step == 10:
                raise InterruptedError

    class NoStep(TrainerCallback):
        def on_step_end(self, args, state, control, **others):
            raise AssertionError("trained again")

    start = problem.cloned.behavior
    if method == "q_sft_distilled":
        start = train(problem, "mc_returns", steps=5)

    def run(folder, **options):
        often = {"save_strategy": "steps", "save_steps": 4, "per_device_train_batch_size": 2}
        return baselines.train(
            method,
            start,
            problem.tokenizer,
            problem.episodes,
            problem.episodes,
            arguments(folder, max_steps=14, logging_steps=2, **often),
            length=LENGTH,
            **options,
        )

    def weights(trained):
        parts = {"pi": trained.behavior, "values": trained.values}
        return {
            (part, name): weight
            for part, module in parts.items()
            if module is not None
            for name, weight in module.state_dict().items()
        }

    unbroken = run(tmp_path / "unbroken")
    assert not list(tmp_path.rglob("checkpoint-*")) and not list(tmp_path.rglob("finished"))
    with pytest.raises(InterruptedError):
        run(tmp_path / "broken", resume=True, callbacks=[Kill()])
    assert len(list(tmp_path.rglob("checkpoint-*"))) == 2
    resumed = run(tmp_path / "broken", resume=True)
    again = run(tmp_path / "broken", resume=True, callbacks=[NoStep()])
    assert not list(tmp_path.rglob("checkpoint-*"))
    for one in (resumed, again):
        assert weights(one).keys() == weights(unbroken).keys()
        assert all(
            torch.equal(weight, weights(one)[key]) for key, weight in weights(unbroken).items()
        )
        assert [line["step"] for line in one.logs] == [line["step"] for line in unbroken.logs]
    if method == "ilql":
        with pytest.raises(ValueError, match="another run, of other options"):
            run(tmp_path / "broken", resume=True, expectile=0.5)


def test_a_run_that_starts_anew_leaves_no_older_checkpoint(problem, tmp_path, monkeypatch):
    often = {"save_strategy": "steps", "save_steps": 1}
    train_heads(problem, tmp_path, max_steps=2, **often)

    def killed(self, *arguments, **options):
        raise InterruptedError

    monkeypatch.setattr(StageTrainer, "training_step", killed)
    with pytest.raises(InterruptedError):
        train_heads(problem, tmp_path, own={"expectile": 0.5}, max_steps=2, **often)
    # Else the run with .5 would later go on from the weights of the run with .7.
    assert not list(tmp_path.glob("ilql/checkpoint-*"))


def test_accumulated_batches_are_one_batch(problem, tmp_path):
    whole = train_heads(problem, tmp_path, max_steps=3, per_device_train_batch_size=2)
    parts = train_heads(
        problem,
        tmp_path,
        max_steps=3,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=2,
    )
    expected, found = whole.values.state_dict(), parts.values.state_dict()
    assert all(torch.allclose(expected[name], found[name], atol=1e-5) for name in expected)


def test_heads_log_how_they_do(problem, tmp_path):
    trained = train_heads(problem, tmp_path, eval_strategy="steps", eval_steps=7, logging_steps=7)
    assert [entry["step"] for entry in trained.logs if "q_minus_return" in entry] == [7, 14]
    losses = [entry["eval_loss"] for entry in trained.logs if "eval_loss" in entry]
    assert len(losses) == 2 and all(0 < loss < 1 for loss in losses)


@pytest.mark.parametrize("method", baselines.METHODS)
def test_training_leaves_the_given_model_as_it_was(problem, method):
    """Its weights, and which of them can be trained: another method may begin with it, too."""
    start = problem.model if method == "bc" else problem.cloned.behavior
    if method == "q_sft_distilled":
        start = train(problem, "q_sft", steps=1)
    before = kept(start)
    train(problem, method, start=start, steps=2)
    assert kept(start) == before


@pytest.mark.parametrize("form", ["paired", "dummy"])
def test_a_method_goes_on_from_both_networks_of_another(problem, form):
    first, then, values, options = "mc_returns", "q_sft", paired, {"prior": "returns"}
    if form == "dummy":
        first = then = "q_sft_dummy"
        values, options = ratio, {"backup": "returns"}
    returns = train(problem, first, **options)
    before = values(returns)
    start = returns.values.config.q_sft_prior if form == "paired" else 1
    assert np.abs(before - start).max() > 0.1
    same = train(problem, then, start=returns, steps=1, learning_rate=0.0)
    assert np.allclose(values(same), before)
    assert all(
        torch.equal(weight, returns.behavior.state_dict()[name])
        for name, weight in same.behavior.state_dict().items()
    )
    further = train(problem, then, start=returns, **TRAINED["support"], backup="support")
    assert np.abs(values(further) - value_iteration(problem.mdp)).max() < 0.02
    assert np.array_equal(values(returns), before)


def test_what_cannot_be_trained(problem):
    with pytest.raises(ValueError, match="method must be one of bc, filtered_bc"):
        train(problem, "ppo")
    with pytest.raises(ValueError, match="ilql knows no option alpha; its own are: expectile"):
        train(problem, "ilql", alpha=1.0)
    with pytest.raises(ValueError, match="q_sft knows no option fraction"):
        train(problem, "q_sft", fraction=0.1)
    for method, start in (
        ("ilql", "mc_returns"),
        ("mc_returns", "ilql"),
        ("bc", "bc"),
        ("q_sft_paper", "mc_returns"),  # to it the dummy would be an action
        ("q_sft_new_head", "q_sft"),
        ("q_sft_dummy", "q_sft"),
    ):
        with pytest.raises(ValueError, match=f"{method} cannot go on from {start}: pass a model"):
            train(problem, method, start=train(problem, start, steps=1))
    with pytest.raises(ValueError, match=r"fraction must be in \(0, 1\]"):
        train(problem, "filtered_bc", fraction=0.0)
    with pytest.raises(ValueError, match="expectile must lie strictly between"):
        train(problem, "ilql", expectile=1.0)
    with pytest.raises(FloatingPointError, match="loss is nan at step 1"):
        broken = problem.episodes.map(lambda row: {"reward": [np.nan] * len(row["reward"])})
        train(SimpleNamespace(**{**vars(problem), "episodes": broken}), "cql")
