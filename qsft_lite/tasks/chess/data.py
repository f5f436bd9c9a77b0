"""Recorded games of chess by an engine of mixed strengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import chess
import numpy as np
from datasets import Dataset

from qsft_lite.data.recording import Episodes, record
from qsft_lite.tasks.chess.engine import Elo, Engine
from qsft_lite.tasks.chess.env import MAX_MOVES, ChessGame
from qsft_lite.tasks.chess.text import game_move, game_text, read_move, unspaced

BLOCK = 50  # games
# White of the default data plays each at a third of its games; it wins .63 of them, loses .33 and
# returns .29 (6,500 games; LMRL-Gym's data win .60 and return .21).
STRENGTHS: dict[Elo, float] = {"floor": 1, 1500: 1, 1700: 1}


def generate_chess(
    n: int,
    seed: int,
    *,
    strengths: Mapping[Elo, float] | None = None,
    random: float = 0.0,
    elo: Elo = "floor",
    nodes: int = 10_000,
    engine: str | Path | None = None,
    max_moves: int = MAX_MOVES,
    processes: int = 1,
    path: str | Path | None = None,
) -> Dataset:
    """Full games, White an engine of mixed strengths, Black one of strength elo.

    strengths: weights of the Elos (or "floor", "full") of which each game draws one for White, and
    random is the share of White's moves that are any legal move; the defaults win about as many
    games as LMRL-Gym's data. nodes limits every search, so the games depend on the seed and the
    engine's version only. engine is that of `Engine`, max_moves that of `ChessGame`, processes and
    path are those of `record`.
    """
    strengths = dict(STRENGTHS if strengths is None else strengths)
    weights = np.array(list(strengths.values()), dtype=float)
    if not len(weights) or not (weights >= 0).all() or not 0 < weights.sum() < np.inf:
        raise ValueError(f"strengths needs weights of at least 0, and one above, got {strengths}")
    if not 0 <= random <= 1:
        raise ValueError(f"random must be a share in [0, 1], got {random}")
    if max_moves < 1:
        raise ValueError(f"max_moves must be at least 1, got {max_moves}")
    weights /= weights.sum()
    with Engine(engine, elo, nodes=nodes) as checked:  # bad options fail here, not in a worker
        elos = [checked.at(strength).elo for strength in strengths]
    settings = {
        "task": "chess",
        "strengths": [["full" if e is None else e, w] for e, w in zip(elos, weights, strict=True)],
        "random": random,
        "elo": checked.elo,
        "nodes": nodes,
        "engine": checked.name,
        "max_moves": max_moves,
    }
    options = {"engine": engine, "nodes": nodes}
    white = (list(strengths), weights.tolist())
    play = partial(_play_block, white, random, elo, options, max_moves)
    return record(play, n, seed, settings, processes=processes, path=path, block_size=BLOCK)


def _play_block(
    white: tuple[list[Elo], list[float]],
    random: float,
    elo: Elo,
    options: dict[str, Any],
    max_moves: int,
    n: int,
    seed: np.random.SeedSequence,
) -> Episodes:
    black = Engine(elo=elo, **options)
    env = ChessGame(black, max_moves=max_moves)
    strengths, weights = white
    episodes: Episodes = {"text": [], "is_action": [], "reward": [], "done": []}
    with black:  # one process for both sides and all strengths
        engines = [black.at(strength) for strength in strengths]
        for game_seed in seed.spawn(n):
            rng = np.random.default_rng(game_seed)
            engine = engines[rng.choice(len(engines), p=weights)]
            text, _ = env.reset(seed=int(rng.integers(2**31)))
            texts, rewards, over, cut = [text], [0.0], False, False
            while not (over or cut):
                moves = list(env.board.legal_moves)
                if rng.random() < random:
                    move = moves[rng.integers(len(moves))]
                else:
                    move = engine.choose(env.board, rng)
                action = env.action_text(env.board, move)
                text, reward, over, cut, _ = env.step(action)
                texts += (action, text)
                rewards += (reward, 0.0)
            episodes["text"].append(texts)
            episodes["is_action"].append([i % 2 == 1 for i in range(len(texts))])
            episodes["reward"].append(rewards)
            episodes["done"].append(over)
    return episodes


def as_pieces(dataset: Dataset) -> Dataset:
    """Recorded whole games, FEN and SAN, in the format "pieces" of `ChessGame`.

    Raises ValueError, naming the row, for a game with an illegal move, which has no word.
    """

    def one(row: dict[str, Any], index: int) -> dict[str, list[str]]:
        texts = row["text"]
        boards = [_read_fen(texts, i) for i in range(0, len(texts), 2)]
        shown = [game_text(board) for board in boards]
        for i, board in enumerate(boards[:-1]):
            move = read_move(board, texts[2 * i + 1])
            if move is None:
                raise ValueError(f"row {index}: {texts[2 * i + 1]!r} is no legal move")
            shown.insert(2 * i + 1, game_move(board, move))
        return {"text": shown}

    return dataset.map(one, with_indices=True, features=dataset.features)


def _read_fen(texts: Sequence[str], i: int) -> chess.Board:
    try:
        return chess.Board(unspaced(texts[i]))
    except ValueError as error:
        raise ValueError(f"segment {i}, {texts[i]!r}, is no position: {error}") from error
