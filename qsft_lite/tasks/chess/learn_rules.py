"""The rules of chess, learned before any game is: what a pretrained network would bring along.

6,500 games are too few to learn from them which moves there are: each position shows one of some
thirty. So a network is first fitted to the uniform distribution over all legal moves, on positions
of the same games and on others some random moves away, many of them lost or in check. This is ours;
the paper starts from a language model. Nothing of who wins, or of which move is good, is in it.

A network that then sees nothing but recorded moves forgets the rules again (docs/log.md). So
cloning goes on with them: on half of its positions, the probability of all legal moves together
has to grow. That leaves open which of them, and so does not blur what recorded moves say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import chess
import numpy as np
import torch
from transformers import PreTrainedModel, get_cosine_schedule_with_warmup

from qsft_lite.models import attention_mask
from qsft_lite.trainer.optimizer import MuonAdamW

POOL = 2_048  # positions that are sorted by length before they are batched
WANDERING = 4  # at most so many random moves of each side away from a recorded position


class Position(NamedTuple):
    """A state's tokens, and moves there: of every man, by its token, the tokens of its goals."""

    state: list[int]
    goals: dict[int, list[int]]


def position(state: list[int], moves: Iterable[tuple[int, int]]) -> Position:
    """Of a state's tokens and moves (man, goal)."""
    goals: dict[int, list[int]] = {}
    for man, goal in moves:
        goals.setdefault(man, []).append(goal)
    return Position(state, goals)


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


def log_probabilities(model: PreTrainedModel, positions: Sequence[Position]) -> torch.Tensor:
    """log pi(man) pi(goal | man) of the moves (B, M) of each position; -inf beyond its last one.

    A state is read once: its men follow it side by side, and none of them sees another.
    """
    sizes = [len(one.state) + len(one.goals) for one in positions]
    counts = [sum(map(len, one.goals.values())) for one in positions]
    longest, device = max(sizes), model.device
    ids = torch.zeros(len(positions), longest, dtype=torch.long)
    places = torch.zeros_like(ids)
    own = torch.arange(longest)
    seen = (own <= own[:, None]).repeat(len(positions), 1, 1)
    moves = []  # where its man is chosen, its man, where its goal is chosen, its goal
    for row, (state, goals) in enumerate(positions):
        begun = len(state)
        ids[row, : sizes[row]] = torch.tensor([*state, *goals])
        places[row, :begun] = own[:begun]
        places[row, begun:] = begun
        seen[row, begun:, begun:] = torch.eye(longest - begun, dtype=torch.bool)
        for number, (man, its_goals) in enumerate(goals.items(), row * longest + begun):
            moves += [(row * longest + begun - 1, man, number, goal) for goal in its_goals]
    places = places.to(device)
    hidden = model.base_model(
        input_ids=ids.to(device),
        attention_mask=attention_mask(model, seen[:, None].to(device), places, places),
        position_ids=places,
    )[0]
    man_at, man, goal_at, goal = torch.tensor(moves).T
    used, index = torch.unique(torch.stack([man_at, goal_at]), return_inverse=True)
    logits = model.get_output_embeddings()(hidden.flatten(0, 1)[used.to(device)]).float()
    log_pi = logits.log_softmax(-1)
    index, man, goal = index.to(device), man.to(device), goal.to(device)
    found = torch.full((len(positions), max(counts)), -torch.inf, device=device)
    listed = torch.arange(max(counts)) < torch.tensor(counts)[:, None]
    return found.masked_scatter(listed.to(device), log_pi[index[0], man] + log_pi[index[1], goal])


def divergence(model: PreTrainedModel, positions: Sequence[Position]) -> torch.Tensor:
    """KL(uniform over a position's moves || pi), nats, mean over positions."""
    log_pi = log_probabilities(model, positions)
    counts = log_pi.isfinite().sum(1)
    cross_entropy = -log_pi.masked_fill(log_pi.isinf(), 0).sum(1) / counts
    return (cross_entropy - counts.log()).mean()


def surprise(model: PreTrainedModel, positions: Sequence[Position]) -> torch.Tensor:
    """-log of what pi gives to a position's moves together, nats, mean over positions.

    Of a single move it is that move's cross-entropy.
    """
    return -log_probabilities(model, positions).logsumexp(1).mean()


def batches(
    draw: Callable[[np.random.Generator], Position], size: int, rng: np.random.Generator
) -> Iterator[list[Position]]:
    """Batches of positions without end, each of about one length."""
    while True:
        pool = sorted((draw(rng) for _ in range(POOL)), key=lambda drawn: len(drawn.state))
        parts = [pool[i : i + size] for i in range(0, POOL, size)]
        yield from (parts[i] for i in rng.permutation(len(parts)))


def learn(
    model: PreTrainedModel,
    loss_of: Callable[[PreTrainedModel, Sequence[Position]], torch.Tensor],
    lessons: Iterator[list[Position]],
    *,
    steps: int,
    rate: float,
) -> None:
    """Fit the model, in place and on a GPU if there is one, to so many batches."""
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    optimizer = MuonAdamW(model, rate, 0.1, (0.9, 0.98))
    schedule = get_cosine_schedule_with_warmup(optimizer, 50, steps)
    losses = []
    model.train()
    for step in range(steps):
        loss = loss_of(model, next(lessons))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        if step % 100 == 99:
            mean = np.mean(losses[-100:])
            print(f"{loss_of.__name__}: step {step + 1}, {mean:.3f} nats", flush=True)
    model.eval()
