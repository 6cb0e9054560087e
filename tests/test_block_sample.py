"""Text block by block: its law, its cache, its end, and text longer than the context."""

from itertools import pairwise

import pytest
import torch

from redraft.adapt.shift import NextTokenConfig
from redraft.mask import BlockCausal
from redraft.model import bert, dit, llama
from redraft.process.mixing import Mixing
from redraft.sample.ancestral import Ancestral
from redraft.sample.block import Front, generate_blocks
from redraft.sample.first_hitting import FirstHitting
from redraft.sample.order import confidence, leftmost, random
from redraft.sample.pick import Steps, Threshold, TopK
from redraft.sample.predict import blank
from redraft.sample.unmask import Draw, Unmask
from redraft.schedule import Cosine
from redraft.types import Rng
from tests.test_block import CONFIGS, MASK, MASKED, WORDS, L, P, Seeing
from tests.test_model import close, loud

N = 6000
PROCESS = Mixing(19, 3)
LLAMA, DIT = llama.EXAMPLES[0], dit.EXAMPLES[0]
every_network = pytest.mark.parametrize("config", CONFIGS)
SAMPLERS = [
    Unmask(random, Steps(3), Draw(1.0)),
    Unmask(confidence, Threshold(0.4), Draw(0.0)),
    FirstHitting(PROCESS),
    Ancestral(PROCESS, 5),
]
every_sampler = pytest.mark.parametrize("sampler", SAMPLERS)


class Counting:
    """A network that says how often it was asked about how many positions."""

    def __init__(self, inner):
        self.inner, self.timed, self.asked = inner, inner.timed, []
        self.stores, self.lagging = inner.stores, getattr(inner, "lagging", False)

    def features(self, x, t, *, mask, at=None, kv=None):
        self.asked.append(tuple(x.shape))
        return self.inner.features(x, t, mask=mask, at=at, kv=kv)

    def head(self, h):
        return self.inner.head(h)

    def head_parameters(self):
        return []

    def __call__(self, x, t, *, mask):
        return self.head(self.features(x, t, mask=mask))


def law(sampler, size, row=(None,) * L):
    canvas = blank([list(row)] * N, MASK, 0)
    front = Front(Seeing(), MASKED, size, L, cached=False)
    *_, last = generate_blocks(front, canvas, sampler, Rng.of(0, torch.arange(N)))
    return (last.tokens[:, None] == WORDS).all(-1).double().mean(0)


def distance(p, q):
    """Total variation; of 6000 draws from 16 words, about 0.02 by chance."""
    return ((p - q).abs().sum() / 2).item()


@pytest.mark.parametrize("size", [1, 2, 3, 4])
@pytest.mark.parametrize(
    "sampler",
    [
        FirstHitting(MASKED),
        FirstHitting(Mixing(3, MASK, schedule=Cosine())),
        Unmask(random, TopK(1), Draw(1.0)),
        Unmask(leftmost, TopK(1), Draw(1.0)),
    ],
)
def test_one_letter_at_a_time_the_law_is_that_of_the_data(sampler, size):
    assert distance(law(sampler, size), P) < 0.03


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2])
def test_ancestral_blocks_have_the_law_of_first_hitting_blocks(size):
    found = law(Ancestral(MASKED, 40), size)
    assert distance(found, P) < 0.03
    assert distance(found, law(FirstHitting(MASKED), size)) < 0.045


def test_a_block_at_once_is_as_far_from_the_data_as_its_letters_are_dependent():
    """So the bounds of the tests above do tell laws apart, and blocks of one need one step."""
    assert distance(law(Ancestral(MASKED, 1), 4), P) > 0.06
    assert distance(law(Ancestral(MASKED, 1), 1), P) < 0.03


def test_a_block_may_be_given_in_part():
    given = WORDS[:, 0] == 2
    want = torch.where(given, P, 0) / P[given].sum()
    found = law(FirstHitting(MASKED), 2, (2, None, None, None))
    assert distance(found, want) < 0.03 and not found[~given].any()


@pytest.fixture
def canvas():
    """Nothing given; part of a block; more than a block; two lengths of text."""
    rows = [[None] * 14, [5] * 3 + [None] * 11, [7, 0, 1, 2, 4, 5] + [None] * 8, [9] + [None] * 10]
    return blank(rows, 3, 0)


def written(front, canvas, sampler, seed=0, end=None):
    rng = Rng.of(seed, torch.arange(len(canvas.tokens)))
    return list(generate_blocks(front, canvas, sampler, rng, end))


