"""The rules of chess, learned before any game is: what a pretrained network would bring along.

6,500 games are too few to learn from them which moves there are: each position shows one of some
thirty. So a network is first fitted to the uniform distribution over all legal moves, on positions
of the same games and on others some random moves away, many of them lost or in check. This is ours;
the paper starts from a language model. Nothing of who wins, or of which move is good, is in it.

A network that then sees nothing but recorded moves forgets the rules again (LOG.md). So cloning
goes on with them: half of its positions are such lessons, half are recorded ones and their moves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import chess
import numpy as np
import torch
from scipy.special import entr
from transformers import PreTrainedModel, get_cosine_schedule_with_warmup

from qsft_lite.models import attention_mask
from qsft_lite.optimizer import MuonAdamW

POOL = 2_048  # positions that are sorted by length before they are batched
WANDERING = 4  # at most so many random moves of each side away from a recorded position


class Position(NamedTuple):
    """A state's tokens, and a distribution over moves to fit there.

    moves: of each man, by its token, the probability of each of its goals, by their tokens.
    """

    state: list[int]
    moves: dict[int, dict[int, float]]


def uniform(state: list[int], moves: Iterable[tuple[int, int]]) -> Position:
    """All of these moves (man, goal) alike: the rules, and nothing else."""
    legal = list(moves)
    shares: dict[int, dict[int, float]] = {}
    for man, goal in legal:
        shares.setdefault(man, {})[goal] = 1 / len(legal)
    return Position(state, shares)


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


def divergence(model: PreTrainedModel, positions: Sequence[Position]) -> torch.Tensor:
    """KL(a position's distribution || pi(man) pi(goal | man)), nats, mean over positions.

    Of a single move it is that move's cross-entropy. A state is read once: its men follow it side
    by side, and none of them sees another.
    """
    sizes = [len(position.state) + len(position.moves) for position in positions]
    longest = max(sizes)
    ids = torch.zeros(len(positions), longest, dtype=torch.long)
    places, device = torch.zeros_like(ids), model.device
    own = torch.arange(longest)
    seen = (own <= own[:, None]).repeat(len(positions), 1, 1)
    rows, columns, tokens, shares = [], [], [], []
    for row, (state, moves) in enumerate(positions):
        begun = len(state)
        ids[row, : sizes[row]] = torch.tensor([*state, *moves])
        places[row, :begun] = own[:begun]
        places[row, begun:] = begun
        seen[row, begun:, begun:] = torch.eye(longest - begun, dtype=torch.bool)
        for number, (man, goals) in enumerate(moves.items()):
            # A move is the choice of its man and that of its goal.
            rows += [row] * (1 + len(goals))
            columns += [begun - 1] + [begun + number] * len(goals)
            tokens += [man, *goals]
            shares += [sum(goals.values()), *goals.values()]
    hidden = model.base_model(
        input_ids=ids.to(device),
        attention_mask=attention_mask(model, seen[:, None].to(device)),
        position_ids=places.to(device),
    )[0]
    where, inverse = torch.unique(
        torch.tensor(rows) * longest + torch.tensor(columns), return_inverse=True
    )
    logits = model.get_output_embeddings()(hidden.flatten(0, 1)[where.to(device)]).float()
    log_pi = logits.log_softmax(-1)[inverse.to(device), torch.tensor(tokens, device=device)]
    cross_entropy = -(log_pi * torch.tensor(shares, device=device)).sum()
    entropy = sum(entr(list(goals.values())).sum() for _, m in positions for goals in m.values())
    return (cross_entropy - float(entropy)) / len(positions)


def batches(
    draw: Callable[[np.random.Generator], Position], size: int, rng: np.random.Generator
) -> Iterator[list[Position]]:
    """Batches of positions without end, each of about one length."""
    while True:
        pool = sorted((draw(rng) for _ in range(POOL)), key=lambda position: len(position.state))
        parts = [pool[i : i + size] for i in range(0, POOL, size)]
        yield from (parts[i] for i in rng.permutation(len(parts)))


def learn(
    model: PreTrainedModel, lessons: Iterator[list[Position]], *, steps: int, rate: float
) -> None:
    """Fit the model, in place and on a GPU if there is one, to so many batches."""
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    optimizer = MuonAdamW(model, rate, 0.1, (0.9, 0.98))
    schedule = get_cosine_schedule_with_warmup(optimizer, 50, steps)
    losses = []
    model.train()
    for step in range(steps):
        loss = divergence(model, next(lessons))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if step % 100 == 99:
            print(f"step {step + 1}, {np.mean(losses[-100:]):.3f} nats", flush=True)
    model.eval()
