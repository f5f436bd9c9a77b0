"""Players, from one that wanders to an expert. They know what they have read, and no more."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qsft_lite.tasks.alfworld.engine import NativeEngine
from qsft_lite.tasks.alfworld.memory import Memory, kind_of, read_history, start_memory
from qsft_lite.tasks.alfworld.pddl import TREATMENTS
from qsft_lite.tasks.alfworld.rooms import LAMP, LAMP_STANDS_ON, ROOMINESS, holds
from qsft_lite.tasks.alfworld.short import short_command, short_text
from qsft_lite.tasks.alfworld.world import TREATED_WITH, World
from qsft_lite.tasks.draws import chances

Seed = int | np.random.SeedSequence


class Player:
    """What all players share: `choose` decides on what is known, `act` on transcripts.

    slip: how often the player does something else, as a wanderer would. fumbles: how many of these
    are commands that mostly fail. Without them the data have hardly any failure, and who learns
    from the data does not know how to go on after one.
    """

    slip, fumbles = 0.0, 0.4

    def __init__(
        self, seed: Seed = 0, slip: float | None = None, fumbles: float | None = None
    ) -> None:
        for name, share in (("slip", slip), ("fumbles", fumbles)):
            if share is not None and not 0 <= share <= 1:
                raise ValueError(f"{name} must be a probability in [0, 1], got {share}")
        self.rng = np.random.default_rng(seed)
        self.slip = type(self).slip if slip is None else slip
        self.fumbles = type(self).fumbles if fumbles is None else fumbles

    def act(self, histories: Sequence[str]) -> list[str]:
        """The next action of each transcript, in the form that the transcript has."""
        return [
            self._write(self.choose(memory), short)
            for memory, short in map(read_history, histories)
        ]

    def chance(self, history: str, action: str) -> float:
        """How likely the player takes this action after a transcript, in the form that it has."""
        memory, short = read_history(history)
        return chances(self, lambda: self._write(self.choose(memory), short)).get(action, 0.0)

    def _write(self, command: str, short: bool) -> str:
        """A command as a transcript has it."""
        return f"{short_command(command) if short else command}\n"

    def choose(self, memory: Memory) -> str:
        """The next command, slips included."""
        if self.slip and self.rng.random() < self.slip:
            return self.fumble(memory) if self.rng.random() < self.fumbles else self.wander(memory)
        command = self.decide(memory)
        # What has just failed would fail again, but for looking into what one stands before.
        return self.wander(memory) if memory.failed and command == memory.last else command

    def decide(self, memory: Memory) -> str:
        """The next command of a player that does not slip."""
        raise NotImplementedError

    def one_of(self, options: Sequence[str]) -> str:
        """One of them, drawn evenly."""
        return options[int(self.rng.random() * len(options))]

    def fumble(self, memory: Memory) -> str:
        """Something that mostly fails: a thing and a place by chance, where the agent stands."""
        here = self.one_of(sorted(memory.here) or memory.receptacles)
        seen = [one for things in memory.contents.values() for one in things]
        thing = self.one_of([*seen, memory.held or f"{memory.goal.object} 1"])
        verb = self.one_of(("go", "open", "take", "move", *TREATED_WITH))
        if verb in ("go", "open"):
            return f"go to {here}" if verb == "go" else f"open {here}"
        between = {"take": "from", "move": "to"}.get(verb, "with")
        return f"{verb} {thing} {between} {here}"

    def wander(self, memory: Memory) -> str:
        """Half of the time somewhere else, otherwise anything that can be done here."""
        acts = self._acts(memory)
        away = [one for one in memory.receptacles if one not in memory.here]
        if away and (not acts or self.rng.random() < 0.5):
            return f"go to {self.one_of(away)}"
        return self.one_of(acts or ["look"])

    def _acts(self, memory: Memory) -> list[str]:
        """What can be done where the agent stands, as far as it knows."""
        acts = ["look", "inventory"]
        held = memory.held
        for receptacle in sorted(memory.here):
            acts.append(f"examine {receptacle}")
            kind = kind_of(receptacle)
            if receptacle in memory.closed:
                acts.append(f"open {receptacle}")
            elif held is None:
                things = memory.contents.get(receptacle, ())
                acts += [f"take {one} from {receptacle}" for one in things if kind_of(one) != LAMP]
            elif kind_of(held) in holds().get(kind, ()):
                acts.append(f"move {held} to {receptacle}")
            acts += [f"use {one}" for one in memory.contents.get(receptacle, ()) if LAMP in one]
            if held:
                acts += [
                    f"{verb} {held} with {receptacle}"
                    for verb, place in TREATED_WITH.items()
                    if place == kind
                ]
        return acts


class WanderingPlayer(Player):
    """Goes anywhere, does anything: it wins by accident."""

    slip = 0.2

    def decide(self, memory: Memory) -> str:
        """See `Player.decide`."""
        return self.wander(memory)


class ExpertPlayer(Player):
    """Looks where the thing is likely to be, remembers what it has seen, and does the task."""

    def decide(self, memory: Memory) -> str:
        """See `Player.decide`."""
        goal, held = memory.goal, memory.held
        if held is None:
            return self._fetch(memory)
        if kind_of(held) != goal.object:
            return self._put_away(memory)
        if goal.task_type in TREATMENTS and held not in memory.treated:
            return self._treat(memory, goal.task_type.split("_")[1])
        if goal.task_type == "look_at_obj_in_light":
            lamps = memory.places_of(goal.target)
            if not lamps:
                return self._search(memory, goal.target)
            lamp, receptacle = lamps[0]
            return self._at(memory, receptacle, f"use {lamp}", opened=False)
        target = self._target(memory)
        if target is None:
            return self._search(memory, goal.object)
        return self._at(memory, target, f"move {held} to {target}")

    def _target(self, memory: Memory) -> str | None:
        """The receptacle to put things in: of two things the second goes to the first."""
        goal = memory.goal
        targets = [one for one in memory.receptacles if kind_of(one) == goal.target]
        if goal.task_type == "pick_two_obj_and_place":
            for _, receptacle in memory.places_of(goal.object):
                if receptacle in targets:
                    return receptacle
        near = [one for one in targets if one in memory.here]
        return next(iter(near or targets), None)

    def _fetch(self, memory: Memory) -> str:
        """Take the thing, if it is known where one is; search it otherwise."""
        goal = memory.goal
        kept = goal.target if goal.task_type == "pick_and_place_simple" else ""
        full = self._target(memory) if goal.task_type == "pick_two_obj_and_place" else None
        known = [
            (thing, receptacle)
            for thing, receptacle in memory.places_of(goal.object)
            if kind_of(receptacle) != kept and receptacle != full
        ]
        near = [pair for pair in known if pair[1] in memory.here]
        for thing, receptacle in near or known:
            return self._at(memory, receptacle, f"take {thing} from {receptacle}")
        return self._search(memory, goal.object)

    def _at(self, memory: Memory, receptacle: str, command: str, opened: bool = True) -> str:
        """The command, or what comes before it: going there, and opening what is closed."""
        if receptacle not in memory.here:
            return f"go to {receptacle}"
        return f"open {receptacle}" if opened and receptacle in memory.closed else command

    def _treat(self, memory: Memory, verb: str) -> str:
        places = [one for one in memory.receptacles if kind_of(one) == TREATED_WITH[verb]]
        if not places:
            return self.wander(memory)
        place = next((one for one in places if one in memory.here), places[0])
        return self._at(memory, place, f"{verb} {memory.held} with {place}", opened=False)

    def _put_away(self, memory: Memory) -> str:
        """Put down what is not wanted, here if it can be."""
        kind = kind_of(memory.held)
        takers = [one for one in memory.receptacles if kind in holds().get(kind_of(one), ())]
        if not takers:
            return self.wander(memory)
        taker = next((one for one in takers if one in memory.here), takers[0])
        return self._at(memory, taker, f"move {memory.held} to {taker}")

    def _search(self, memory: Memory, kind: str) -> str:
        """Look into what was not seen yet: first here, then where the kind is likely to be."""
        unseen = [one for one in memory.receptacles if one not in memory.contents]
        here = [one for one in unseen if one in memory.here]
        for receptacle in here:
            return f"{'open' if receptacle in memory.closed else 'examine'} {receptacle}"
        if not unseen:
            return self.wander(memory)
        likely = np.array([self._likely(kind_of(one), kind) for one in unseen], dtype=float)
        return f"go to {unseen[int(self.rng.choice(np.flatnonzero(likely == likely.max())))]}"

    def _likely(self, receptacle: str, kind: str) -> float:
        """How likely a kind is in a receptacle, compared with others."""
        if kind == LAMP:
            return float(receptacle in LAMP_STANDS_ON)
        return float(ROOMINESS.get(receptacle, 1) * (kind in holds().get(receptacle, ())))


class CarelessPlayer(ExpertPlayer):
    """The expert with its mind elsewhere one step in five."""

    slip = 0.2


class HalfInformedPlayer(ExpertPlayer):
    """Knows what to do, but neither where things are nor what it has looked into.

    It searches anywhere, even where it was; it treats things in any sink, microwave or fridge, so
    it tries the wrong ones, too; and one step in five it wanders.
    """

    slip = 0.2

    def _search(self, memory: Memory, kind: str) -> str:
        here = [one for one in sorted(memory.here) if one in memory.closed]
        if here and self.rng.random() < 0.7:
            return f"open {here[0]}"
        away = [one for one in memory.receptacles if one not in memory.here]
        return f"go to {self.one_of(away)}" if away else self.wander(memory)

    def _treat(self, memory: Memory, verb: str) -> str:
        places = [one for one in memory.receptacles if kind_of(one) in TREATED_WITH.values()]
        if not places:
            return self.wander(memory)
        here = [one for one in places if one in memory.here]
        tried = memory.failed and memory.last.startswith(verb)
        if here and not tried:
            return f"{verb} {memory.held} with {here[0]}"
        away = [one for one in places if one not in memory.here]
        return f"go to {self.one_of(away)}" if away else self.wander(memory)


PLAYERS: dict[str, type[Player]] = {
    "expert": ExpertPlayer,
    "careless": CarelessPlayer,
    "half_informed": HalfInformedPlayer,
    "wanderer": WanderingPlayer,
}


def play_game(
    world: World, player: Player, short: bool = False, max_steps: int = 50
) -> tuple[list[str], bool]:
    """The texts of a game, from the first one on, and whether it was won."""
    play = NativeEngine(world)
    memory = start_memory(play.start_text())
    texts = [f"{world.short_start() if short else play.start_text()}\n"]
    for _ in range(max_steps):
        command = player.choose(memory)
        text, _ = play.step(command)
        answer = short_text(text)
        memory.observe(command, answer)
        written = (short_command(command), answer) if short else (command, text)
        texts += [f"{part}\n" for part in written]
        if play.won():
            return texts, True
    return texts, False
