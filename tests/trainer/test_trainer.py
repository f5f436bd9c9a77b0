"""qsft_lite.trainer against exact MDPs, plain loops, and itself: killed, resumed."""

import math
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedConfig, PreTrainedModel, TrainerCallback

from qsft_lite.data import collate
from qsft_lite.loss import bellman_target, q_sft_loss
from qsft_lite.models import character_tokenizer, output_head, small_model
from qsft_lite.tabular import TabularMDP, q_sft
from qsft_lite.trainer import QSFTConfig, QSFTTrainer, train_q_sft
from qsft_lite.trainer.step import behavior_step, q_sft_step, token_states

TOKENIZER = character_tokenizer("abcdefghij")
DUMMY = 2
LENGTH = 24


def config(folder: Path, stage: str = "values", **options) -> QSFTConfig:
    options = {
        "per_device_train_batch_size": 4,
        "max_steps": 20,
        "learning_rate": 3e-3,
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": True,
        "logging_steps": 5,
        **options,
    }
    return QSFTConfig(output_dir=str(folder), stage=stage, **options)


def model(seed: int = 0, **options):
    options = {"layers": 2, "width": 16, "heads": 2, "context": LENGTH, **options}
    return small_model(TOKENIZER, seed=seed, **options)


def random_rows(count: int, seed: int = 0) -> list[dict]:
    """Packed rows of random episodes: of whatever the tokens say, some cut off, some padding."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        row = {name: [] for name in collate_columns()}
        for segment in (1, 2):
            n = int(rng.integers(5, 12))
            actions = np.flatnonzero(rng.random(n) < 0.5)
            actions = actions[actions > 0] if (actions > 0).any() else np.array([2])
            done = rng.random() < 0.7
            following = {int(a): int(b) for a, b in zip(actions[:-1], actions[1:], strict=True)}
            start = len(row["input_ids"])
            for i in range(n):
                chosen = i in actions
                after = following.get(i, -1 if done else n) if chosen else -1
                row["input_ids"].append(int(rng.integers(3, len(TOKENIZER))) if i else 1)
                row["position_ids"].append(i)
                row["segment_ids"].append(segment)
                row["action_mask"].append(chosen)
                row["next_action"].append(after + start if after >= 0 else -1)
                row["reward"].append(float(rng.random() < 0.2) / 2 if chosen else 0.0)
                row["discount"].append(0.9 if chosen else 0.0)
                row["return_to_go"].append(float(rng.random()) if chosen else 0.0)
        missing = LENGTH - len(row["input_ids"])
        for name, padding in collate_columns().items():
            row[name] = np.array(row[name] + [padding] * missing)
        rows.append(row)
    return rows


def collate_columns() -> dict:
    return {
        "input_ids": 0,
        "position_ids": 0,
        "segment_ids": 0,
        "action_mask": False,
        "next_action": -1,
        "reward": 0.0,
        "discount": 0.0,
        "return_to_go": 0.0,
    }


def weights(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def assert_identical(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def step_options(args: QSFTConfig) -> dict:
    """What a ValueStage of these settings hands to q_sft_step."""
    return {
        "backup": args.as_backup(),
        "dummy": DUMMY if args.leftover == "dummy" else None,
        "train_behavior": args.train_behavior,
    }


# A step, against one episode at a time


def naive_step(q, target, behavior, rows, args) -> float:
    """The loss from each model's full logits of each episode alone, in plain loops."""
    leftover = DUMMY if args.leftover == "dummy" else "uniform"
    losses = []
    for row in rows:
        for segment in sorted(set(row["segment_ids"]) - {0}):
            (inside,) = np.nonzero(row["segment_ids"] == segment)
            start, n = inside[0], len(inside)
            ids = torch.tensor(row["input_ids"][inside])[None]
            q_logits, target_logits, pi_logits = (
                m(input_ids=ids).logits[0].double() for m in (q, target, behavior)
            )
            for i in range(n):
                if not row["action_mask"][start + i]:
                    continue
                after = int(row["next_action"][start + i])
                at = after - start - 1 if after >= 0 else 0
                y = bellman_target(
                    torch.tensor(row["reward"][start + i]),
                    torch.tensor(after < 0),
                    target_logits[at],
                    pi_logits[at],
                    gamma=float(row["discount"][start + i]),
                    backup=args.backup,
                    support=args.support,
                    beta=args.beta,
                    score=args.score,
                    leftover=leftover,
                )
                if args.backup == "returns":
                    y = torch.tensor(row["return_to_go"][start + i])
                losses.append(q_sft_loss(q_logits[i - 1], ids[0, i], y, leftover=leftover))
    return torch.stack(losses).mean()


