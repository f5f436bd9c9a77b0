"""What is left of an action's beginnings, against the probabilities of all whole actions."""

import itertools
import math

import pytest
import torch

from qsft_lite.policy.refusal import Refusal

END, VOCABULARY, LONGEST = 0, 3, 4  # an action ends with token 0, at the latest as its fourth


def w(row, prefix):
    """Probabilities of the next token, some of them tiny."""
    if len(prefix) == LONGEST - 1:
        return torch.eye(VOCABULARY, dtype=torch.double)[END]
    generator = torch.Generator().manual_seed(hash((row, *prefix)) % 2**32)
    return (8 * torch.randn(VOCABULARY, generator=generator, dtype=torch.double)).softmax(-1)


def log_w(rows, prefixes):
    return torch.stack([w(row, p) for row, p in zip(rows, prefixes, strict=True)]).log().float()


WHOLE = [(*letters, END) for n in range(LONGEST) for letters in itertools.product((1, 2), repeat=n)]


def probability(row, action, begun):
    """Of a whole action, given that it has begun so."""
    places = range(len(begun), len(action))
    return math.prod(w(row, action[:i])[action[i]].item() for i in places)


@pytest.mark.parametrize(
    "refused", [[(0,)], [(1, 0), (1, 2, 0)], [(2, 1, 1, 0), (1, 0)], WHOLE[3:]]
)
def test_the_mass_left_is_that_of_the_actions_left(refused):
    refusal = Refusal([[], refused], log_w, VOCABULARY)
    for begun in {action[:size] for action in WHOLE for size in range(len(action))}:
        left = refusal.log_mass_left([0, 1], [begun, begun]).exp()
        assert (left[0] == 1).all(), "nothing is refused in this row"
        for token_id in range(VOCABULARY):
            after = (*begun, token_id)
            among = [action for action in WHOLE if action[: len(after)] == after]
            if among:
                rest = [probability(1, a, after) for a in among if a not in refused]
                assert left[1, token_id].item() == pytest.approx(math.fsum(rest), rel=1e-5)


def test_the_policy_is_asked_once_for_each_length():
    asked = []

    def counted(rows, prefixes):
        asked.append({len(prefix) for prefix in prefixes})
        return log_w(rows, prefixes)

    Refusal([[(1, 1, 1, 0), (2, 0)], [(1, 2, 0)], []], counted, VOCABULARY)
    assert asked == [{3}, {2}, {1}]
    Refusal([[], [(0,)]], counted, VOCABULARY)
    assert len(asked) == 3, "a token alone needs no probabilities"