@every_network
@every_sampler
@pytest.mark.parametrize("context", [16, 8])
def test_the_cache_changes_nothing(config, sampler, context, canvas):
    """Also beyond the context, whose newer half is then encoded again."""
    model = loud(config)
    cached, plain = (
        written(Front(model, PROCESS, 4, context, cached), canvas, sampler)
        for cached in (True, False)
    )
    assert len(cached) == len(plain)
    for one, two in zip(cached, plain, strict=True):
        assert torch.equal(one.tokens, two.tokens) and torch.equal(one.noisy, two.noisy)
    last = cached[-1]
    assert not last.open.any() and (last.tokens != 3).all()
    assert torch.equal(last.tokens[~canvas.open], canvas.tokens[~canvas.open])
    for one, two in pairwise([canvas, *cached]):  # no block begins before the one before is full
        blocks = [part.any(-1) for part in one.open.split(4, 1)]
        moved = [part.any(-1) for part in (one.noisy & ~two.noisy).split(4, 1)]
        for i in range(1, 4):
            assert not (moved[i] & torch.stack(blocks[:i]).any(0)).any()


@every_network
@torch.no_grad()
def test_beliefs_are_those_of_the_text_so_far(config):
    """Cached, plain, and by the whole text under the block-causal mask."""
    model = loud(config)
    x = torch.randint(4, 19, (2, 12), generator=torch.Generator().manual_seed(0))
    doc = torch.zeros_like(x)
    fronts = [Front(model, PROCESS, 4, 16, cached) for cached in (True, False)]
    t = torch.tensor([[0.3], [0.9]], dtype=torch.float64)
    for at in (0, 4, 8):
        part = x[:, at : at + 4].clone()
        part[:, ::2] = 3
        clock = torch.cat([torch.zeros(2, at).double(), t.expand(2, 4)], 1)
        both = torch.cat([x[:, :at], part], 1)
        want = model.features(both, clock, mask=BlockCausal(4))[:, at:]
        for front in fronts:
            for rows in ([0, 1], [1]):
                got = front.features(part[rows], doc[rows, :4], t[rows], torch.tensor(rows))
                close(got, want[rows])
            front.advance(x[:, at : at + 4], doc[:, :4], 4)


@every_sampler
@pytest.mark.parametrize("row", [0, 1, 2, 3])
def test_a_row_does_not_depend_on_its_neighbours(sampler, row, canvas):
    model = loud(LLAMA)
    whole = written(Front(model, PROCESS, 4, 8), canvas, sampler)[-1]
    which = torch.arange(4) == row
    rng = Rng.of(0, torch.tensor([row]))
    *_, alone = generate_blocks(Front(model, PROCESS, 4, 8), canvas.rows(which), sampler, rng)
    assert torch.equal(alone.tokens[0], whole.tokens[row])


@every_sampler
def test_a_row_ends_where_its_end_is(sampler, canvas):
    model = loud(LLAMA)
    free = written(Front(model, PROCESS, 4, 16), canvas, sampler)[-1]
    end = int(free.tokens[0, 5])  # what row 0 writes in its second block, perhaps not first
    *_, last = written(Front(model, PROCESS, 4, 16), canvas, sampler, end=end)
    assert not last.open.any()
    for i in range(4):
        own = (free.tokens[i] == end) & canvas.window[i]
        stop = int(own.int().argmax()) + 1 if own.any() else 14
        assert torch.equal(last.tokens[i, :stop], free.tokens[i, :stop])
        block = (stop + 3) // 4 * 4  # tokens that were written out of order may stand behind it
        behind = last.tokens[i, stop:block]
        assert ((behind == end) | (behind == free.tokens[i, stop:block])).all()
        assert (last.tokens[i, block:][canvas.doc[i, block:] >= 0] == end).all()
    assert torch.equal(last.doc, canvas.doc) and torch.equal(last.window, canvas.window)


def test_rows_that_are_over_cost_nothing():
    """Row 0 writes the token 9 wherever it may, row 1 does not."""

    class Nine(Counting):
        def features(self, x, t, *, mask, at=None, kv=None):
            super().features(x, t, mask=mask, at=at, kv=kv)
            row = torch.arange(len(x)) if len(x) > 1 else torch.tensor([1])
            return torch.where(torch.arange(19) == 9 - row[:, None, None], 5.0, 0.0).expand(
                *x.shape, 19
            )

        def head(self, h):
            return h

    model = Nine(loud(LLAMA))
    canvases = written(
        Front(model, PROCESS, 4, 16), blank([[None] * 12] * 2, 3, 0), Unmask(random, TopK(1)), end=9
    )
    assert model.asked == [(2, 4)] * 4 + [(1, 4)] * 10
    assert canvases[-1].tokens.tolist() == [[9] * 12, [8] * 12]
    assert [c.step.tolist() for c in canvases[3:6]] == [[4, 4], [4, 5], [4, 6]]


