"""Whole games as a study: how games are described, and that cloning keeps the rules."""

from types import SimpleNamespace

import chess
import numpy as np
import pytest
import torch
from datasets import Dataset
from small_studies import needs_stockfish

from qsft_lite.baselines import METHODS, TrainedMethod
from qsft_lite.tasks.chess import study
from qsft_lite.tasks.chess.study import PROFILES, ROWS, ChessTask, all_over


def test_games_are_described_by_their_endings():
    games = [  # lost at the second move; an illegal move at the end, cut off; won after one
        {"reward": [0, 0, 0, -1, 0], "done": True},
        {"reward": [0, 0, 0, -1, 0], "done": False},
        {"reward": [0, -1, 0, 1, 0], "done": True},
    ]
    result = SimpleNamespace(transcripts=games, lengths=np.array([2, 2, 2]))
    found = ChessTask.describe(SimpleNamespace(), result)
    assert found == {"losses": 1 / 3, "illegal moves": 2 / 6, "moves a game": 2.0}


def test_games_that_were_cut_off_are_draws():
    games = Dataset.from_dict({"done": [True, False], "reward": [[0.0, 1.0], [0.0, 0.0]]})
    assert all_over(games)["done"] == [True, True]


def test_no_row_clones_again_or_trains_pi_on():
    assert "filtered_bc" not in ROWS and "return_conditioned" not in ROWS and "ilql" in ROWS
    options = {key: {**METHODS[row.method].options, **row.options} for key, row in ROWS.items()}
    assert METHODS["q_sft_dummy"].options["train_behavior"]  # where the rules are not at stake
    assert not any(own.get("train_behavior") for own in options.values())


@pytest.fixture
def task(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "project_root", lambda: tmp_path)
    return ChessTask(PROFILES["smoke"], 0)


@needs_stockfish
def test_half_of_cloning_is_rules_and_pi_then_stays(task, monkeypatch):
    seen = []

    def learn(model, loss_of, lessons, **options):
        seen.extend(one for _ in range(3) for one in next(lessons))
        assert loss_of is study.surprise and model is not task.model

    untrained = task.model  # learned the rules, before learning is watched
    monkeypatch.setattr(study, "learn", learn)
    cloned = task.clone().behavior
    assert all(
        torch.equal(weight, cloned.state_dict()[name])
        for name, weight in untrained.state_dict().items()
    )
    played = {
        (*task._state(task.env.read_state(text)), *task._tokens(action))
        for text, action in task.moves
    }
    single = [drawn for drawn in seen if sum(map(len, drawn.goals.values())) == 1]
    known = [(*s, *goals, *next(iter(goals.values()))) in played for s, goals in single]
    assert 0.4 < len(single) / len(seen) < 0.65
    assert np.mean(known) > 0.85  # few positions have one legal move

    row = ROWS["q_sft_dummy"]
    kept = task.train(row.method, cloned, **row.options).behavior.state_dict()
    assert all(torch.equal(kept[name], weight) for name, weight in cloned.state_dict().items())


@needs_stockfish
def test_the_last_games_are_measured_on_and_not_trained_on(task, monkeypatch):
    kept, held_out = task.games, task.recorded(0, "held out")
    assert (len(kept), len(held_out)) == (10, 2) and all(kept["done"])
    everything = task.all_games["text"]
    assert held_out["text"] == everything[10:]
    few = [{name: game[name][:9] for name in ("text", "reward")} for game in held_out]  # moves
    monkeypatch.setattr(task, "recorded", lambda *_: few)
    model, tokenizer = task.new_model(), task.tokenizer
    own = {"leftover": "paired"}
    trained = TrainedMethod("mc_returns", own, model, task.new_model(), tokenizer, "", [])
    found = task.measure(trained)

    surprises, illegal, errors = [], [], []
    for game in few:
        outcome = (sum(game["reward"]) + 1) / 2
        for i in range(0, len(game["text"]) - 1, 2):
            board = chess.Board(study.unspaced(game["text"][i]))
            played = task.env.read_action(board, game["text"][i + 1])
            log_pi = {move: naive(task, model, board, move) for move in board.legal_moves}
            surprises.append(-log_pi[played])
            illegal.append(1 - sum(np.exp(list(log_pi.values()))))
            errors.append((0.5 - outcome) ** 2)  # nothing was learned: all values are the prior
    assert found["cross-entropy"] == pytest.approx(np.mean(surprises), rel=1e-4)
    assert found["pi of illegal moves"] == pytest.approx(np.mean(illegal), abs=1e-4)
    assert found["squared error to the outcome"] == pytest.approx(np.mean(errors), abs=1e-4)


@torch.no_grad()
def naive(task, model, board, move):
    """log pi of a move's two words, one after the other."""
    row, total = task._state(board), 0.0
    for word in task._words(board, move):
        logits = model(input_ids=torch.tensor([row])).logits[0, -1].double()
        total += float(logits.log_softmax(-1)[word])
        row = [*row, word]
    return total
