"""Beliefs restricted to a regular language: everything against counting every sequence."""

from dataclasses import replace
from itertools import product

import pytest
import torch

from redraft.sample.automaton import Automaton, Stretch
from redraft.sample.unmask import Draw
from redraft.structure.letters import letters
from redraft.structure.tokens import Vocabulary
from tests.toy import Given

# Token 3 is [MASK] and 5 the end; 6 is spelled like 1, and 0 can be spelled in two tokens.
WORDS = (b"ab", b"a", b"b", None, b"ba", None, b"a")
V, MASK, END = len(WORDS), 3, 5
REGEXES = ("(a|b)*", "a*b", "(ab)*", "(ab|ba)+a?", "a{2,3}", "b*a[ab]", "|a", "(a|b)(a|b)*b")


def automaton(regex):
    return Vocabulary(WORDS, END).lifted(letters(regex))


def stretch(regex, n, given=(), first=1, behind=0, may_end=True, rows=1):
    fixed = torch.full((rows, n), -1)
    for i, token in dict(given).items():
        fixed[:, i] = token
    every = torch.ones(rows, n, dtype=torch.bool)
    numbers = (torch.full((rows,), x) for x in (first, behind, may_end))
    return Stretch(automaton(regex), fixed, every, *numbers)


def spelled(ids, may_end=True):
    """The text of a sequence, or None if it is none."""
    ids = list(ids)
    if END in ids:
        at = ids.index(END)
        if not may_end or set(ids[at:]) != {END}:
            return None
        ids = ids[:at]
    return None if MASK in ids else b"".join(WORDS[i] for i in ids)


def matches(regex, n, given=(), may_end=True):
    """All sequences of n tokens that are a match, by trying every one."""
    import re

    found = []
    for ids in product(range(V), repeat=n):
        text = spelled(ids, may_end)
        if text is not None and re.fullmatch(regex, text.decode()):
            if all(ids[i] == token for i, token in dict(given).items()):
                found.append(ids)
    return torch.tensor(found, dtype=torch.long).reshape(len(found), n)


def beliefs(n, seed=0, rows=1):
    logits = torch.randn(rows, n, V, generator=torch.Generator().manual_seed(seed)) * 2
    logits[..., MASK] = -torch.inf
    return logits.double().log_softmax(-1)


def scores(logp, found, given=()):
    """log-probability of every match; what is decided counts nothing."""
    free = torch.ones(found.shape[1], dtype=torch.double)
    free[list(dict(given))] = 0
    return (logp[0].gather(1, found.T) * free[:, None]).sum(0)


CASES = [
    (regex, n, given, may_end)
    for regex in REGEXES
    for n, given in (
        (1, ()),
        (3, ()),
        (4, ()),
        (4, ((1, 0),)),
        (4, ((0, 6), (2, 2))),
        (4, ((2, 5),)),
    )
    for may_end in (True, False)
]
every = pytest.mark.parametrize(("regex", "n", "given", "may_end"), CASES)


@every
def test_the_likeliest_match_is_the_one_that_counting_finds(regex, n, given, may_end):
    found, here = matches(regex, n, given, may_end), stretch(regex, n, given, may_end=may_end)
    assert here.possible.item() == bool(len(found))
    for seed in range(3 if len(found) else 0):
        logp = beliefs(n, seed)
        got = here.drawn(logp, Draw(0.0), torch.zeros(1, n))
        assert torch.equal(got[0], found[scores(logp, found, given).argmax()])


@every
def test_the_law_of_every_token_is_the_one_that_counting_finds(regex, n, given, may_end):
    found, here = matches(regex, n, given, may_end), stretch(regex, n, given, may_end=may_end)
    if not len(found):
        return
    logp = beliefs(n, 5)
    p = scores(logp, found, given).softmax(0)
    want = torch.stack([torch.zeros(V).double().index_add(0, ids, p) for ids in found.T])
    law = here.law(logp)[0].exp()
    for i in range(n):
        if i not in dict(given):
            assert law[i].tolist() == pytest.approx(want[i].tolist(), abs=1e-12)
            assert torch.equal(law[i] > 0, want[i] > 0)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize(("regex", "given"), [("(ab)*", ()), ("a*b", ((1, 1),)), ("(a|b)*", ())])
def test_a_draw_has_the_law_of_the_matches(regex, given, temperature):
    """Its uniforms on a fine grid: every match is hit as often as it is likely."""
    n, grid = 3, 16
    found, logp = matches(regex, n, given), beliefs(n, 2)
    p = (scores(logp, found, given) / temperature).softmax(0)
    u = (torch.cartesian_prod(*[torch.arange(grid)] * n).double() + 0.5) / grid
    here = stretch(regex, n, given, rows=len(u))
    got = here.drawn(logp.expand(len(u), -1, -1), Draw(temperature), u)
    hit = (got[:, None] == found).all(-1)
    assert (hit.sum(1) == 1).all()
    share = hit.double().mean(0)
    assert (share - p).abs().sum() < 0.2


