"""The rules of chess, learned before any game is: what a pretrained network would bring along.

6,500 games are too few to learn from them which moves there are: each position shows one of some
thirty. So a network is first fitted to the uniform distribution over all legal moves, on positions
of the same games and on others some random moves away, many of them lost or in check. This is ours;
the paper starts from a language model. Nothing of who wins, or of which move is good, is in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import chess
import numpy as np
import torch
from transformers import PreTrainedModel, get_cosine_schedule_with_warmup

from qsft_lite.models import attention_mask
from qsft_lite.optimizer import MuonAdamW

BATCH = 64  # positions
POOL = 2_048  # positions that are sorted by length before they are batched
WANDERING = 4  # at most so many random moves of each side away from a recorded position


class Position(NamedTuple):
    """A state's tokens, and of every man that can move: its token and the tokens of its goals."""

    state: list[int]
    goals: dict[int, list[int]]


def wander(board: chess.Board, rng: np.random.Generator) -> chess.Board:
    """The board, or in six cases of ten one some random moves on, White to move again.

    Half of those begin on Black's side: a random move of White, then the board is turned round, as
    White wins most recorded games and a policy at play may lose. Half end in a check where Black
    has one: the few moves that are left then are the hardest to learn, and seldom recorded.
    """
    if rng.random() < 0.4:
        return board
    turned, checked = rng.random(2) < 0.5
    after = board.copy(stack=False)
    if turned:
        after.push(_one_of(list(after.legal_moves), rng))
        after = after.mirror()
    for left in reversed(range(2 * int(rng.integers(1, WANDERING + 1)))):
        moves = list(after.legal_moves)
        if checked and not left:
            moves = [move for move in moves if after.gives_check(move)] or moves
        if not moves:
            return board
        after.push(_one_of(moves, rng))
    return board if after.is_game_over() else after


def _one_of(moves: list[chess.Move], rng: np.random.Generator) -> chess.Move:
    return moves[rng.integers(len(moves))]


def rules_loss(model: PreTrainedModel, positions: Sequence[Position]) -> torch.Tensor:
    """KL of pi(man) pi(goal | man) from the uniform distribution over legal moves, nats a position.

    A state is read once: its men follow it side by side, and none of them sees another.
    """
    sizes = [len(position.state) + len(position.goals) for position in positions]
    longest = max(sizes)
    ids = torch.zeros(len(positions), longest, dtype=torch.long)
    places = torch.zeros_like(ids)
    own = torch.arange(longest)
    seen = (own <= own[:, None]).repeat(len(positions), 1, 1)
    rows, columns, tokens, shares = [], [], [], []
    for row, (state, goals) in enumerate(positions):
        begun, count = len(state), sum(map(len, goals.values()))
        ids[row, : sizes[row]] = torch.tensor([*state, *goals])
        places[row, :begun] = own[:begun]
        places[row, begun:] = begun
        seen[row, begun:, begun:] = torch.eye(longest - begun, dtype=torch.bool)
        for number, (man, its_goals) in enumerate(goals.items()):
            # A move is the choice of its man and that of its goal.
            rows += [row] * (1 + len(its_goals))
            columns += [begun - 1] + [begun + number] * len(its_goals)
            tokens += [man, *its_goals]
            shares += [len(its_goals) / count] + [1 / count] * len(its_goals)
    mask = attention_mask(model, seen[:, None])
    hidden = model.base_model(input_ids=ids, attention_mask=mask, position_ids=places)[0]
    where, inverse = torch.unique(
        torch.tensor(rows) * longest + torch.tensor(columns), return_inverse=True
    )
    logits = model.get_output_embeddings()(hidden.flatten(0, 1)[where]).float()
    log_pi = logits.log_softmax(-1)[inverse, torch.tensor(tokens)]
    entropy = np.mean([np.log(sum(map(len, goals.values()))) for _, goals in positions])
    return -(log_pi * torch.tensor(shares)).sum() / len(positions) - float(entropy)


def batches(
    boards: Sequence[chess.Board],
    read: Callable[[chess.Board], Position],
    rng: np.random.Generator,
) -> Iterator[list[Position]]:
    """Batches of positions without end, each of about one length."""
    while True:
        drawn = rng.integers(len(boards), size=POOL)
        pool = sorted((read(wander(boards[i], rng)) for i in drawn), key=lambda p: len(p.state))
        parts = [pool[i : i + BATCH] for i in range(0, POOL, BATCH)]
        yield from (parts[i] for i in rng.permutation(len(parts)))


def learn_rules(
    model: PreTrainedModel,
    boards: Sequence[chess.Board],
    read: Callable[[chess.Board], Position],
    *,
    steps: int,
    rate: float,
    seed: int,
) -> None:
    """Fit the model, in place, to the uniform distribution over legal moves."""
    optimizer = MuonAdamW(model, rate, 0.1, (0.9, 0.98))
    schedule = get_cosine_schedule_with_warmup(optimizer, 50, steps)
    drawn = batches(boards, read, np.random.default_rng(seed))
    losses = []
    model.train()
    for step in range(steps):
        loss = rules_loss(model, next(drawn))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if step % 100 == 99:
            print(f"rules: step {step + 1}, {np.mean(losses[-100:]):.3f} nats", flush=True)
    model.eval()
