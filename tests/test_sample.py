from dataclasses import replace

import pytest
import torch

from redraft.process.mixing import Mixing
from redraft.sample.ancestral import Ancestral
from redraft.sample.first_hitting import FirstHitting
from redraft.sample.order import confidence, leftmost, margin, neg_entropy, random
from redraft.sample.pick import Steps, Threshold, TopK
from redraft.sample.predict import Reuse, Sampler, bind, blank, generate
from redraft.sample.unmask import Unmask
from redraft.schedule import Cosine, Linear, Polynomial
from redraft.types import Canvas, Rng
from tests.contract import examples
from tests.toy import Given

B, L, V, MASK, PAD = 6, 12, 7, 3, 0  # the mask id that the EXAMPLES of redraft.sample use
MASKED = Mixing(V, MASK)
SAMPLERS = [each for each in examples("sample") if isinstance(each, Sampler)]
every = pytest.mark.parametrize("sampler", SAMPLERS)
LOGITS = torch.randn(V, L, V, generator=torch.Generator().manual_seed(1)) * 2


def world(canvas, t=None):
    """Beliefs that depend on the neighbours, so that order and reuse matter."""
    around = LOGITS[canvas.tokens, torch.arange(canvas.tokens.shape[1])]
    return MASKED.log_x0(around + around.roll(1, 1) + around.roll(-1, 1))


@pytest.fixture
def canvas():
    """All masked; a prompt; finished; one left; a window that is done; padded."""
    noisy = torch.ones(B, L, dtype=torch.bool)
    noisy[1, :5] = noisy[2] = noisy[3, 1:] = noisy[4, :6] = noisy[5, 9:] = False
    window, doc = noisy.clone(), torch.zeros(B, L, dtype=torch.long)
    window[4, 6:], doc[5, 9:] = False, -1
    tokens = torch.full((B, L), 2).masked_fill(noisy, MASK).masked_fill(doc < 0, PAD)
    return Canvas(tokens, noisy, window, torch.zeros(B, dtype=torch.long), doc)


def rng(*seeds):
    return Rng.seeds(*(seeds or range(B)))


def begun(sampler, canvas):
    """With the noise that the sampler's process begins from."""
    process = getattr(sampler, "process", MASKED)
    return process.start(canvas, rng(*range(len(canvas.tokens))))


def absorbing(sampler):
    return getattr(sampler, "process", MASKED).absorbing


@every
def test_every_sampler_fills_the_window_and_touches_nothing_else(sampler, canvas):
    canvas = begun(sampler, canvas)
    *_, last = generate(world, canvas, sampler, rng())
    assert not last.open.any()
    assert torch.equal(last.tokens[~canvas.open], canvas.tokens[~canvas.open])
    assert (last.tokens[canvas.open] != MASK).all()
    assert torch.equal(last.noisy[~canvas.window], canvas.noisy[~canvas.window])
    assert torch.equal(last.window, canvas.window) and torch.equal(last.doc, canvas.doc)


@pytest.mark.parametrize("sampler", [s for s in SAMPLERS if absorbing(s)])
def test_noise_is_where_the_mask_token_is_and_only_ever_shrinks(sampler, canvas):
    """It grows for samplers that reopen, and those say so."""
    before = canvas
    for after in generate(world, canvas, sampler, rng()):
        assert torch.equal(after.noisy, after.tokens == MASK)
        if getattr(sampler, "reopens", False):
            continue
        assert not (after.noisy & ~before.noisy).any()
        kept = ~before.noisy
        assert torch.equal(after.tokens[kept], before.tokens[kept])
        before = after


@every
def test_every_sampler_counts_its_steps_and_ends_in_time(sampler, canvas):
    canvas = begun(sampler, canvas)
    seen = list(generate(world, canvas, sampler, rng()))
    assert [each.step.unique().tolist() for each in seen] == [[i + 1] for i in range(len(seen))]
    assert len(seen) <= max(L, getattr(sampler, "n", 0)) + getattr(sampler, "rounds", 0)


@every
def test_a_step_changes_no_canvas(sampler, canvas):
    canvas = begun(sampler, canvas)
    copy = replace(canvas, tokens=canvas.tokens.clone(), noisy=canvas.noisy.clone())
    sampler.step(canvas, world(canvas), rng())
    assert torch.equal(copy.tokens, canvas.tokens) and torch.equal(copy.noisy, canvas.noisy)
    assert not canvas.step.any() and not canvas.memo