def test_a_draw_is_the_chain_of_its_conditionals():
    """Exactly: the number from [0, 1) at which a token changes is its conditional probability."""
    n, regex = 3, "(ab|ba)+a?"
    found, logp = matches(regex, n), beliefs(n, 3)
    p = scores(logp, found).softmax(0)
    here = stretch(regex, n)
    prefix = []
    for i in range(n):
        fits = (found[:, :i] == torch.tensor(prefix, dtype=torch.long)).all(-1)
        chance = torch.zeros(V).double().index_add(0, found[fits][:, i], p[fits])
        edge = (chance / chance.sum()).cumsum(0)
        u = torch.full((1, n), 0.5).double()
        for token in chance.nonzero()[:, 0].tolist():
            low = edge[token] - chance[token] / chance.sum()
            for at, want in ((low + 1e-9, True), (edge[token] - 1e-9, True), (low - 1e-9, False)):
                if 0 <= at < 1:
                    u[0, i] = at
                    fixed = here.fixed.clone()
                    fixed[0, :i] = torch.tensor(prefix)
                    got = replace(here, fixed=fixed).drawn(logp, Draw(1.0), u)[0, i].item()
                    assert (got == token) is want
        prefix.append(chance.argmax().item())


def test_any_text_leaves_beliefs_and_draws_as_they_are():
    n, rows = 6, 40
    logp = beliefs(n, 1, rows)
    logp[..., END] = -torch.inf
    logp = logp.log_softmax(-1)
    u = torch.rand(rows, n, generator=torch.Generator().manual_seed(0)).double()
    here = stretch("(a|b)*", n, may_end=False, rows=rows)
    for draw in (Draw(0.0), Draw(1.0), Draw(0.7, top_k=3), Draw(1.0, top_p=0.8)):
        assert torch.equal(here.drawn(logp, draw, u), draw.at(logp, u))
    assert torch.allclose(here.law(logp), logp)


def test_what_the_network_rules_out_is_written_where_nothing_else_matches():
    logp = torch.full((1, 3, V), -torch.inf).double()
    logp[..., END] = 0.0
    got = stretch("a{2,3}", 3, may_end=False).drawn(logp, Draw(1.0), torch.zeros(1, 3).double())
    assert b"".join(WORDS[i] for i in got[0].tolist()) in (b"aa", b"aaa")


def test_narrowing_never_narrows_to_nothing():
    u = torch.rand(50, 4, generator=torch.Generator().manual_seed(0)).double()
    for draw in (Draw(1.0, top_k=1), Draw(1.0, top_p=0.01), Draw(3.0, top_k=2, top_p=0.5)):
        here = stretch("(ab|ba)+a?", 4, rows=50)
        for ids in here.drawn(beliefs(4, 7, 50), draw, u).tolist():
            assert spelled(ids) is not None
            assert letters("(ab|ba)+a?").accepts(spelled(ids))


def test_rows_of_different_lengths_do_not_meet():
    here = stretch("(ab)*", 4, rows=3)
    real = torch.arange(4) < torch.tensor([4, 2, 3])[:, None]
    mixed, logp = replace(here, real=real), beliefs(4, 8, 3)
    u = torch.rand(3, 4, generator=torch.Generator().manual_seed(3)).double()
    for draw in (Draw(0.0), Draw(1.0)):
        got = mixed.drawn(logp, draw, u)
        for row, n in enumerate((4, 2, 3)):
            alone = stretch("(ab)*", n)
            one = slice(row, row + 1)
            assert torch.equal(got[one, :n], alone.drawn(logp[one, :n], draw, u[one, :n]))
            assert torch.allclose(mixed.law(logp)[one, :n], alone.law(logp[one, :n]))


@pytest.mark.parametrize("regex", REGEXES)
def test_the_first_part_of_a_longer_match_leaves_a_way_on(regex):
    """A block with n positions behind it: what can follow decides what may be written."""
    for n, behind in ((2, 2), (1, 3), (3, 1)):
        whole = matches(regex, n + behind)
        beginnings = {tuple(ids[:n]) for ids in whole.tolist()}
        here = stretch(regex, n, behind=behind)
        for seed in range(4):
            got = here.drawn(beliefs(n, seed), Draw(1.0), torch.rand(1, n).double())
            assert tuple(got[0].tolist()) in beginnings
        allowed = {ids[0] for ids in beginnings}
        assert set((here.law(beliefs(n))[0, 0] > -torch.inf).nonzero()[:, 0].tolist()) == allowed


@pytest.mark.parametrize("regex", REGEXES)
@pytest.mark.parametrize("may_end", [True, False])
def test_lengths_are_those_of_the_matches(regex, may_end):
    found = automaton(regex)
    fit = [n for n in range(5) if len(matches(regex, n, (), may_end))]
    assert [n for n in range(5) if found.live(n, may_end)[1]] == fit
    for n in range(5):
        near = found.nearest(n, 1, may_end)
        assert near is not None and abs(near - n) == min(abs(m - n) for m in fit)


@pytest.mark.parametrize(("regex", "most"), [("a{2,3}", 3), ("|a", 1), ("a*b", None), ("ab|ba", 2)])
def test_the_longest_match_is_known_where_there_is_one(regex, most):
    assert automaton(regex).longest() == most


def test_tokens_that_all_states_treat_alike_are_of_one_kind():
    found: Automaton = automaton("a*b")
    kind = found.kind.tolist()
    assert kind[1] == kind[6] and kind[MASK] == 0
    assert kind[4] == 0  # ba is never part of a match
    assert kind[0] == kind[2] and len({0, kind[0], kind[1], kind[END]}) == 4


def test_given_noise_decides():
    """The tests above would not notice a draw that ignores its number."""
    here, logp = stretch("(a|b)*", 2, rows=2), beliefs(2, 0).expand(2, -1, -1)
    u = Given(token=torch.tensor([[0.01, 0.01], [0.99, 0.99]]).double()).fold("token")
    got = here.drawn(logp, Draw(1.0), u.uniform(torch.zeros(2, 2)))
    assert not torch.equal(got[0], got[1])
