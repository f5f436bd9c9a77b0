"""What guessing games share: one secret of W, and actions whose answers a table knows.

A player sees a game as the set of secrets that are still consistent and the number of turns left.
It plays arrays of games (`choose`), and, like every policy here, texts (`act`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np

from qsft_lite.data.recording import Episodes
from qsft_lite.tasks.checks import check_action, reset_option

Seed = int | np.random.SeedSequence | np.random.Generator
NO_ACTION = -1  # after the end of a game


class Rules:
    """A game in tables. Each wrong action costs 1; the right one, or the last turn, ends it.

    table: (A, W), the answer to each action for each secret, a small number or a bool.
    action_texts, answer_texts: of each action and of each answer its text. Never changed once made,
    so all games may share one.
    """

    start: str
    turns: int
    table: np.ndarray
    action_texts: Sequence[str]
    answer_texts: Sequence[str]

    def __deepcopy__(self, memo: dict) -> Rules:
        return self

    def secret_index(self, name: str) -> int:
        """The index of the secret of that name; ValueError with the closest names."""

    def answer_text(self, action: int, answer: int) -> str:
        """The text of an answer; where it does not stand alone, an answer to this action."""
        return self.answer_texts[answer]

    def wins(self, actions: np.ndarray, answers: np.ndarray) -> np.ndarray:
        """(N,) bool: the action was the right one."""

    def read_turn(self, action: str, answer: str) -> tuple[int, Any] | None:
        """The action and the answer that two lines mean; None where they are none."""

    def consistent(self, turns: Iterable[tuple[int, Any]]) -> np.ndarray:
        """(W,) bool: the secrets that explain these answers."""

    def read_history(self, history: str) -> list[tuple[int, Any]]:
        """The (action, answer) pairs of a transcript that waits for the next action.

        Raises ValueError, naming the line, for a text that is no such transcript.
        """
        turns = []
        for number, (action, answer) in enumerate(read_turns(history, self.start)):
            turn = self.read_turn(action, answer)
            if turn is None:
                raise ValueError(
                    f"line {2 * number + 3} of the history, {answer!r}, is no answer to {action!r} "
                    "(is it of another word list?)"
                )
            turns.append(turn)
        return turns


class GuessingGame(gymnasium.Env):
    """One game: text in, text out. -1 for each action but the right one, which ends the game.

    A task says what its actions mean (`answer`), names its secrets, and the option of reset that
    fixes one.
    """

    metadata = {"render_modes": []}
    option: str

    def __init__(self, rules: Rules, names: Sequence[str]) -> None:
        self.rules = rules
        self.names = names
        self._secret: int | None = None
        self._turns = 0

    def answer(self, action: str, secret: int) -> tuple[str, bool, bool]:
        """The answer's text, whether the action was the right one, and whether it meant one."""
        raise NotImplementedError

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """Start a game; ValueError for a secret that is none, or an unknown option."""
        name = reset_option(options, self.option)
        secret = None if name is None else self.rules.secret_index(name)
        super().reset(seed=seed)
        if secret is None:
            secret = int(self.np_random.integers(len(self.names)))
        self._secret, self._turns = secret, 0
        return self.rules.start, {self.option: self.names[secret]}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Act; ResetNeeded when no game is under way, TypeError for what is no text."""
        if self._secret is None:
            raise gymnasium.error.ResetNeeded("the game is over or not started: call reset first")
        check_action(action)
        text, success, valid = self.answer(action, self._secret)
        self._turns += 1
        terminated = success or self._turns == self.rules.turns
        if terminated:
            self._secret = None
        info = {"success": success, "valid": valid}
        return text, 0.0 if success else -1.0, terminated, False, info


class Player:
    """What all players share: `choose` plays arrays of games, and `act` texts on top of it."""

    def __init__(self, rules: Rules, seed: Seed = 0) -> None:
        self.rules = rules
        self.rng = np.random.default_rng(seed)

    def choose(self, consistent: np.ndarray, turns_left: int) -> np.ndarray:
        """The next actions: consistent (N, W) bool -> (N,) indices.

        turns_left: number of turns, this one included; the same in all N games.
        """
        raise NotImplementedError

    def act(self, histories: Sequence[str]) -> list[str]:
        """The next action text of each transcript.

        Raises ValueError for a history that no secret explains, and for one with no turn left.
        """
        played = [self.rules.read_history(history) for history in histories]
        consistent = np.array([self.rules.consistent(turns) for turns in played])
        turns_left = np.array([self.rules.turns - len(turns) for turns in played])
        for row, history in enumerate(histories):
            if not consistent[row].any():
                raise ValueError(f"no secret of the list is consistent with {history!r}")
            if turns_left[row] <= 0:
                raise ValueError(
                    f"history {row} has all of its {self.rules.turns} turns: the game is over"
                )
        actions = np.zeros(len(played), dtype=np.int64)
        for left in np.unique(turns_left):
            games = turns_left == left
            actions[games] = self.choose(consistent[games], int(left))
        return [self.rules.action_texts[action] for action in actions]


class RandomPlayer(Player):
    """Any action."""

    def choose(self, consistent: np.ndarray, turns_left: int) -> np.ndarray:
        """See `Player.choose`."""
        return self.rng.integers(len(self.rules.table), size=len(consistent))


class SetPlayer(Player):
    """A player whose action is a function of the consistent set and the turns left.

    It is worked out once for each set: such a player is a decision tree and meets few of them.
    """

    def __init__(self, rules: Rules, seed: Seed = 0) -> None:
        super().__init__(rules, seed)
        self._actions: dict[tuple[bytes, int], int] = {}

    def best_action(self, secrets: np.ndarray, turns_left: int) -> int:
        """The action when `secrets` (indices, ascending) are consistent."""
        raise NotImplementedError

    def choose(self, consistent: np.ndarray, turns_left: int) -> np.ndarray:
        """See `Player.choose`."""
        keys = [(row.tobytes(), turns_left) for row in np.packbits(consistent, axis=1)]
        for row, key in enumerate(keys):
            if key not in self._actions:
                self._actions[key] = self.best_action(np.flatnonzero(consistent[row]), turns_left)
        return np.array([self._actions[key] for key in keys], dtype=np.int64)


class ExactPlayer(SetPlayer):
    """The action of largest expected score, by dynamic programming over sets of secrets."""

    def __init__(self, rules: Rules, seed: Seed = 0) -> None:
        super().__init__(rules, seed)
        self._solved: dict[tuple[bytes, int], tuple[int, int]] = {}

    def solve(self, secrets: np.ndarray, turns_left: int) -> tuple[int, int]:
        """The cost (see `cost`) and the best action, from the costs of smaller sets."""
        raise NotImplementedError

    def cost(self, secrets: np.ndarray, turns_left: int) -> int:
        """Wrong actions to come, summed over `secrets` (indices, ascending)."""
        if turns_left == 0:
            return 0
        key = secrets.tobytes(), turns_left
        if key not in self._solved:
            self._solved[key] = self.solve(secrets, turns_left)
        return self._solved[key][0]

    def best_action(self, secrets: np.ndarray, turns_left: int) -> int:
        """See `SetPlayer.best_action`."""
        self.cost(secrets, turns_left)
        return self._solved[secrets.tobytes(), turns_left][1]

    def expected_score(self) -> float:
        """The mean score of this player over all secrets: the largest there is."""
        everything = np.arange(self.rules.table.shape[1])
        return -self.cost(everything, self.rules.turns) / len(everything)


def read_turns(history: str, start: str) -> list[tuple[str, str]]:
    """The lines of actions and answers, in pairs, of a transcript that waits for the next action.

    Raises ValueError for a text that is no such transcript.
    """
    if not history.startswith(start) or not history.endswith("\n"):
        raise ValueError(f"{history!r} does not start with {start!r} or end with a newline")
    lines = history[len(start) :].split("\n")[:-1]
    if len(lines) % 2:
        raise ValueError(f"the last line of a history is an answer, no action: {history!r}")
    return list(zip(lines[::2], lines[1::2], strict=True))


def random_member(members: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """For each row of members (N, W) bool the column of one of its True entries, drawn evenly."""
    count = members.sum(axis=1)
    wanted = 1 + (rng.random(len(members)) * count).astype(np.int64)  # the first is number 1
    return (members.cumsum(axis=1, dtype=np.int32) >= wanted[:, None]).argmax(axis=1)


@dataclass(frozen=True, eq=False)
class Games:
    """N games as arrays, of at most T turns.

    secrets: (N,) int64 indices. actions: (N, T) int16 indices, NO_ACTION (-1) after the end.
    answers: (N, T), those of the table, without meaning after the end. success: (N,) bool.
    """

    secrets: np.ndarray
    actions: np.ndarray
    answers: np.ndarray
    success: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """(N,) int64 number of actions."""
        return (self.actions != NO_ACTION).sum(axis=1)

    @property
    def returns(self) -> np.ndarray:
        """(N,) float64 scores in [-T, 0]: minus the number of wrong actions."""
        return (self.success - self.lengths).astype(np.float64)


def play_games(rules: Rules, player: Player, secrets: np.ndarray) -> Games:
    """One game for each of secrets (N,), indices, all at once; the table answers.

    The quickest way to many games: a million of Wordle's mixture player take under a minute.
    """
    secrets = np.asarray(secrets, dtype=np.int64)
    actions = np.full((len(secrets), rules.turns), NO_ACTION, dtype=np.int16)
    answers = np.zeros((len(secrets), rules.turns), dtype=rules.table.dtype)
    success = np.zeros(len(secrets), dtype=bool)
    playing = np.arange(len(secrets))
    consistent = np.ones((len(secrets), rules.table.shape[1]), dtype=bool)
    for turn in range(rules.turns):
        action = player.choose(consistent, rules.turns - turn)
        answer = rules.table[action, secrets[playing]]
        actions[playing, turn] = action
        answers[playing, turn] = answer
        won = rules.wins(action, answer)
        success[playing[won]] = True
        playing, action, answer = playing[~won], action[~won], answer[~won]
        if not len(playing):
            break
        consistent = consistent[~won] & (rules.table[action] == answer[:, None])
    return Games(secrets, actions, answers, success)


def to_episodes(rules: Rules, games: Games) -> Episodes:
    """The games as trajectories: start, action, answer, action, answer, ..."""
    texts, is_action, rewards = [], [], []
    for actions, answers, length, success in zip(
        games.actions.tolist(),
        games.answers.tolist(),
        games.lengths.tolist(),
        games.success.tolist(),
        strict=True,
    ):
        text = [rules.start]
        for action, answer in zip(actions[:length], answers, strict=False):
            text += (rules.action_texts[action], rules.answer_text(action, answer))
        reward = [0.0] + [-1.0, 0.0] * length
        if success:
            reward[-2] = 0.0
        texts.append(text)
        is_action.append([False] + [True, False] * length)
        rewards.append(reward)
    done = [True] * len(texts)
    return {"text": texts, "is_action": is_action, "reward": rewards, "done": done}
