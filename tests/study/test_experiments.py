"""The experiments at their smallest: they run, record, and go on where they were."""

import itertools
import json
import os
import shutil
from types import SimpleNamespace

import chess
import numpy as np
import pytest
import torch
from datasets import Dataset
from scipy import stats

from experiments import chess_games, endgames, study, twenty_questions, wordle
from qsft_lite.baselines import TrainedMethod
from qsft_lite.baselines.choosing import GREEDY_BETA, as_options
from qsft_lite.models import small_model
from qsft_lite.tasks.endgames.moves import white_moves
from qsft_lite.tasks.endgames.players import MixturePlayer
from qsft_lite.tasks.endgames.text import read_board
from qsft_lite.tasks.endgames.values import exact_q
from qsft_lite.tasks.twenty_questions.data import play_games, to_episodes

SMALL = {wordle: "200", twenty_questions: "100", endgames: "50"}  # recorded games
ENGINES = os.pathsep.join(["/usr/games", os.environ.get("PATH", "")])


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("QSFT_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("QSFT_THREADS", "1")
    monkeypatch.delenv("QSFT_COMMAND", raising=False)
    # The grids have many candidates, and a smoke run has little else to do than to play them.
    monkeypatch.setattr(
        study, "VALUE_GRID", {"beta": (0.0, 32.0, GREEDY_BETA), "relative_support": (0.5,)}
    )
    monkeypatch.setattr(
        study, "CLONING_GRID", {"temperature": (0.0, 0.5), "relative_support": (0.0, 0.5)}
    )

    def run(experiment, *more):
        work = str(tmp_path / "work")
        arguments = ["--profile", "smoke", "--output", work]
        arguments += ["--games", SMALL[experiment]] if experiment in SMALL else []
        experiment.main([*arguments, *more])
        [path] = (tmp_path / "results").glob("*.json")
        return json.loads(path.read_text())

    return run


@pytest.mark.parametrize("experiment", SMALL)
def test_it_records_a_row_for_each_method_and_does_not_train_twice(run, monkeypatch, experiment):
    result = run(experiment, "--only", "ILQL", "Q-SFT (ours)")
    shown, *_ = result["tables"].values()
    rows = {row["method"]: row for row in shown}
    assert list(rows) == ["Behavior cloning", "ILQL", "Q-SFT (ours), by p", "Q-SFT (ours), by p/pi"]
    assert ("KL(pi_beta || pi_phi)" in str(result["tables"])) == (experiment is not wordle)
    games = [int(game) for game in result["raw"]["seeds"][0]["ILQL"][""]["returns"].split()]
    assert len(games) == experiment.PROFILES["smoke"]["test games"]
    if experiment is not endgames:
        assert set(games) <= set(range(experiment.LOWEST, 1))
        assert experiment.LOWEST < result["headline"]["Optimum"] <= 0
    assert rows["ILQL"]["score"]["mean"] == pytest.approx(np.mean(games))
    assert "--only ILQL 'Q-SFT (ours)'" in result["command"]
    assert rows["Behavior cloning"]["over sharpened cloning"]["mean"] == 0
    check_grids(result["raw"]["seeds"][0])

    monkeypatch.setattr(study, "train", None)  # finished rows need no training
    assert run(experiment, "--only", "ILQL", "Q-SFT (ours)")["raw"] == result["raw"]


@pytest.mark.skipif(not shutil.which("stockfish", path=ENGINES), reason="apt install stockfish")
def test_whole_games_of_chess_are_recorded_and_described(run):
    result = run(chess_games, "--only", "ILQL", "Q-SFT (ours), returns first")
    rows = {row["method"]: row for row in result["tables"]["chess_games"]}
    assert list(rows) == ["Behavior cloning", "ILQL", "Q-SFT (ours), returns first, by p/pi"]
    smoke = chess_games.PROFILES["smoke"]
    for row in rows.values():
        games = smoke["test games"]
        assert row["moves a game"] <= smoke["longest test game"]
        illegal = row["illegal moves"] * row["moves a game"] * games
        assert row["score"]["mean"] * games == pytest.approx(
            row["wins"] * games - row["losses"] * games - illegal
        )
    for row in result["tables"]["chess_games_measured"]:
        assert 0 < row["pi of illegal moves"] < 1 and row["cross-entropy"] > 0


def test_games_are_described_by_their_endings():
    task = SimpleNamespace()
    games = [  # lost at the second move; an illegal move at the end, cut off; won after one
        {"reward": [0, 0, 0, -1, 0], "done": True},
        {"reward": [0, 0, 0, -1, 0], "done": False},
        {"reward": [0, -1, 0, 1, 0], "done": True},
    ]
    result = SimpleNamespace(transcripts=games, lengths=np.array([2, 2, 2]))
    found = chess_games.ChessTask.describe(task, result)
    assert found == {"losses": 1 / 3, "illegal moves": 2 / 6, "moves a game": 2.0}


def test_one_seed_alone_is_read_when_all_are_recorded(run, tmp_path, monkeypatch):
    work = str(tmp_path / "work")
    wordle.main(["--profile", "smoke", "--games", "200", "--output", work, "--only", "--seed", "0"])
    assert not list((tmp_path / "results").glob("*.json"))
    monkeypatch.setattr(study, "train", None)
    assert run(wordle, "--only")["tables"]


def test_rows_are_means_over_seeds_paired_by_game():
    def seed(cloned, ours):
        entry = {"options": {}, "grid": [], "tried": [], "success": 1.0}
        return {
            "Behavior cloning": {"scores": {"": {**entry, "returns": cloned}}},
            "Ours": {"scores": {"ratio": {**entry, "returns": ours}}},
        }

    found = [seed([-2, -4, -3], [-1, -3, -2]), seed([-4, -4, -5], [-3, -3, -4])]
    cloned, ours = study.table(found, lowest=-6, data_mean=-4.0, best=-1.0)
    assert cloned["score"]["mean"] == pytest.approx(-22 / 6)
    assert ours["over sharpened cloning"] == {"mean": 1.0, "low": 1.0, "high": 1.0}
    assert ours["seeds"] == "-2.00, -3.33"
    assert ours["normalised"] == pytest.approx(50 + 50 * (-16 / 6 + 4) / 3)


def check_grids(seed):
    """Both scores and ILQL have tried all of one grid; what was chosen has the best mean."""
    for title, score, axes in (
        ("Behavior cloning", "", study.CLONING_GRID),
        ("ILQL", "", study.VALUE_GRID),
        ("Q-SFT (ours)", "p", study.VALUE_GRID),
        ("Q-SFT (ours)", "ratio", study.VALUE_GRID),
    ):
        one, by = seed[title][score], {"score": score} if score else {}
        tried = json.loads(one["grid"])  # beside all of the grid, what it was widened by
        for place in itertools.product(*axes.values()):
            assert as_options(dict(zip(axes, place, strict=True))) | by in tried
        assert one["tried"][tried.index(one["options"])] == max(one["tried"])


@pytest.mark.parametrize("score", ["p", "ratio"])
def test_at_the_greedy_end_of_beta_the_best_score_plays(score):
    task = twenty_questions.TwentyQuestionsTask(twenty_questions.PROFILES["smoke"], seed=0)
    own = {"leftover": "dummy"}
    trained = TrainedMethod("q_sft", own, task.model, task.model, task.tokenizer, "", [])
    options = as_options({"beta": GREEDY_BETA, "relative_support": 0.1})
    policy = task.policy(trained, {**options, "score": score})
    pi = torch.tensor([0.6, 0.25, 0.14, 0.01, 0.0])  # the last one is the dummy
    q = torch.tensor([0.2, 0.5, 0.501, 0.9, 0.0])  # the last but one is outside the support
    p = pi * q
    p[-1] = 1 - p.sum()
    weights = policy.log_weights([pi.log()[None], p.log()[None]])
    best = 2 if score == "ratio" else 1
    assert policy.greedy and weights.argmax() == best


def test_a_cloned_policy_has_a_support():
    task = twenty_questions.TwentyQuestionsTask(twenty_questions.PROFILES["smoke"], seed=0)
    trained = TrainedMethod("bc", {}, task.model, None, task.tokenizer, "", [])
    logits = torch.tensor([[0.5, 0.3, 0.2, 0.0]]).log()
    allowed = {0.0: 3, 0.5: 2, 0.9: 1}
    for support, count in allowed.items():
        policy = task.policy(trained, {"relative_support": support, "temperature": 0.5})
        weights = policy.log_weights([logits])
        assert torch.isfinite(weights).sum() == count
        assert weights[0, 0] == pytest.approx(2 * np.log(0.5))


@pytest.mark.parametrize(("over_seeds", "over_games"), [(0.0, 1.0), (0.05, 1.0), (0.3, 0.3)])
def test_intervals_hold_the_truth(over_seeds, over_games):
    """Nineteen times in twenty or a little more, three seeds in 500 shared games."""
    rng = np.random.default_rng(0)
    held = []
    for _ in range(400):
        scores = over_seeds * rng.normal(size=(3, 1)) + over_games * rng.normal(size=(1, 500))
        found = study.interval(scores + rng.normal(size=(3, 500)))
        held.append(found["low"] <= 0 <= found["high"])
    assert 0.93 <= np.mean(held) <= 0.995


def test_an_interval_of_one_part_alone_is_that_of_student():
    means = np.array([1.0, 2.0, 4.0])
    seeds = study.interval(np.tile(means[:, None], 10))
    expected = stats.t.interval(0.95, 2, means.mean(), stats.sem(means))
    assert (seeds["low"], seeds["high"]) == pytest.approx(expected)
    games = np.random.default_rng(0).normal(size=20)
    expected = stats.t.interval(0.95, 19, games.mean(), stats.sem(games))
    for scores in (games[None], np.tile(games, (3, 1))):
        found = study.interval(scores)
        assert (found["low"], found["high"]) == pytest.approx(expected)


def test_games_from_one_start_count_as_one():
    once = np.random.default_rng(0).normal(size=(3, 50))
    start = list(range(50))
    assert study.interval(np.c_[once, once], start + start) == pytest.approx(study.interval(once))
    more = np.c_[once, once[:, :1]]  # the mean stays that of all games
    assert study.interval(more, [*start, 0])["mean"] == pytest.approx(more.mean())


def test_edges_of_a_grid():
    betas = [{"beta": beta} for beta in (4.0, 16.0, 64.0)]
    assert study.edges_of(betas[0], betas) == ["least beta"]
    assert study.edges_of(betas[1], betas) == []
    assert study.edges_of(betas[2], betas) == ["largest beta"]
    ends = [{"beta": 0.0}, *betas, {"beta": GREEDY_BETA, "greedy": True}]
    assert not any(study.edges_of(options, ends) for options in ends)
    cloning = [{"temperature": t} for t in (0.5, 1.0)]
    assert study.edges_of(cloning[0], cloning) == ["least temperature"]
    assert study.edges_of(cloning[1], cloning) == []
    assert study.edges_of(cloning[0], [*cloning, {"greedy": True}]) == []
    pairs = [  # a beta is at an end of those at its own temperature
        {"beta": weight / t, "temperature": t, "relative_support": 0.05}
        for weight in (1.0, 2.0, 4.0)
        for t in (0.5, 0.25)
    ]
    assert study.edges_of(pairs[0], pairs) == ["least beta", "largest temperature"]
    assert study.edges_of(pairs[3], pairs) == ["least temperature"]
    assert study.edges_of({}, [{}]) == []


def test_a_table_is_computed_anew_from_its_scores(run, tmp_path):
    result = run(wordle, "--only", "ILQL")
    [path] = (tmp_path / "results").glob("*.json")
    stale = json.loads(json.dumps(result))
    for row in stale["tables"]["wordle_methods"]:
        row["score"] = {"mean": 0.0, "low": 0.0, "high": 0.0}
        del row["at the grid's edge"]
    path.write_text(json.dumps(stale))
    study.main([str(path)])
    anew = json.loads(path.read_text())
    assert set(anew.pop("recomputed")) == {"date", "commit"}
    for old, new in zip(*(r["tables"]["wordle_methods"] for r in (result, anew)), strict=True):
        assert new == old
    assert anew == result


def test_recorded_tables_are_those_of_their_scores(tmp_path):
    """What data/results shows is what its scores say, for every recorded study."""
    paths = sorted((study.project_root() / "data" / "results").glob("*.record.json"))
    assert len(paths) >= 10
    for path in paths:
        copied = tmp_path / path.name
        copied.write_bytes(path.read_bytes())
        study.main([str(copied)])
        old, new = (json.loads(p.read_text()) for p in (path, copied))
        assert old["tables"] == new["tables"] and old["headline"] == new["headline"], path.name
        for row in new["tables"][new["name"]]:
            single = len(new["raw"]["seeds"]) == 1
            assert single or row["score"]["low"] < row["score"]["mean"]


def test_words_are_spread_over_the_list():
    words = wordle.word_list(None, 40)
    assert len(set(words)) == 40 and words == sorted(words)
    assert len(wordle.word_list(None, 0)) == 448


def test_objects_come_from_all_over_the_list():
    objects = twenty_questions.some_objects(20)
    assert len({thing.name for thing in objects}) == 20
    assert len({thing.category for thing in objects}) >= 12


class Exact:
    """A network whose next move has just the probabilities that it is given."""

    def __init__(self, probabilities):
        self.probabilities = probabilities  # (V,)

    def parameters(self):
        return iter([self.probabilities])

    def __call__(self, input_ids, logits_to_keep):
        assert input_ids.shape == (1, 4)  # start, white king, queen, black king
        return SimpleNamespace(logits=self.probabilities.log()[None, None])


def test_an_exact_network_measures_as_exact():
    """pi_beta counted by play, and p = pi_beta Q: no divergence, no error, perfect order."""
    settings = {**endgames.PROFILES["smoke"], "games": 20}
    task = endgames.EndgameTask(settings, seed=0)
    board = chess.Board("8/8/8/2k5/8/8/1Q6/4K3 w - - 0 1")
    material, squares = read_board(board)
    many = np.tile(squares, (40_000, 1))
    moves = white_moves(material, many)
    slots = MixturePlayer(0).choose(material, many, moves)
    pi = torch.zeros(len(task.tokenizer), dtype=torch.float64)
    value = torch.zeros(len(task.tokenizer), dtype=torch.float64)
    q = exact_q(board, behavior=endgames.BEHAVIOR, gamma=0.9)
    for slot, count in enumerate(np.bincount(slots)):
        if count:
            start, end = squares[0, moves[0][slot]], moves[1][0, slot]
            move = chess.Move(int(start), int(end))
            token = task.tokenizer.convert_tokens_to_ids(task.env.action_text(board, move))
            pi[token] += count / len(slots)
            value[token] = q[move]
    p = pi * value
    p[2] = 1 - p.sum()  # the dummy
    exact = TrainedMethod("mc_returns", {}, Exact(pi), Exact(p), task.tokenizer, "", [])
    found = task._measure_one(exact, board.fen())
    assert found["KL(pi_beta || pi_phi)"] == pytest.approx(0, abs=0.003)
    assert found["pi of illegal moves"] == pytest.approx(0, abs=1e-6)
    assert found["error to Q of the behavior"] == pytest.approx(0, abs=1e-6)
    assert found["rank correlation with Q of the behavior"] == pytest.approx(1)
    assert found["error to Q*"] > 0.01
    assert found["lost by its best move"] < 0.05


def test_twenty_questions_are_measured_as_turn_by_turn():
    """Against a loop that reads each moment of each game by itself, with random networks."""
    settings = {**twenty_questions.PROFILES["smoke"], "objects": 20, "games": 20}
    task = twenty_questions.TwentyQuestionsTask(settings, seed=0)
    rules, tokenizer, player = task.env.rules, task.tokenizer, task._player(3_000)
    pi, p = (
        small_model(tokenizer, layers=1, width=16, heads=2, context=48, seed=seed)
        for seed in (1, 2)
    )
    for model in (pi, p):  # far from uniform
        model.get_output_embeddings().weight.data.mul_(20)
    prompt = "Yes.\n"
    found = task.measure(TrainedMethod("mc_returns", {}, pi, p, tokenizer, prompt, []))

    ids = [tokenizer.convert_tokens_to_ids(text) for text in rules.question_texts]
    games = play_games(rules, player, np.arange(settings["measured games"]))
    divergences, values, returns, ranks = [], [], [], []
    for game, texts in enumerate(to_episodes(rules, games)["text"]):
        for place in range(1, len(texts), 2):
            text = "".join(texts[:place])
            consistent = rules.consistent(rules.read_history(text))
            behavior = player.probabilities(consistent[None])[0]
            row = [[tokenizer.bos_token_id, *tokenizer(prompt + text)["input_ids"]]]
            log_pi, log_p = (
                study.next_logits(model, row)[0].double().log_softmax(-1)[ids].numpy()
                for model in (pi, p)
            )
            divergences.append((behavior * (np.log(behavior) - log_pi)).sum())
            q = np.minimum(np.exp(log_p - log_pi), 1)
            values.append(q[rules.question_texts.index(texts[place])])
            returns.append(games.returns[game])
            yes = rules.table[: rules.guesses.start, consistent].mean(1)
            if ((yes > 0) & (yes < 1)).any():
                told = stats.entropy([yes, 1 - yes])
                ranks.append(stats.spearmanr(q[: len(yes)], told).statistic)
    assert found == {
        "KL(pi_beta || pi_phi)": pytest.approx(np.mean(divergences), rel=1e-4),
        "rank correlation with the return": pytest.approx(
            stats.spearmanr(values, returns).statistic, abs=1e-3
        ),
        "of questions, with what they tell": pytest.approx(np.mean(ranks), abs=1e-3),
    }
    assert 0.1 < found["KL(pi_beta || pi_phi)"] and ranks[0] != pytest.approx(np.mean(ranks))


@pytest.mark.parametrize("count", [10, 100, 200, 323, 400])
def test_positions_come_evenly_from_all_materials(count):
    task = endgames.EndgameTask({**endgames.PROFILES["smoke"], "games": 20}, seed=0)
    task.materials = ("Q", "R", "QR", "RR")
    kept = task._of_materials(endgames.test_positions(), count)
    counts = [sum(read_board(chess.Board(fen))[0] == m for fen in kept) for m in task.materials]
    assert sum(counts) == count and max(counts) - min(counts) <= 2
    assert len(set(kept)) == count


def test_unseen_starts_are_those_that_no_recorded_game_came_through():
    task = endgames.EndgameTask({**endgames.PROFILES["smoke"], "games": 2_000}, seed=0)
    assert 0 < task.unseen.sum() < len(task.unseen)
    states = "".join(row for texts in recorded(2_000)["text"] for row in texts[::2])
    for fen, unseen in zip(task.starts[True], task.unseen, strict=True):
        assert (task.env.state_text(chess.Board(fen)) in states) != unseen
    returns = np.arange(len(task.unseen), dtype=float)
    found = task.describe(SimpleNamespace(returns=returns))
    assert found["score, unseen starts"] == returns[task.unseen].mean()
    task.unseen = np.zeros_like(task.unseen)
    found = task.describe(SimpleNamespace(returns=returns))
    assert study._mean([found["score, unseen starts"]] * 2) is None


def recorded(games):
    return endgames.generate(
        "endgames", games, 0, max_moves=40, materials=("Q",), format="mirrored"
    )


def test_games_that_were_cut_off_are_draws():
    games = Dataset.from_dict({"done": [True, False], "reward": [[0.0, 1.0], [0.0, 0.0]]})
    assert chess_games.as_draws(games)["done"] == [True, True]


def test_a_row_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(SystemExit, match="no row 'Monte Carlo returns'; there are: .*Monte-Carlo"):
        wordle.main(
            ["--profile", "smoke", "--output", str(tmp_path), "--only", "Monte Carlo returns"]
        )


def test_another_grid_is_another_row(run, tmp_path, monkeypatch):
    first = run(twenty_questions, "--only")
    monkeypatch.setattr(study, "train", None)  # the clone is kept, and read
    monkeypatch.setattr(study, "CLONING_GRID", {"temperature": (0.0, 0.3, 1.0)})
    second = run(twenty_questions, "--only")
    one, other = (result["raw"]["seeds"][0]["Behavior cloning"][""] for result in (first, second))
    assert {"temperature": 0.5, "relative_support": 0.5} in json.loads(one["grid"])
    assert {"greedy": True} in json.loads(other["grid"])
    assert {"temperature": 1.0} in json.loads(other["grid"])
    assert one["seconds"] > other["seconds"] > 0 and len(one["commit"]) >= 7


def test_objects_are_between_one_and_all():
    for count in (0, 159):
        with pytest.raises(ValueError, match="objects must be between 1 and 158"):
            twenty_questions.some_objects(count)
    assert [len(twenty_questions.some_objects(count)) for count in (1, 40, 158)] == [1, 40, 158]


@pytest.mark.skipif(not shutil.which("stockfish", path=ENGINES), reason="apt install stockfish")
def test_half_of_cloning_chess_is_rules_and_pi_then_stays(tmp_path, monkeypatch):
    task = chess_games.ChessTask(chess_games.PROFILES["smoke"], 0, tmp_path)
    seen = []

    def learn(model, loss_of, lessons, **options):
        seen.extend(one for _ in range(3) for one in next(lessons))
        assert loss_of is chess_games.surprise and model is not task.model

    monkeypatch.setattr(chess_games, "learn", learn)
    cloned = task.train("bc", task.model, tmp_path, {}).behavior
    played = {
        (*task._state(task.env.read_state(text)), *task._tokens(action))
        for text, action in task.moves
    }
    single = [drawn for drawn in seen if sum(map(len, drawn.goals.values())) == 1]
    known = [(*s, *goals, *next(iter(goals.values()))) in played for s, goals in single]
    assert 0.4 < len(single) / len(seen) < 0.65
    assert np.mean(known) > 0.85  # few positions have one legal move

    method, options, _ = chess_games.ROWS["Q-SFT (ours), returns first"]
    kept = task.train(method, cloned, tmp_path, options).behavior.state_dict()
    assert all(torch.equal(kept[name], weight) for name, weight in cloned.state_dict().items())