@every
@pytest.mark.parametrize("row", [0, 1, 5])
def test_a_row_does_not_depend_on_its_neighbours(sampler, canvas, row):
    canvas = begun(sampler, canvas)
    *_, batch = generate(world, canvas, sampler, rng(6, 7, 8, 9, 10, 11))
    alone = canvas.rows(torch.arange(B) == row)
    *_, alone = generate(world, alone, sampler, rng(6 + row))
    assert torch.equal(batch.tokens[row : row + 1], alone.tokens)


@every
def test_the_same_seed_gives_the_same_text_and_another_another(sampler, canvas):
    canvas = begun(sampler, canvas)
    texts = []
    for seed in (0, 0, 1):
        *_, last = generate(world, canvas, sampler, rng(*range(seed, seed + B)))
        texts.append(last.tokens)
    assert torch.equal(texts[0], texts[1])
    if sampler != Unmask(confidence, Threshold(0.9)):  # greedy
        assert not torch.equal(texts[0], texts[2])


@pytest.mark.parametrize("pick", [Threshold(0.99), TopK(2), Steps(4)])
@pytest.mark.parametrize("score", [confidence, margin, neg_entropy, leftmost, random])
def test_every_pick_makes_progress_in_every_open_row(pick, score, canvas):
    for after in generate(world, canvas, Unmask(score, pick), rng()):
        done = canvas.open.sum(-1) - after.open.sum(-1)
        assert (done[canvas.open.any(-1)] > 0).all()
        canvas = after


@every
def test_ancestral_and_steps_take_no_more_steps_than_they_were_given(sampler, canvas):
    canvas = begun(sampler, canvas)
    n = getattr(getattr(sampler, "pick", sampler), "n", L) + getattr(sampler, "rounds", 0)
    assert len(list(generate(world, canvas, sampler, rng()))) <= n
    if isinstance(getattr(sampler, "pick", None), Steps):
        assert len(list(generate(world, canvas, sampler, rng()))) == n


@every
def test_every_step_has_noise_of_its_own(sampler):
    canvas = begun(sampler, blank([[None] * L] * 20, MASK, PAD))
    seeds, flat = Rng.of(0, torch.arange(20)), MASKED.log_x0(torch.zeros(20, L, V))
    if sampler == Unmask(confidence, Threshold(0.9)):  # greedy
        return
    one, two = (sampler.step(replace(canvas, step=canvas.step + i), flat, seeds) for i in (0, 1))
    drawn = one.tokens != canvas.tokens
    assert (one.tokens != two.tokens)[drawn].any()
    assert (drawn & (two.tokens != canvas.tokens) & (one.tokens != two.tokens)).any()


def test_the_last_ancestral_step_leaves_no_mask_however_n_divides_one():
    for n in range(1, 100):
        canvas = blank([[None] * 2], MASK, PAD)
        canvas = replace(canvas, step=canvas.step + n - 1)
        ends = torch.full((1, 2), 1 - 2**-53, dtype=torch.float64)
        process = replace(MASKED, schedule=Polynomial(0.5))  # steepest there
        after = Ancestral(process, n).step(canvas, world(canvas), Given(when=ends, token=ends))
        assert not after.noisy.any() and (after.tokens != MASK).all()


def test_threshold_commits_all_that_reach_it_or_else_the_best(canvas):
    score = torch.linspace(0, 1, L).expand(B, L)
    got = Threshold(0.8)(score, canvas)
    assert torch.equal(got[0], score[0] >= 0.8)
    assert torch.equal(got[2], torch.zeros(L).bool()) and got[3].nonzero().tolist() == [[0]]
    assert torch.equal(Threshold(1.0)(score * 0.5, canvas).sum(-1), canvas.open.any(-1).long())