def test_only_the_open_block_is_computed():
    """Each finished block once more, as clean text; a prompt, and half the context, at once."""
    model, sampler = Counting(loud(LLAMA)), Unmask(random, TopK(1), Draw(1.0))
    written(Front(model, PROCESS, 4, 16), blank([[5] * 9 + [None] * 7], 3, 0), sampler)
    assert model.asked == [(1, 8), *[(1, 4)] * 3, (1, 4), *[(1, 4)] * 4]
    model.asked.clear()
    written(Front(model, PROCESS, 2, 8), blank([[None] * 12], 3, 0), sampler)
    block = [(1, 2)] * 2
    assert model.asked == [*block, *[(1, 2), *block] * 3, (1, 4), *block, (1, 2), *block]


def test_steps_in_which_nothing_changes_cost_nothing():
    model = Counting(loud(LLAMA))
    canvas = blank([[None] * 8], 3, 0)
    many = written(Front(model, PROCESS, 4, 16), canvas, Ancestral(PROCESS, 50))
    assert len(many) > 25 and len(model.asked) <= 9
    timed = Counting(loud(DIT))
    assert timed.timed
    steps = written(Front(timed, PROCESS, 4, 16), canvas, Ancestral(PROCESS, 10))
    assert len(timed.asked) == len(steps) + 1


def test_networks_are_told_the_noise_of_the_open_block():
    told = []

    class Clock(Counting):
        def features(self, x, t, *, mask, at=None, kv=None):
            told.append(t.flatten().tolist())
            return super().features(x, t, mask=mask, at=at, kv=kv)

    model = Clock(loud(DIT))
    canvas = blank([[5] * 6 + [None] * 4], 3, 0)
    written(Front(model, PROCESS, 4, 16), canvas, Unmask(random, TopK(1)))
    assert told == [[0.0], [0.5], [0.25], [0.0], [1.0], [0.5]]
    told.clear()
    written(Front(model, PROCESS, 4, 16), canvas, Ancestral(PROCESS, 2))
    assert told[:2] == [[0.0], [1.0]] and told[-1] in ([0.5], [1.0])


@pytest.mark.parametrize("sampler", [FirstHitting(PROCESS), Ancestral(PROCESS, 3)])
def test_every_block_begins_with_an_empty_memory_and_noise_of_its_own(sampler):
    """A network that does not look: then blocks are alike but for their noise."""
    model = loud(LLAMA)
    with torch.no_grad():
        for p in model.layers.parameters():
            p.zero_()
    canvas = blank([[None] * 8] * 2000, 3, 0)
    drawn = written(Front(model, PROCESS, 4, 16), canvas, sampler)[-1].tokens
    first, second = drawn[:, :4], drawn[:, 4:]
    assert (first != second).any(-1).double().mean() > 0.5
    counts = [torch.bincount(half.flatten(), minlength=19) / 8000 for half in (first, second)]
    assert (counts[0] - counts[1]).abs().max() < 0.03


def test_steps_are_counted_over_all_blocks(canvas):
    steps = [
        c.step[0].item() for c in written(Front(loud(LLAMA), PROCESS, 4, 16), canvas, SAMPLERS[0])
    ]
    assert steps == sorted(steps) and steps[-1] == 11  # 3 + 3 + 3 + 2


def test_a_network_that_cannot_keep_anything_is_asked_anew():
    model = loud(bert.EXAMPLES[0])
    assert not Front(model, PROCESS, 4, 16).cached
    last = written(Front(model, PROCESS, 4, 8), blank([[None] * 14], 3, 0), SAMPLERS[0])[-1]
    assert not last.open.any()


@pytest.mark.parametrize("ends", [False, True])
def test_one_token_after_the_other_costs_one_pass_each(ends):
    model = Counting(loud(NextTokenConfig(LLAMA, 3)))
    rows = [[1, 2, 5, *[None] * 9], [4, 6, 8, *[None] * 9]]
    canvas, sampler = blank(rows, 3, 0), Unmask(leftmost, TopK(1), Draw(1.0))

    def texts(cached, end):
        front, model.asked = Front(model, PROCESS, 1, 32, cached, causal=True), []
        rng = Rng.of(0, torch.arange(2))
        *_, last = generate_blocks(front, canvas, sampler, rng, end)
        return last.tokens, model.asked

    anew, _ = texts(False, None)
    end = None
    if ends:  # row 0 leaves in the middle, and row 1 goes on
        end = next(int(x) for x in anew[0, 4:8] if x not in anew[1, 3:])
        anew, _ = texts(False, end)
    got, asked = texts(True, end)
    assert torch.equal(got, anew)
    whole = [shape for shape in asked if shape[0] == 2]
    assert whole == [(2, 3), *[(2, 1)] * (len(whole) - 1)]
    assert sum(n for _, n in asked) == 3 + 9 + ends  # who is left is encoded once more
