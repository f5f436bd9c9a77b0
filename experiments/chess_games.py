"""Whole games of chess against Stockfish at its least strength: a first table, at a small size.

    python -m experiments.chess_games --profile record

Needs Stockfish (`apt install stockfish`). A man is a word and so is a move (format "pieces"), and
each turn is seen alone. See `experiments.study` for what is fixed before anything is seen. The last
of the recorded games are not trained on: what the networks say of them is measured.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import chess
import numpy as np
import torch
from scipy import stats

from experiments.study import METHOD_ROWS, Task, next_logits, parser, run_study, start
from qsft_lite.baselines import METHODS, TrainedMethod
from qsft_lite.data import RewardScale, cut_turns, data_hash, encode, start_id
from qsft_lite.envs import generate, make
from qsft_lite.envs.chess import unspaced
from qsft_lite.envs.chess_data import as_pieces
from qsft_lite.evaluate import Evaluation
from qsft_lite.models import share_embeddings, small_model, word_tokenizer
from qsft_lite.policy import LastLine

LOWEST = -400  # every move illegal

RECORD = {
    "games": 6_500,
    "measured games": 20,  # the last of them
    "nodes": 10_000,  # of every search; the protocol's 100 ms a move cannot be repeated exactly
    "layers": 3,
    "width": 128,
    "batch rows": 8,
    "row length": 492,
    "behavior epochs": 1.0,
    "value epochs": 0.15,
    "learning rate": 1.5e-3,
    "value learning rate": 5e-4,
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

    # As of endgames; outcomes hang on a single move less, so the values weigh more.
    by_value = [
        {"beta": weight / temperature, "support": 0.05, "temperature": temperature}
        for weight in (2.0, 4.0, 8.0, 16.0)
        for temperature in (0.4, 0.125)
    ]

    def __init__(self, settings: dict[str, Any], seed: int, folder: Path):
        super().__init__(settings, seed)
        self.acts = {"max_new_tokens": 1}
        self.env = make(
            "chess",
            format="pieces",
            nodes=settings["nodes"],
            max_moves=settings["longest test game"],
        )
        words = self.env.texts
        self.tokenizer = word_tokenizer(words)
        self.model = small_model(
            self.tokenizer,
            layers=settings["layers"],
            width=settings["width"],
            heads=4,
            context=48,
            seed=seed,
        )
        share_embeddings(self.model, self.tokenizer, {w: _parts(w) for w in words}, seed=seed)
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
        encoded = encode(
            as_pieces(recorded.select(range(kept))),
            self.tokenizer,
            scale=RewardScale(-1, 1),
            discount="turn",
            memory="turn",
        )
        self.episodes = cut_turns(encoded, settings["row length"])

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

        -log pi of the move played (nats); what pi gives to illegal moves, and how often its
        likeliest move is one; of values, the squared error of that of the move played to the
        game's outcome on the scale of 0 to 1 (of the outcomes' mean it is their variance), and
        their rank correlation.
        """
        found, learned, outcomes = [], [], []
        for game in self.measured:
            texts, outcome = game["text"], (sum(game["reward"]) + 1) / 2
            for i in range(0, len(texts) - 1, 2):
                board = chess.Board(unspaced(texts[i]))
                move = self.env.read_action(board, texts[i + 1])
                played = self._id(board, move)
                legal = [self._id(board, other) for other in board.legal_moves]
                line = trained.prompt + self.env.state_text(board)
                ids = [start_id(self.tokenizer), *trained.tokenizer(line)["input_ids"]]
                log_pi = next_logits(trained.behavior, ids).log_softmax(-1)
                found.append(
                    {
                        "cross-entropy": -float(log_pi[played]),
                        "pi of illegal moves": 1 - float(log_pi[legal].exp().sum()),
                        "likeliest move is illegal": float(int(log_pi.argmax()) not in legal),
                    }
                )
                if trained.values is not None:
                    learned.append(_value(trained, ids, played, log_pi))
                    outcomes.append(outcome)
        means = {name: float(np.mean([one[name] for one in found])) for name in found[0]}
        if trained.values is None:
            return means
        errors = np.array(learned) - np.array(outcomes)
        means["squared error to the outcome"] = float(np.mean(errors**2))
        means["variance of outcomes"] = float(np.var(outcomes))
        if np.ptp(learned) and np.ptp(outcomes):
            means["rank correlation with it"] = float(stats.spearmanr(learned, outcomes).statistic)
        return means

    def _id(self, board: chess.Board, move: chess.Move) -> int:
        return self.tokenizer.convert_tokens_to_ids(self.env.action_text(board, move))


def _value(trained: TrainedMethod, ids: list[int], played: int, log_pi: torch.Tensor) -> float:
    """The learned value of a move, on the scale of 0 to 1."""
    logits = next_logits(trained.values, ids)
    if METHODS[trained.method].family == "heads":
        return float(logits[played])
    return float((logits.log_softmax(-1) - log_pi)[played].exp().clamp(max=1))


def _parts(word: str) -> list[tuple[str, str, int]]:
    """What a word has in common with others: a man, a square, its file and rank.

    A move and the man that makes it have the man's place in common.
    """
    text = word[:-1]
    squares = [text[i : i + 2] for i in range(len(text) - 1) if text[i : i + 2] in _SQUARES]
    if not squares or text in _SQUARES:  # castling and capturing en passant
        return [("word", word, 0)]
    name = text[0] if text[0].isalpha() and text[1].isalpha() else "P"
    if len(squares) == 1:
        return [("man", text[0], 0), ("at", text, 0), *_lines("on", squares[0])]
    promoted = text[-1] if text[-1] in "QRBN" else ""
    start, target = squares
    return [("moves", name + promoted, 0), ("at", name + start, 0), *_lines("to", target)]


_SQUARES = frozenset(chess.SQUARE_NAMES)


def _lines(kind: str, square: str) -> list[tuple[str, str, int]]:
    file, rank = ord(square[0]) - ord("a"), int(square[1]) - 1
    named = {"square": 8 * rank + file, "file": file, "rank": rank}
    return [(kind, name, number) for name, number in named.items()]


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    command_line = parser("chess_games", RECORD, "chess_games")
    options = vars(command_line.parse_args(arguments))
    run_study(
        start("chess_games", options, PROFILES),
        options,
        METHOD_ROWS,
        lambda settings, seed: ChessTask(settings, seed, options["output"] / "chess_data"),
        lowest=LOWEST,
        best="Every game won",
        raw=lambda task: {"engine": task.env.opponent.name},
    )


if __name__ == "__main__":
    main()
