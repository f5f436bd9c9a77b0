"""What a player could do, from its code: against probabilities by hand, and against Bayes."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qsft_lite.tasks.draws import chances, log_likelihood


class Player:
    rng = "its own"


def test_each_way_of_drawing_by_hand():
    player = Player()

    def choose():
        rng = player.rng
        if rng.random() < 0.2:
            return "slip", rng.integers(2)
        if rng.random() > 0.9:
            return "late", int(rng.random() * 4)
        if rng.random() < 0.0 or rng.random() > 1.5:
            return "never"
        return rng.choice(["a", "b"], p=[0.25, 0.75]) + str(rng.choice(3))

    found = chances(player, choose)
    by_hand = {("slip", n): 0.1 for n in range(2)} | {("late", n): 0.8 * 0.1 / 4 for n in range(4)}
    by_hand |= {f"a{n}": 0.72 * 0.25 / 3 for n in range(3)}
    by_hand |= {f"b{n}": 0.72 * 0.75 / 3 for n in range(3)}
    assert found == {choice: pytest.approx(chance) for choice, chance in by_hand.items()}
    assert player.rng == "its own"


@given(st.lists(st.floats(0.01, 0.99), min_size=1, max_size=6))
def test_coins_are_independent(shares):
    player = Player()
    found = chances(player, lambda: tuple(player.rng.random() < share for share in shares))
    assert sum(found.values()) == pytest.approx(1)
    for sides in product((False, True), repeat=len(shares)):
        each = [share if side else 1 - share for side, share in zip(sides, shares, strict=True)]
        assert found[sides] == pytest.approx(math.prod(each))


def twice(rng):
    number = rng.random()
    return "a" if number < 0.2 else "b" if number < 0.5 else "c"


@pytest.mark.parametrize(
    "draw",
    [
        twice,
        lambda rng: rng.normal(),
        lambda rng: bool(rng.random()),
        lambda rng: rng.random() * 4 < 0.5,
        lambda rng: rng.random() <= 0.5,
        lambda rng: rng.random() + 1,
    ],
)
def test_other_draws_are_refused_and_the_players_generator_is_put_back(draw):
    player = Player()
    with pytest.raises((AttributeError, TypeError)):
        chances(player, lambda: draw(player.rng))
    assert player.rng == "its own"


@given(st.lists(st.tuples(*[st.floats(0, 1)] * 3), min_size=1, max_size=5))
def test_a_mixture_is_what_bayes_says_action_by_action(taken):
    weights = np.array([0.5, 0.3, 0.2])
    belief, chance = weights.copy(), 1.0
    for each in taken:
        likely = belief @ np.array(each)
        chance *= likely
        belief = belief * each / likely if likely else belief
    assert math.exp(log_likelihood(weights, taken)) == pytest.approx(chance, abs=1e-12)
