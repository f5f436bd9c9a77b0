"""Whole games of chess against Stockfish at its least strength: a first table, at a small size.

    python -m experiments.chess_games --profile record

Needs Stockfish (`apt install stockfish`). A man is a word, and a move is two (format "pieces");
each turn is seen alone. Before all else the network learns the rules, and cloning goes on with
them, see `chess_rules`; all methods begin with that clone. See `experiments.study` for what is
fixed before anything is seen. The last of the recorded games are not trained on: what the networks
say of them is measured.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
import os
from pathlib import Path
from typing import Any

import chess
import numpy as np
import torch
from datasets import Dataset
from scipy import stats
from transformers import AutoModelForCausalLM, PreTrainedModel

from experiments import chess_rules
from experiments.chess_rules import Position, batches, divergence, learn, position, surprise, wander
from experiments.study import METHOD_ROWS, Task, next_logits, parser, run_study, start
from qsft_lite.baselines import METHODS, TrainedMethod
from qsft_lite.data import RewardScale, cut_turns, data_hash, encode, start_id
from qsft_lite.envs import generate, make
from qsft_lite.evaluate import Evaluation
from qsft_lite.models import share_embeddings, small_model, word_tokenizer
from qsft_lite.policy import LastLine
from qsft_lite.tasks.chess.data import as_pieces
from qsft_lite.tasks.chess.text import unspaced

# pi stays as it is: on recorded moves alone it would forget the rules. So would the two methods
# that clone them again, filtered and return-conditioned cloning, which are left out.
ROWS = {
    title: (
        method,
        {**options, "train_behavior": False} if "train_behavior" in options else options,
        scores,
    )
    for title, (method, options, scores) in METHOD_ROWS.items()
    if METHODS[method].family != "cloning"
}
LOWEST = -400  # every move illegal
BATCH = 64  # lessons; in cloning there are about as many recorded moves beside them

RECORD = {
    "games": 6_500,
    "measured games": 20,  # the last of them
    "nodes": 10_000,  # of every search; the protocol's 100 ms a move cannot be repeated exactly
    "layers": 3,
    "width": 128,
    "rules steps": 12_000,  # see chess_rules
    "rules learning rate": 1.5e-3,
    "behavior epochs": 0.3,
    "learning rate": 3e-4,
    "batch rows": 16,
    "row length": 246,
    "value epochs": 0.2,
    "value learning rate": 1e-4,
    "muon": 1,
    "target rate": 0.02,
    "seeds": 1,
    "validation games": 100,
    "test games": 1_000,
    "longest test game": 400,
}
PROFILES = {
    "smoke": {
        **RECORD,
        "games": 12,
        "measured games": 2,
        "nodes": 50,
        "rules steps": 3,
        "layers": 1,
        "width": 16,
        "validation games": 2,
        "test games": 3,
        "longest test game": 4,
    },
    "laptop": {**RECORD, "games": 1_000, "test games": 200},
    "record": RECORD,
    "gpu": {**RECORD, "games": 625_000, "layers": 8, "width": 512, "batch rows": 64, "seeds": 3},
}


class ChessTask(Task):
    """One seed of whole games."""

    def __init__(self, settings: dict[str, Any], seed: int, folder: Path):
        super().__init__(settings, seed)
        self.acts = {"max_new_tokens": 2}
        self.env = make(
            "chess",
            format="pieces",
            nodes=settings["nodes"],
            max_moves=settings["longest test game"],
        )
        self.tokenizer = word_tokenizer(self.env.texts)
        recorded = generate(
            "chess",
            settings["games"],
            seed,
            nodes=settings["nodes"],
            processes=os.cpu_count() or 1,
            path=folder / f"{settings['games']}_{settings['nodes']}_{seed}",
        )
        self.data_hash = data_hash(recorded)
        self.data_mean = float(np.mean([sum(reward) for reward in recorded["reward"]]))
        kept = settings["games"] - settings["measured games"]
        self.measured = recorded.select(range(kept, settings["games"]))
        games = as_draws(as_pieces(recorded.select(range(kept))))
        self.moves = [  # a board, as a text, and what was played there
            (row[i], row[i + 1]) for row in games["text"] for i in range(0, len(row) - 1, 2)
        ]
        self.model = self._knowing_the_rules(folder)
        encoded = encode(
            games,
            self.tokenizer,
            scale=RewardScale(-1, 1),
            discount="turn",
            memory="turn",
        )
        self.episodes = cut_turns(encoded, settings["row length"])

    def _knowing_the_rules(self, folder: Path) -> PreTrainedModel:
        """A model fitted to the legal moves of these games' positions; kept in the folder."""
        names = ("games", "nodes", "layers", "width", "rules steps", "rules learning rate")
        # The code is part of the name: a network that other code has taught is not this one.
        taught_by = [chess_rules, ChessTask._lesson, ChessTask._state, ChessTask._words]
        code = "".join(inspect.getsource(part) for part in taught_by)
        code = hashlib.sha256(code.encode()).hexdigest()[:8]
        kept = folder / "rules" / "_".join([*(str(self.settings[name]) for name in names), code])
        kept = kept / f"seed{self.seed}"
        if not kept.exists():
            words = {word: _parts(word) for word in self.env.texts}
            size = {"layers": self.settings["layers"], "width": self.settings["width"]}
            model = small_model(self.tokenizer, **size, heads=4, context=48, seed=self.seed)
            share_embeddings(model, self.tokenizer, words, seed=self.seed)
            lessons = batches(self._lesson, BATCH, np.random.default_rng(self.seed))
            steps, rate = self.settings["rules steps"], self.settings["rules learning rate"]
            learn(model, divergence, lessons, steps=steps, rate=rate)
            aside = kept.with_name(f".{kept.name}.{os.getpid()}")
            model.save_pretrained(aside)
            os.replace(aside, kept)
        return AutoModelForCausalLM.from_pretrained(kept)

    def train(
        self, method: str, model: PreTrainedModel, folder: Path, options: dict[str, Any]
    ) -> TrainedMethod:
        """As of all tasks, but cloning goes on with the rules."""
        if method != "bc":
            return super().train(method, model, folder, options)
        rng = np.random.default_rng([self.seed, 1])
        steps = max(round(self.settings["behavior epochs"] * len(self.moves) / BATCH), 1)
        model, drawn = copy.deepcopy(model), batches(self._lesson_or_move, 2 * BATCH, rng)
        learn(model, surprise, drawn, steps=steps, rate=self.settings["learning rate"])
        return TrainedMethod("bc", {}, model, None, self.tokenizer, "", [])

    def _lesson(self, rng: np.random.Generator) -> Position:
        """A recorded position, or one some random moves away, and all its legal moves."""
        recorded, _ = self.moves[rng.integers(len(self.moves))]
        board = wander(self.env.read_state(recorded), rng)
        return position(self._state(board), (self._words(board, m) for m in board.legal_moves))

    def _lesson_or_move(self, rng: np.random.Generator) -> Position:
        """A lesson, or a recorded position and the move played there."""
        if rng.random() < 0.5:
            return self._lesson(rng)
        recorded, action = self.moves[rng.integers(len(self.moves))]
        return position(self._state(self.env.read_state(recorded)), [self._tokens(action)])

    def _state(self, board: chess.Board) -> list[int]:
        return [start_id(self.tokenizer), *self.tokenizer(self.env.state_text(board))["input_ids"]]

    def policy(self, trained: TrainedMethod, options: dict[str, Any]) -> LastLine:
        """See Task.policy."""
        return LastLine(super().policy(trained, options))

    def describe(self, result: Evaluation) -> dict[str, float]:
        """Losses, illegal moves among all, and moves a game."""
        rewards = [np.array(game["reward"]) for game in result.transcripts]
        # A loss is the one move of reward -1 that ends a game.
        lost = [bool(game["done"]) and game["reward"][-2] < 0 for game in result.transcripts]
        moves = int(result.lengths.sum())
        illegal = int(sum((reward < 0).sum() for reward in rewards)) - sum(lost)
        return {
            "losses": float(np.mean(lost)),
            "illegal moves": illegal / moves,
            "moves a game": moves / len(rewards),
        }

    def levels(self) -> dict[str, float]:
        """The most that a game can return."""
        return {"Every game won": 1.0}

    def measure(self, trained: TrainedMethod) -> dict[str, float]:
        """On games that no network has seen, means over their moves.

        -log pi of the move played (nats); what pi gives to illegal moves, the same in check, and
        how often its likeliest words are one; of values, the squared error of that of the move
        played to the game's outcome on the scale of 0 to 1 (of the outcomes' mean it is their
        variance), and their rank correlation.
        """
        found, learned, outcomes = [], [], []
        for game in self.measured:
            texts, outcome = game["text"], (sum(game["reward"]) + 1) / 2
            for i in range(0, len(texts) - 1, 2):
                board = chess.Board(unspaced(texts[i]))
                man, goal = self._words(board, self.env.read_action(board, texts[i + 1]))
                legal = [self._words(board, move) for move in board.legal_moves]
                line = trained.prompt + self.env.state_text(board)
                ids = [start_id(self.tokenizer), *trained.tokenizer(line)["input_ids"]]
                log_man = next_logits(trained.behavior, [ids])[0].log_softmax(-1)
                men = sorted({first for first, _ in legal} | {int(log_man.argmax())})
                after = next_logits(trained.behavior, [[*ids, first] for first in men])
                log_goal = dict(zip(men, after.log_softmax(-1), strict=True))
                log_pi = {(m, g): float(log_man[m] + log_goal[m][g]) for m, g in legal}
                likeliest = int(log_man.argmax()), int(log_goal[int(log_man.argmax())].argmax())
                illegal = 1 - float(np.exp(list(log_pi.values())).sum())
                found.append(
                    {
                        "cross-entropy": -log_pi[man, goal],
                        "pi of illegal moves": illegal,
                        "the same, in check": illegal if board.is_check() else np.nan,
                        "likeliest move is illegal": float(likeliest not in legal),
                    }
                )
                if trained.values is not None:
                    learned.append(_value(trained, [*ids, man], goal, log_goal[man]))
                    outcomes.append(outcome)
        columns = {name: np.array([one[name] for one in found]) for name in found[0]}
        seen = {name: column[~np.isnan(column)] for name, column in columns.items()}
        means = {name: float(values.mean()) for name, values in seen.items() if len(values)}
        if trained.values is None:
            return means
        errors = np.array(learned) - np.array(outcomes)
        means["squared error to the outcome"] = float(np.mean(errors**2))
        means["variance of outcomes"] = float(np.var(outcomes))
        if np.ptp(learned) and np.ptp(outcomes):
            means["rank correlation with it"] = float(stats.spearmanr(learned, outcomes).statistic)
        return means

    def _words(self, board: chess.Board, move: chess.Move) -> tuple[int, int]:
        """A move's two tokens: the man, and where it goes."""
        return self._tokens(self.env.action_text(board, move))

    def _tokens(self, action: str) -> tuple[int, int]:
        words = action.split(" ")
        man, goal = self.tokenizer.convert_tokens_to_ids([words[0] + " ", words[1]])
        return man, goal