@pytest.mark.parametrize(
    ("leftover", "backup", "score"),
    [
        ("dummy", "max", "ratio"),
        ("uniform", "max", "ratio"),
        ("dummy", "support", "ratio"),
        ("dummy", "behavior", "ratio"),
        ("dummy", "policy", "ratio"),
        ("uniform", "policy", "p"),
    ],
)
def test_a_step_equals_one_episode_at_a_time(tmp_path, leftover, backup, score):
    rows = random_rows(3)
    args = config(tmp_path, leftover=leftover, backup=backup, score=score, support=0.04, beta=3.0)
    models = [model(seed, width=32) for seed in range(3)]
    with torch.no_grad():  # apart enough for the support to leave some actions out
        for m in models:
            m.lm_head.weight *= 40
    loss, found = q_sft_step(*models, collate(rows), **step_options(args), statistics=True)
    expected = naive_step(*models, rows, args)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)

    loss.backward()
    gradient = weights_gradient(models[0])
    models[0].zero_grad()
    expected.backward()
    torch.testing.assert_close(gradient, weights_gradient(models[0]), rtol=1e-4, atol=1e-6)
    assert all(p.grad is None for m in models[1:] for p in m.parameters())
    assert set(found) >= {"target_mean", "target_std", "clamped", "ratio_05", "value_bias"}


def weights_gradient(module) -> torch.Tensor:
    return torch.cat([p.grad.reshape(-1) for p in module.parameters()])


# A table of logits for each token: exact, in an MDP whose states are tokens

N_STATES, N_ACTIONS = 4, 3
STATES = slice(3, 3 + N_STATES)
ACTIONS = slice(STATES.stop, STATES.stop + N_ACTIONS)


class TableModel(PreTrainedModel):
    """Logits that depend on the last token only, with one free number for each pair."""

    config_class = PreTrainedConfig
    _supports_sdpa = True

    def __init__(self, vocabulary: int):
        super().__init__(PreTrainedConfig(vocab_size=vocabulary))
        self.table = nn.Embedding(vocabulary, vocabulary)
        self.head = nn.Linear(vocabulary, vocabulary, bias=False)
        # Nothing but actions follows a state; told so, training is over sooner.
        nn.init.constant_(self.table.weight, -10)
        nn.init.zeros_(self.table.weight[:, ACTIONS])
        nn.init.eye_(self.head.weight)
        self.head.weight.requires_grad_(False)

    def get_output_embeddings(self):
        return self.head

    def forward(self, input_ids, **_):
        return SimpleNamespace(logits=self.head(self.table(input_ids)))

    def get_decoder(self):
        return lambda input_ids, **_: SimpleNamespace(last_hidden_state=self.table(input_ids))


GAMMA = 0.95


