"""Recorded games of chess by an engine of mixed strengths."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import chess
import numpy as np
from datasets import Dataset

from qsft_lite.data.recording import Episodes, record
from qsft_lite.tasks.checks import check_weights
from qsft_lite.tasks.chess.engine import Elo, Engine
from qsft_lite.tasks.chess.env import MAX_MOVES, ChessGame
from qsft_lite.tasks.chess.players import STRENGTHS, MixedPlayer
from qsft_lite.tasks.chess.text import game_move, game_text, read_move, unspaced

BLOCK = 50  # games


def generate_chess(
    n: int,
    seed: int,
    *,
    strengths: Mapping[Elo, float] = STRENGTHS,
    random: float = 0.0,
    elo: Elo = "floor",
    nodes: int = 10_000,
    engine: str | Path | None = None,
    max_moves: int = MAX_MOVES,
    processes: int = 1,
    path: str | Path | None = None,
    shard: tuple[int, int] | None = None,
) -> Dataset:
    """Full games, White an engine of mixed strengths, Black one of strength elo.

    strengths: weights of the Elos (or "floor", "full") of which each game draws one for White, and
    random is the share of White's moves that are any legal move; the defaults win about as many
    games as LMRL-Gym's data. nodes limits every search, so the games depend on the seed and the
    engine's version only. engine is that of `Engine`, max_moves that of `ChessGame`, processes,
    path and shard are those of `record`.
    """
    probabilities = check_weights(strengths, "strengths")
    if not 0 <= random <= 1:
        raise ValueError(f"random must be a share in [0, 1], got {random}")
    if max_moves < 1:
        raise ValueError(f"max_moves must be at least 1, got {max_moves}")
    with Engine(engine, elo, nodes=nodes) as checked:  # bad options fail here, not in a worker
        elos = [checked.at(strength).elo for strength in probabilities]
    settings = {
        "task": "chess",
        "strengths": [
            ["full" if elo is None else elo, share]
            for elo, share in zip(elos, probabilities.values(), strict=True)
        ],
        "random": random,
        "elo": checked.elo,
        "nodes": nodes,
        "engine": checked.name,
        "max_moves": max_moves,
    }
    options = {"engine": engine, "nodes": nodes}
    play = partial(_play_block, probabilities, random, elo, options, max_moves)
    how = {"processes": processes, "path": path, "shard": shard, "block_size": BLOCK}
    return record(play, n, seed, settings, **how)


def _play_block(
    strengths: dict[Elo, float],
    random: float,
    elo: Elo,
    options: dict[str, Any],
    max_moves: int,
    n: int,
    seed: np.random.SeedSequence,
) -> Episodes:
    black = Engine(elo=elo, **options)
    env = ChessGame(black, max_moves=max_moves)
    episodes: Episodes = {"text": [], "is_action": [], "reward": [], "done": []}
    with black:  # one process for both sides and all strengths
        white = MixedPlayer(black, strengths, random)
        for game_seed in seed.spawn(n):
            rng = np.random.default_rng(game_seed)
            white.begin(rng)
            text, _ = env.reset(seed=int(rng.integers(2**31)))
            texts, rewards, over, cut = [text], [0.0], False, False
            while not (over or cut):
                action = env.action_text(env.board, white.choose(env.board, rng))
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
        boards = [chess.Board(unspaced(text)) for text in texts[::2]]
        shown = [game_text(board) for board in boards]
        for i, board in enumerate(boards[:-1]):
            move = read_move(board, texts[2 * i + 1])
            if move is None:
                raise ValueError(f"row {index}: {texts[2 * i + 1]!r} is no legal move")
            shown.insert(2 * i + 1, game_move(board, move))
        return {"text": shown}

    return dataset.map(one, with_indices=True, features=dataset.features)