def as_draws(games: Dataset) -> Dataset:
    """The games with those that were cut off at their last move counted as drawn, and over."""
    return games.remove_columns("done").add_column("done", [True] * len(games))


def _value(trained: TrainedMethod, ids: list[int], played: int, log_pi: torch.Tensor) -> float:
    """The learned value of a last word, and so of the whole move, on the scale of 0 to 1."""
    logits = next_logits(trained.values, [ids])[0]
    if METHODS[trained.method].family == "heads":
        return float(logits[played])
    return float((logits.log_softmax(-1) - log_pi)[played].exp().clamp(max=1))


def _parts(word: str) -> list[tuple[str, str, int]]:
    """What a word has in common with others: a man, a square's file and rank, a promotion."""
    text = word[:-1]
    man = text[0] if text[1:] in chess.SQUARE_NAMES else ""
    square = text[len(man) :][:2]
    if square not in chess.SQUARE_NAMES:  # who may castle
        return [("word", word, 0)]
    kind = man + text[len(man) :][2:] + word[-1]
    file, rank = ord(square[0]) - ord("a"), int(square[1]) - 1
    return [("kind", kind, 0), (man, "file", file), (man, "rank", rank), ("square", square, 0)]


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    command_line = parser("chess_games", RECORD, "chess_games")
    options = vars(command_line.parse_args(arguments))
    run_study(
        start("chess_games", options, PROFILES),
        options,
        ROWS,
        lambda settings, seed: ChessTask(settings, seed, options["output"] / "chess_data"),
        lowest=LOWEST,
        best="Every game won",
        raw=lambda task: {"engine": task.env.opponent.name},
    )


if __name__ == "__main__":
    main()
