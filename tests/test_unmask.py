import pytest
import torch

from redraft.sample import order
from redraft.sample.order import confidence, leftmost, margin, neg_entropy, random
from redraft.sample.pick import Steps, TopK, top
from redraft.sample.predict import blank, generate
from redraft.sample.unmask import Draw, Unmask
from redraft.types import Canvas, Rng
from tests.test_sample import MASK, PAD, L, rng, world
from tests.toy import Given


@pytest.mark.parametrize(
    ("n", "masks", "shares"), [(4, 10, [3, 3, 2, 2]), (5, 3, [1, 1, 1]), (1, 12, [12])]
)
def test_steps_shares_out_the_masks_as_llada_does(n, masks, shares):
    canvas, got = blank([[None] * masks], MASK, PAD), []
    for after in generate(world, canvas, Unmask(pick=Steps(n)), rng(0)):
        got.append((canvas.noisy.sum() - after.noisy.sum()).item())
        canvas = after
    assert got == shares


def test_top_takes_the_best_open_positions_and_ties_from_the_left():
    score = torch.tensor([0.0, 9.0, 0.5, 0.5, 0.5, 0.7])
    open_ = torch.tensor([True, False, True, True, True, True])
    fields = (x.expand(3, 6) for x in (open_ * MASK, open_, open_, torch.zeros(6).long()))
    tokens, noisy, window, doc = fields
    row = Canvas(tokens, noisy, window, torch.zeros(3).long(), doc)
    got = top(score.expand(3, 6), row, torch.tensor([1, 3, 99]))
    assert got.int().tolist() == [[0, 0, 0, 0, 0, 1], [0, 0, 1, 1, 0, 1], [1, 0, 1, 1, 1, 1]]


def test_ties_go_to_the_left_in_long_rows_too():
    canvas = blank([[None] * 300], MASK, PAD)
    got = top(torch.zeros(1, 300), canvas, torch.tensor([100]))
    assert torch.equal(got[0], torch.arange(300) < 100)


def test_scores_are_what_their_names_say():
    p = torch.tensor([[[0.5, 0.3, 0.2, 0.0], [0.25, 0.25, 0.25, 0.25]]])
    x0 = torch.tensor([[1, 3]])
    assert confidence(p.log(), x0, rng(0)).tolist()[0] == pytest.approx([0.3, 0.25])
    assert margin(p.log(), x0, rng(0)).tolist()[0] == pytest.approx([0.2, 0.0])
    entropy = torch.special.entr(p).sum(-1)
    assert neg_entropy(p.log(), x0, rng(0)).tolist()[0] == pytest.approx((-entropy[0]).tolist())
    assert leftmost(p.log(), x0, rng(0)).argmax() == 0
    assert ((u := random(p.log(), x0, rng(0))) < 1).all() and not torch.equal(u[:, 0], u[:, 1])


def test_drawing_follows_the_narrowed_belief():
    n = 4000
    u = (torch.arange(n) + 0.5) / n
    logp = torch.tensor([0.4, 0.3, 0.2, 0.1]).log().expand(1, n, 4)
    for draw, want in (
        (Draw(1.0), [0.4, 0.3, 0.2, 0.1]),
        (Draw(0.5), [16 / 30, 9 / 30, 4 / 30, 1 / 30]),
        (Draw(1.0, top_k=2), [4 / 7, 3 / 7, 0, 0]),
        (Draw(1.0, top_p=0.6), [4 / 7, 3 / 7, 0, 0]),
        (Draw(0.0), [1, 0, 0, 0]),
    ):
        drawn = draw(logp, Given(token=u.double()))[0]
        share = torch.bincount(drawn, minlength=4) / n
        assert share.tolist() == pytest.approx(want, abs=1e-3)


def test_temperature_never_changes_which_position_is_sure():
    """Confidence is the raw probability of what was proposed."""
    canvas = blank([[None] * L], MASK, PAD)
    logp = world(canvas)
    for temperature in (0.3, 3.0):
        sampler = Unmask(confidence, TopK(1), Draw(temperature))
        x0 = sampler.draw(logp, rng(5).fold(canvas.step))
        after = sampler.step(canvas, logp, rng(5))
        at = (canvas.noisy & ~after.noisy)[0].nonzero().item()
        assert at == logp.gather(-1, x0[..., None]).argmax().item()


@pytest.mark.parametrize("score", sorted(order.UNSEEING, key=lambda s: s.__name__))
def test_drawing_only_what_is_committed_changes_nothing(score, monkeypatch):
    logp = (torch.randn(2, 9, 7, generator=torch.Generator().manual_seed(0)) * 3).log_softmax(-1)
    canvas = blank([[None] * 9, [1] * 4 + [None] * 5], 3, 0)
    sampler = Unmask(score, Steps(3), Draw(0.9, top_p=0.8))
    fast = sampler.step(canvas, logp, Rng.seeds(1, 2))
    monkeypatch.setattr(order, "UNSEEING", frozenset())
    assert torch.equal(sampler.step(canvas, logp, Rng.seeds(1, 2)).tokens, fast.tokens)