@pytest.mark.parametrize("sampler", [s for s in SAMPLERS if not hasattr(s, "ratios")])
def test_reuse_changes_nothing_but_the_work(sampler, canvas):
    canvas = begun(sampler, canvas)
    canvas = canvas.rows(torch.arange(B) != 2)
    asked = []

    def spy(canvas, t):
        asked.append(len(canvas.tokens))
        return world(canvas)

    seeds, reuse = rng(*range(B - 1)), Reuse(spy)
    fast = list(generate(reuse, canvas, sampler, seeds))
    assert reuse.evaluations == sum(asked)
    asked.clear()
    slow = list(generate(spy, canvas, sampler, seeds))
    for one, two in zip(fast, slow, strict=True):
        assert torch.equal(one.tokens, two.tokens)
    assert reuse.evaluations < sum(asked)


def test_reuse_knows_what_each_row_was_when_it_was_asked_about():
    """A row that closed is not asked about; when its window moves on, it must be."""
    reuse = Reuse(world)
    canvas = blank([[None] * L, [None] * L], MASK, PAD)
    first = torch.arange(L) < torch.tensor([[1], [4]])
    canvas = replace(canvas, window=first)
    *_, canvas = generate(reuse, canvas, Unmask(pick=TopK(1)), rng(0, 1))
    canvas = replace(canvas, window=~first)
    assert torch.equal(reuse(canvas, None), world(canvas))
    canvas = replace(canvas, tokens=canvas.tokens.flip(0))
    assert torch.equal(reuse(canvas, None), world(canvas))


def test_reuse_asks_again_when_the_padding_moves():
    seen = []
    reuse = Reuse(lambda canvas, t: seen.append(1) or world(canvas))
    canvas = blank([[None] * L], MASK, PAD)
    reuse(canvas, None), reuse(canvas, None)
    reuse(replace(canvas, doc=canvas.doc - (torch.arange(L) == 0).long()), None)
    reuse(blank([[None] * 5], MASK, PAD), None)
    assert len(seen) == 3


class Clock:
    """Tells the time it was told, as the belief in token 0; notes the mask."""

    timed = True

    def __call__(self, x, t, *, mask):
        self.mask = mask
        return torch.zeros(*x.shape, V).index_fill(-1, torch.tensor(0), 1.0) * t[..., None]

    features = head = head_parameters = __call__


@pytest.mark.parametrize("schedule", [Linear(), Cosine()])
def test_a_network_with_a_clock_reads_t_off_the_share_of_noise(schedule, canvas):
    """Padding is no text: it does not count."""
    clock = Clock()
    process = replace(MASKED, schedule=schedule)
    predict = bind(clock, process)
    assert not isinstance(predict, Reuse)
    share = torch.tensor([1, 7 / 12, 0, 1 / 12, 6 / 12, 1])
    logits = predict(canvas, None)
    told = logits[:, 0, 0] - logits[:, 0, 1]
    torch.testing.assert_close(told, schedule.time(1 - share), atol=1e-6, rtol=1e-6)
    given = predict(canvas, torch.full((B, 1), 0.25))
    torch.testing.assert_close(given[:, 0, 0] - given[:, 0, 1], torch.full((B,), 0.25))
    assert (logits[..., MASK] == -torch.inf).all()
    torch.testing.assert_close(logits.exp().sum(-1), torch.ones(B, L))
    assert not clock.mask.dense(B, L, L)[5, :9, 9:].any()


def test_samplers_that_follow_time_say_which():
    canvas = blank([[None] * 4] * 3, MASK, PAD)
    canvas = replace(canvas, step=torch.tensor([0, 1, 4]))
    assert Ancestral(MASKED, 4).time(canvas, rng(0, 1, 2)).tolist() == [[1.0], [0.75], [0.25]]
    assert Unmask().time(canvas, rng(0, 1, 2)) is None
    u = torch.tensor([[0.0], [0.5], [0.75]], dtype=torch.float64)
    tau = FirstHitting(MASKED).time(canvas, Given(when=u))
    torch.testing.assert_close(tau, (1 - u) ** 0.25)


def test_a_blank_canvas_is_open_at_its_gaps_and_padded():
    canvas = blank([[5, None, 6], [None], [4, 4]], MASK, PAD)
    assert canvas.tokens.tolist() == [[5, MASK, 6], [MASK, PAD, PAD], [4, 4, PAD]]
    assert canvas.open.int().tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 0]]
    assert canvas.doc.tolist() == [[0, 0, 0], [0, -1, -1], [0, 0, -1]]
    assert torch.equal(canvas.noisy, canvas.window) and not canvas.step.any()