def random_process(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Outcomes (S, A, S + 1) of which the last ends the episode, the prize (S, A) then, a policy.

    Prizes come at the end only, so that what is won in an episode lies in [0, 1]: no target needs
    clamping, which would not agree with taking means.
    """
    rng = np.random.default_rng(seed)
    goes_on = rng.uniform(0.5, 0.9, (N_STATES, N_ACTIONS, 1))
    outcomes = rng.dirichlet(np.ones(N_STATES), (N_STATES, N_ACTIONS)) * goes_on
    outcomes = np.concatenate([outcomes, 1 - goes_on], axis=-1)
    prizes = rng.random((N_STATES, N_ACTIONS))
    return outcomes, prizes, rng.dirichlet(np.full(N_ACTIONS, 3.0), N_STATES)


def play(outcomes, prizes, behavior, episodes: int, seed: int) -> tuple[list[dict], np.ndarray]:
    """Episodes as packed rows, cut off at random; and how often (S, A, S + 1) each thing happened.

    State and action tokens by turns: an action stands at each odd position.
    """
    rng = np.random.default_rng(seed)
    counts = np.zeros(outcomes.shape)
    rows = []
    for _ in range(episodes):
        state, row = int(rng.integers(N_STATES)), {name: [] for name in collate_columns()}
        tokens, rewards, done = [STATES.start + state], [], False
        limit = int(rng.integers(1, LENGTH // 2))
        while not done and len(rewards) < limit:
            action = int(rng.choice(N_ACTIONS, p=behavior[state]))
            outcome = int(rng.choice(N_STATES + 1, p=outcomes[state, action]))
            counts[state, action, outcome] += 1
            done = outcome == N_STATES
            rewards.append(prizes[state, action] if done else 0.0)
            tokens.append(ACTIONS.start + action)
            if not done:
                tokens.append(STATES.start + outcome)
                state = outcome
        n = len(tokens)
        for i in range(LENGTH):
            chosen = i < n and i % 2 == 1
            after = i + 2 if i + 2 < n else (-1 if done else n)
            row["input_ids"].append(tokens[i] if i < n else 0)
            row["position_ids"].append(i if i < n else 0)
            row["segment_ids"].append(int(i < n))
            row["action_mask"].append(chosen)
            row["next_action"].append(after if chosen else -1)
            row["reward"].append(rewards[i // 2] if chosen else 0.0)
            row["discount"].append(GAMMA if chosen else 0.0)
            row["return_to_go"].append(0.0)
        rows.append({name: np.array(values) for name, values in row.items()})
    return rows, counts


def what_the_data_show(counts, prizes) -> tuple[TabularMDP, np.ndarray]:
    """The MDP that can be learned, every token an action of it, and the policy (S, V) played."""
    tried = counts.sum(-1)
    P = np.zeros((N_STATES, len(TOKENIZER), N_STATES))
    P[:, ACTIONS] = counts[..., :-1] / tried[..., None]
    R, pi = np.zeros(P.shape[:2]), np.zeros(P.shape[:2])
    R[:, ACTIONS] = counts[..., -1] / tried * prizes
    pi[:, ACTIONS] = tried / tried.sum(-1, keepdims=True)
    return TabularMDP(P, R, GAMMA), pi


def value_of_recorded_actions(rows, pi) -> np.ndarray:
    """(S, A): the Q whose mean target over the data it is, the next action as it was recorded."""
    q = np.zeros((N_STATES, N_ACTIONS))
    for _ in range(300):
        sums, counts = np.zeros_like(q), np.zeros_like(q)
        for row in rows:
            for i in np.flatnonzero(row["action_mask"]):
                s, a = row["input_ids"][i - 1] - STATES.start, row["input_ids"][i] - ACTIONS.start
                after, y = row["next_action"][i], row["reward"][i]
                if after >= 0:
                    following = row["input_ids"][after - 1] - STATES.start
                    recorded = after < LENGTH and row["action_mask"][after]
                    value = pi[following] @ q[following]
                    if recorded:
                        value = q[following, row["input_ids"][after] - ACTIONS.start]
                    y = y + GAMMA * value
                sums[s, a] += y
                counts[s, a] += 1
        q = sums / counts
    return q


@pytest.fixture(scope="module")
def cloned_once(tmp_path_factory):
    """The folder of stage one, which is the same whatever stage two does."""
    return tmp_path_factory.mktemp("one")


@pytest.mark.parametrize(
    ("leftover", "backup"),
    [
        ("dummy", "support"),
        pytest.param("dummy", "behavior", marks=pytest.mark.slow),
        pytest.param("uniform", "support", marks=pytest.mark.slow),
        ("paired", "behavior"),
        ("paired", "recorded"),
        pytest.param("paired", "support", marks=pytest.mark.slow),
    ],
)
def test_training_ends_at_the_fixed_point(tmp_path, cloned_once, leftover, backup):
    outcomes, prizes, behavior = random_process(seed=1)
    rows, counts = play(outcomes, prizes, behavior, episodes=100, seed=0)
    seen, pi = what_the_data_show(counts, prizes)
    table = TableModel(len(TOKENIZER))
    options = {
        "per_device_train_batch_size": len(rows),
        "lr_scheduler_type": "cosine",
        "learning_rate": 0.1,
        "support": 0.05,
        "leftover": leftover,
        "backup": backup,
        "target_rate": 0.2,
    }
    trained = train_q_sft(
        table,
        TOKENIZER,
        rows,
        None,
        config(cloned_once, "behavior", **{**options, "max_steps": 150}),
        config(tmp_path / "two", **{**options, "max_steps": 300}),
    )
    learned_pi = trained.behavior.table.weight[STATES].softmax(-1).detach().numpy()
    learned_p = trained.q_model.table.weight[STATES].softmax(-1).detach().numpy()
    np.testing.assert_allclose(learned_pi, pi, atol=1e-3)
    if leftover == "paired":
        added = trained.q_model.table.weight[STATES] - trained.behavior.table.weight[STATES]
        q = added.sigmoid().detach().numpy()[:, ACTIONS]
        exact = value_of_recorded_actions(rows, pi[:, ACTIONS])
        if backup != "recorded":
            exact = q_sft(seen, pi, leftover="dummy", backup=backup, support=0.05).target
            exact = exact[:, ACTIONS]
        np.testing.assert_allclose(q, exact, atol=2e-3)
        return
    exact = q_sft(seen, pi, leftover=leftover, backup=backup, support=0.05)
    np.testing.assert_allclose(learned_p[:, ACTIONS], exact.p[:, ACTIONS], atol=1e-3)
    if leftover == "dummy":
        np.testing.assert_allclose(learned_p[:, DUMMY], exact.dummy, atol=1e-3)


# The stages


def test_stage_two_starts_from_stage_one(tmp_path):
    """Without a step of training, p, its target and pi_phi are one."""
    trainer = QSFTTrainer(model(), config(tmp_path), None, None, TOKENIZER)
    stage = trainer.model
    assert_identical(weights(stage.q), weights(stage.target))
    assert_identical(weights(stage.q), weights(stage.behavior))
    assert stage.q.lm_head.weight is stage.q.get_input_embeddings().weight  # tied
    assert stage.q.lm_head.weight is not stage.target.lm_head.weight


def test_early_stopping_keeps_the_best_weights(tmp_path):
    rows = random_rows(12)
    args = config(
        tmp_path,
        "behavior",
        max_steps=200,
        learning_rate=0.03,
        early_stopping_patience=2,
        eval_steps=5,
    )
    trainer = QSFTTrainer(model(), args, rows[:4], rows[4:], TOKENIZER)
    trainer.train()
    log = trainer.state.log_history
    held_out = [line["eval_loss"] for line in log if "eval_loss" in line]
    assert 10 < trainer.state.global_step < 200  # noise is soon learned by heart
    assert trainer.evaluate()["eval_loss"] == pytest.approx(min(held_out), abs=1e-6)


# One loss, however it is cut up


def final_weights(folder: Path, rows, **options) -> torch.Tensor:
    args = config(folder, **{"max_steps": 4, "optim": "sgd", "learning_rate": 0.5, **options})
    trainer = QSFTTrainer(model(), args, rows, None, TOKENIZER)
    trainer.train()
    return nn.utils.parameters_to_vector(trainer.model.q.parameters()).detach()


def test_accumulated_gradients_are_those_of_one_batch(tmp_path):
    rows = random_rows(16)  # of different numbers of action tokens
    whole = final_weights(tmp_path / "a", rows, per_device_train_batch_size=8)
    parts = final_weights(
        tmp_path / "b", rows, per_device_train_batch_size=2, gradient_accumulation_steps=4
    )
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-6)


def test_evaluation_is_a_mean_over_tokens(tmp_path):
    rows = random_rows(7)
    args = config(tmp_path, "behavior", per_device_eval_batch_size=3)
    trainer = QSFTTrainer(model(), args, None, rows, TOKENIZER)
    token_losses = []
    with torch.no_grad():
        for row in rows:
            for segment in (1, 2):
                inside = row["segment_ids"] == segment
                ids = torch.tensor(row["input_ids"][inside])
                log_p = trainer.model.behavior(input_ids=ids[None]).logits[0].log_softmax(-1)
                chosen = np.flatnonzero(row["action_mask"][inside])
                token_losses += (-log_p[chosen - 1, ids[chosen]]).tolist()
    assert trainer.evaluate()["eval_loss"] == pytest.approx(np.mean(token_losses), abs=1e-5)


# The target network


def test_the_target_is_the_moving_average(tmp_path):
    seen = []

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **others):
            vector = nn.utils.parameters_to_vector
            seen.append([vector(m.parameters()).detach() for m in (model.q, model.target)])

    start = nn.utils.parameters_to_vector(model().parameters()).detach()
    args = config(tmp_path, max_steps=7, target_rate=0.25)
    QSFTTrainer(model(), args, random_rows(8), None, TOKENIZER, None, [Watch()]).train()
    average = start
    assert len(seen) == 7
    for q, target in seen:
        average = average + 0.25 * (q - average)
        torch.testing.assert_close(target, average, rtol=0, atol=1e-6)


@pytest.mark.parametrize("train_behavior", [False, True])
def test_the_behavior_policy_trains_along_only_when_asked(tmp_path, train_behavior):
    behavior = model(seed=1)
    before = weights(behavior)
    args = config(tmp_path, leftover="dummy", train_behavior=train_behavior)
    trainer = QSFTTrainer(model(), args, random_rows(8), None, TOKENIZER, behavior)
    trainer.train()
    moved = any(not torch.equal(before[n], w) for n, w in weights(behavior).items())
    assert moved == train_behavior


def test_the_behavior_policy_trains_along_as_in_stage_one(tmp_path):
    """Neither loss reaches into the other model."""
    rows = random_rows(8)
    options = {"optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 0.0}
    alone = QSFTTrainer(model(), config(tmp_path / "a", "behavior", **options), rows)
    alone.train()
    along = QSFTTrainer(
        model(2),
        config(tmp_path / "b", leftover="dummy", train_behavior=True, **options),
        rows,
        None,
        TOKENIZER,
        model(),
    )
    along.train()
    torch.testing.assert_close(
        nn.utils.parameters_to_vector(along.model.behavior.parameters()),
        nn.utils.parameters_to_vector(alone.model.behavior.parameters()),
        rtol=0,
        atol=1e-6,
    )


def test_returns_come_first_where_asked(tmp_path):
    """Half of the steps are those of a training on returns, the other half are not."""

    def steps(name, **options):
        seen = []

        class Watch(TrainerCallback):
            def on_step_end(self, args, state, control, model=None, **others):
                seen.append((model.backup.kind, weights(model.q)))

        args = config(tmp_path / name, max_steps=6, **options)
        QSFTTrainer(model(), args, random_rows(8), None, TOKENIZER, None, [Watch()]).train()
        return seen

    mixed, returns = steps("mixed", returns_first=0.5), steps("returns", backup="returns")
    assert [backup for backup, _ in mixed] == ["returns"] * 3 + ["behavior"] * 3
    for (_, one), (_, other) in zip(mixed[:3], returns[:3], strict=True):
        assert_identical(one, other)
    last, other = mixed[3][1], returns[3][1]
    assert any(not torch.equal(last[name], other[name]) for name in last)


# What is logged, and what stops


def test_statistics_mean_what_they_say(tmp_path):
    rows = random_rows(4)
    batch, models = collate(rows), [model(seed) for seed in range(3)]
    args = config(tmp_path, leftover="dummy", backup="max")
    _, found = q_sft_step(*models, batch, **step_options(args), statistics=True)
    actions = batch["action_mask"].reshape(-1).nonzero()[:, 0]
    logits = [full_logits(m, batch) for m in models]
    p, target, pi = (z.detach().double().softmax(-1) for z in logits)
    tokens = batch["input_ids"].reshape(-1)[actions]
    ratio = (p / pi)[actions - 1, tokens]
    value = 1 - p[actions - 1, DUMMY]
    returns = batch["return_to_go"].reshape(-1)[actions].double()

    y = []
    for index in actions.tolist():
        row, column = divmod(index, LENGTH)
        after = int(batch["next_action"][row, column])
        best = 0.0
        if after >= 0:
            at = row * LENGTH + after - 1
            options = [v for v in range(len(TOKENIZER)) if v != DUMMY]
            best = float((target[at] / pi[at])[options].max())
        y.append(float(batch["reward"][row, column] + batch["discount"][row, column] * best))
    expected = {
        "target_mean": np.clip(y, 0, 1).mean(),
        "target_std": np.clip(y, 0, 1).std(),
        "clamped": np.mean([not 0 <= v <= 1 for v in y]),
        "ratio_05": np.quantile(ratio, 0.05),
        "ratio_50": np.quantile(ratio, 0.5),
        "ratio_95": np.quantile(ratio, 0.95),
        "value_bias": float((value - returns).mean()),
        "value_correlation": np.corrcoef(value, returns)[0, 1],
        "dummy": float(p[actions - 1, DUMMY].mean()),
    }
    assert expected["clamped"] > 0
    assert {k: v.item() for k, v in found.items()} == pytest.approx(expected, abs=2e-5)


def full_logits(m, batch) -> torch.Tensor:
    return output_head(m)(token_states(m, batch))


def test_divergence_stops_with_advice(tmp_path):
    broken = model()
    with torch.no_grad():
        broken.lm_head.weight[5, 0] = math.nan
    trainer = QSFTTrainer(broken, config(tmp_path), random_rows(4), None, TOKENIZER, model())
    with pytest.raises(FloatingPointError, match="loss is nan at step 1.*learning_rate"):
        trainer.train()


def test_without_clamping_a_target_outside_stops(tmp_path):
    rows = random_rows(4)
    for row in rows:
        row["reward"] = np.where(row["action_mask"], 0.9, 0.0)
    args = config(tmp_path, clamp=False)
    with pytest.raises(FloatingPointError, match="targets reach .* outside"):
        QSFTTrainer(model(), args, rows, None, TOKENIZER).train()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backup": "maximum"}, "backup must be one of"),
        ({"target_rate": 0.0}, "target_rate must lie in"),
        ({"support": 2.0}, "support must lie in"),
        ({"returns_first": 1.5}, "returns_first must lie in"),
        ({"leftover": "uniform", "backup": "behavior"}, "always 1"),
        ({"early_stopping_patience": 3}, "stage one: in stage two the targets move, and so does"),
        ({"leftover": "none"}, "leftover must be one of .*paired"),
        ({"values": "heads"}, "values must be one of .*'logits', 'head'"),
        ({"train_behavior": True}, 'train_behavior is not for leftover="paired": .*stage one'),
        ({"prior": 1.0}, "prior must lie strictly between 0 and 1, not 1.0"),
        ({"prior": 0}, "prior must lie strictly between 0 and 1, not 0"),
        ({"prior": "mean"}, "prior must lie strictly between 0 and 1, not 'mean'"),
        ({"leftover": "dummy", "backup": "recorded"}, 'recorded" is for leftover="paired" alone'),
        ({"leftover": "uniform", "values": "head"}, 'head" is for leftover="paired" alone'),
        ({"leftover": "dummy", "score": "paired"}, 'paired" is for leftover="paired" alone'),
    ],
)
def test_bad_settings_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        config(tmp_path, **options)


def test_stages_in_the_wrong_order_are_refused(tmp_path):
    one, two = config(tmp_path / "one", "behavior"), config(tmp_path / "two")
    with pytest.raises(ValueError, match="in this order"):
        train_q_sft(model(), TOKENIZER, [], None, two, one)
    with pytest.raises(ValueError, match="give each one"):
        train_q_sft(model(), TOKENIZER, [], None, one, config(tmp_path / "one"))


# Costs that can be counted


def step_flops(args, rows, models) -> int:
    batch = collate(rows)
    with FlopCounterMode(display=False) as counter:
        q_sft_step(*models, batch, **step_options(args))[0].backward()
    return counter.get_total_flops()


def test_a_step_costs_what_it_should(tmp_path):
    rows = random_rows(8)
    models = [model(seed, layers=4, width=32) for seed in range(3)]
    for frozen in models[1:]:
        frozen.requires_grad_(False)
    with FlopCounterMode(display=False) as counter:
        behavior_step(models[0], collate(rows)).backward()
    supervised = counter.get_total_flops()
    dummy = {"leftover": "dummy"}
    live = step_flops(config(tmp_path, **dummy), rows, models)
    # Forward 1 and backward 2 make a step 3: the target and pi_phi add a forward pass each.
    assert 1.60 < live / supervised <= 1.70
    alone = step_flops(config(tmp_path, **dummy, backup="behavior"), rows, models)
    assert alone / supervised <= 1.40  # it asks pi_phi nothing
    returns = step_flops(config(tmp_path, **dummy, backup="returns"), rows, models)
    assert returns / supervised == pytest.approx(1, abs=0.02)


def test_mixed_precision_is_close(tmp_path):
    rows = random_rows(8)
    exact = final_weights(tmp_path / "a", rows)
    mixed = final_weights(tmp_path / "b", rows, bf16=True)
    assert not torch.equal(exact, mixed)
    torch.testing.assert_close(mixed, exact, rtol=0, atol=0.02)


def test_checkpointed_activations_change_nothing(tmp_path):
    rows = random_rows(8)
    plain = final_weights(tmp_path / "a", rows)
    frugal = final_weights(tmp_path / "b", rows, activation_checkpointing=True)
    torch.testing.assert_close(frugal, plain, rtol=0, atol=1e-6)


def test_a_stream_of_rows(tmp_path):
    rows = random_rows(16)
    stream = datasets.IterableDataset.from_generator(lambda: iter(rows)).with_format("numpy")
    streamed = final_weights(tmp_path / "a", stream)
    listed = final_weights(tmp_path / "b", rows, train_sampling_strategy="sequential")
    torch.testing.assert_close(streamed, listed, rtol=0, atol=1e-6)


def test_tensorboard_files_are_written(tmp_path, monkeypatch):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    final_weights(tmp_path / "run", random_rows(4), report_to="tensorboard", logging_steps=2)
    assert list((tmp_path / "board").glob("events.*"))


def test_a_run_without_a_progress_bar_prints_nothing(tmp_path, capfd):
    final_weights(tmp_path / "run", random_rows(4), logging_steps=1, disable_tqdm=True)
    assert capfd.readouterr() == ("", "")
