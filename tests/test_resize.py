"""Edits by tokens: what they make of a row."""

import random

import pytest

from redraft.sample.resize import applied, expanded

MASK, INSERT, DELETE = 90, 91, 92


def test_expand_and_delete_change_the_length_by_one():
    tokens, noisy = expanded(
        [1, INSERT, 2, DELETE, MASK], [False] * 4 + [True], MASK, INSERT, DELETE
    )
    assert tokens == [1, MASK, MASK, 2, MASK] and noisy == [False, True, True, False, True]
    still = expanded([INSERT, DELETE], [True, True], MASK, INSERT, DELETE)
    assert still == ([INSERT, DELETE], [True, True]), "noise is no edit"
    assert expanded([], [], MASK, INSERT, DELETE) == ([], [])


def test_a_round_keeps_the_length_of_the_block():
    assert applied([1, 2, 3], [1, INSERT, 3], MASK, INSERT, DELETE) == [1, MASK, 2]
    assert applied([1, 2, 3], [DELETE, 5, 3], MASK, INSERT, DELETE) == [5, 3, MASK]
    assert applied([1, 2, 3], [1, 2, 3], MASK, INSERT, DELETE) == [1, 2, 3]


@pytest.mark.parametrize("seed", range(20))
def test_edits_of_a_known_draft_lead_to_the_target(seed):
    """A draft with tokens too many and too few, and a network that says what each should be."""
    dice = random.Random(seed)
    target = [*range(10)]
    parts = [(token, dice.choice(("keep", "drop", "extra"))) for token in target]
    draft, said, missing = [], [], False
    for token, fate in parts:
        if fate == "drop" and not missing and token < 9:  # one a gap
            missing = True
            continue
        if fate == "extra":
            draft, said = [*draft, 50], [*said, DELETE]
        draft, said = [*draft, token], [*said, INSERT if missing else token]
        missing = False
    after = applied(draft, said, MASK, INSERT, DELETE)
    want = [token if token in draft else MASK for token in target]
    assert len(after) == len(draft) and after == [*want, *[MASK] * 20][: len(draft)]
