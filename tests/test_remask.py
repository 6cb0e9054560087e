"""ReMDM: its marginals, its law by enumeration, and rows that are full before they are done."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import one_hot

from redraft.errors import BadInput
from redraft.mask import BlockCausal
from redraft.process.gidd import Gidd
from redraft.process.mixing import Mixing
from redraft.sample.ancestral import Ancestral, span
from redraft.sample.block import Front, generate_blocks
from redraft.sample.predict import Reuse, blank, generate
from redraft.sample.remask import (
    Cap,
    Conf,
    FlowMatching,
    ForwardBackward,
    Loop,
    Remdm,
    Rescale,
    most,
)
from redraft.sample.unmask import Draw
from redraft.schedule import EXAMPLES, Cosine
from redraft.types import Rng
from tests.test_sample_law import MASKED, distance, start
from tests.toy import LETTERS, MASK, Exact, L, P, V, conditional

LOOP = Loop(0.3, t_on=0.6, t_off=0.2, alpha_on=0.7)
FAITHFUL = [Cap(0.3), Rescale(0.4), Rescale(1.0), LOOP, ForwardBackward(), FlowMatching()]
N = 20_000
NONE = torch.full((1, 1), torch.inf, dtype=torch.float64)
every_plan = pytest.mark.parametrize("plan", FAITHFUL)


def believed(xt):
    """The conditional of the data; where a step wrote what cannot be, any letter."""
    anything = torch.ones(V, dtype=torch.float64) / (V - 1)
    anything[MASK] = 0
    p = conditional(xt)
    return torch.where(p.isnan(), anything, p)


def predict(canvas, t):
    return MASKED.log_x0(believed(canvas.tokens).log())


def seeds(n):
    return Rng.of(0, torch.arange(n))


def times(n):
    """t and s of every one of n steps."""
    return [span(torch.tensor([i]), n)[:2] for i in range(n)]


@every_plan
@pytest.mark.parametrize("schedule", EXAMPLES)
def test_whatever_sigma_is_the_share_that_is_written_follows_the_schedule(plan, schedule):
    way = Remdm(Mixing(V, MASK, schedule=schedule), 1, plan)
    canvas = start(n=1)
    for t, s in times(23):
        alpha_t, alpha_s = (plan.level(schedule, each) for each in (t, s))
        show, hide = way.chances(canvas, t, alpha_t, alpha_s)
        assert 0 <= show.item() <= 1 + 1e-12 and 0 <= hide.item() <= 1
        written = alpha_t * (1 - hide) + (1 - alpha_t) * show
        torch.testing.assert_close(written, alpha_s, rtol=0, atol=1e-12)


def test_above_the_largest_sigma_a_chance_is_negative_and_below_none_is():
    for t, s in times(11)[1:]:
        alpha_t, alpha_s = 1 - t, 1 - s
        for off in (-1e-6, 1e-6):
            sigma = most(alpha_t, alpha_s) + off
            stay = (1 - alpha_s - sigma * alpha_t) / (1 - alpha_t)
            assert (min(stay.item(), 1 - sigma.item()) < 0) == (off > 0)


def test_the_plans_are_what_their_names_say():
    t, s = (torch.tensor([[x]], dtype=torch.float64) for x in (0.5, 0.4))
    found = [
        plan.sigma(t, 1 - t, 1 - s, NONE).item()
        for plan in (Cap(0.1), Cap(0.9), Rescale(0.5), ForwardBackward(), FlowMatching(2.0, 0.5))
    ]
    assert found == pytest.approx([0.1, 0.8, 0.4, 0.2, 0.2])
    assert ForwardBackward().sigma(t / 5, 1 - t / 5, 1 - 0 * s, NONE).item() == 0  # held at most


def test_conf_masks_the_unsure_again_sooner():
    psi = torch.tensor([[0.9, torch.inf, 0.2, 0.5]], dtype=torch.float64)
    t = torch.full((1, 1), 0.5, dtype=torch.float64)
    got = Conf(Rescale(0.5)).sigma(t, 1 - t, 1.1 - t, psi)[0]
    weights = torch.tensor([-0.9, -torch.inf, -0.2, -0.5]).double().exp()
    torch.testing.assert_close(got, 0.4 * weights / weights.sum())
    assert not Conf().sigma(t, 1 - t, 1.1 - t, psi.fill_(torch.inf)).any()


def test_the_loop_rises_rests_and_ends_and_the_network_is_told_how_much_is_written():
    t = torch.tensor([[1.0], [0.8], [0.6], [0.4], [0.2], [0.1], [0.0]], dtype=torch.float64)
    level = LOOP.level(Cosine(), t)[:, 0]
    assert level.tolist() == pytest.approx([0, 0.35, 0.7, 0.7, 0.7, 0.85, 1])
    told = LOOP.clock(Cosine(), t)
    torch.testing.assert_close(Cosine().alpha(told)[:, 0], level)
    sigma = LOOP.sigma(t, level[:, None], level[:, None], NONE.expand(7, 1))[:, 0]
    assert sigma.tolist() == pytest.approx([0, 0, 0.3, 0.3, 0, 0, 0])


@pytest.mark.parametrize("plan", [Cap(0.0), Rescale(0.0), Loop(0.3, 0.5, 0.5, 0.5)])
def test_without_remasking_it_is_ancestral_sampling_bit_for_bit(plan):
    for n in (1, 4, 20):
        want = list(generate(predict, start(n=50), Ancestral(MASKED, n), seeds(50)))
        got = list(generate(predict, start(n=50), Remdm(MASKED, n, plan), seeds(50)))
        for one, two in zip(want, got, strict=False):
            assert torch.equal(one.tokens, two.tokens) and torch.equal(one.noisy, two.noisy)
        assert n >= len(got) >= len(want)


CANVASES = torch.cartesian_prod(*[torch.arange(V)] * L)
CODE = (CANVASES * torch.tensor([V * V, V, 1])).sum(-1)


def followed(n, level, sigma):
    """The chances of all canvases after each of n steps, each position by the card's two rows."""
    mass = torch.zeros(V**L, dtype=torch.float64)
    mass[CODE[(CANVASES == MASK).all(-1)]] = 1.0
    for i in range(n):
        t, s = 1 - i / n, max(0.0, 1 - (i + 1) / n)
        a, b = level(t), level(s)
        hide = min(sigma(t, a, b), (1 - b) / a) if a else 0.0
        show = (b - (1 - hide) * a) / (1 - a)
        xt = CANVASES[mass > 0]
        masked = (xt == MASK)[..., None]
        p = torch.where(masked, show * believed(xt), (1 - hide) * one_hot(xt, V).double())
        p[..., MASK] = hide + (1 - show - hide) * masked[..., 0].double()
        mass = mass[mass > 0] @ torch.einsum("na,nb,nc->nabc", *p.unbind(1)).flatten(1)
        yield b, mass


KNOWN = {  # plan: its level and its sigma, written by hand
    Cap(0.3): (lambda t: 1 - t, lambda t, a, b: 0.3),
    Rescale(0.4): (lambda t: 1 - t, lambda t, a, b: 0.4 * min(1, (1 - b) / a)),
    LOOP: (
        lambda t: (1 - t) * 1.75 if t > 0.6 else 0.7 if t > 0.2 else 1 - t * 1.5,
        lambda t, a, b: 0.3 if 0.2 < t <= 0.6 else 0.0,
    ),
}


@pytest.mark.parametrize("plan", KNOWN)
def test_the_law_of_every_canvas_is_the_enumerated_one(plan):
    n = 6
    found = list(generate(predict, start(), Remdm(MASKED, n, plan), seeds(N)))
    assert len(found) == n
    for canvas, (alpha, mass) in zip(found, followed(n, *KNOWN[plan]), strict=True):
        seen = (canvas.tokens[:, None] == CANVASES).all(-1).double().mean(0)
        assert distance(seen, mass) < 0.03
        shown = torch.stack([mass[CANVASES[:, i] != MASK].sum() for i in range(L)])
        torch.testing.assert_close(shown, torch.full_like(shown, alpha))  # the marginal, exactly


P_ALL = torch.zeros(V**L, dtype=torch.float64)
P_ALL[(torch.cartesian_prod(LETTERS, LETTERS, LETTERS) * torch.tensor([V * V, V, 1])).sum(-1)] = P


@pytest.mark.parametrize("plan", KNOWN)
def test_more_steps_lead_to_the_law_of_the_data_if_each_masks_less(plan):
    """Letters written in one step do not see each other, so a sigma that stays leaves a gap."""
    words, (level, sigma) = (CANVASES != MASK).all(-1), KNOWN[plan]

    def off(n, share):
        *_, (alpha, mass) = followed(n, level, lambda t, a, b: share * sigma(t, a, b))
        assert alpha == 1 and mass[words].sum().item() == pytest.approx(1)
        return distance(mass[words], P_ALL[words])

    far = [off(n, 5 / n) for n in (5, 20, 80)]
    assert far[2] < far[1] / 3 < far[0] / 6 and far[2] < 0.01 < off(80, 1)


def test_a_row_that_is_full_goes_on_until_its_last_step():
    n, full, seen = 12, 0, []
    for canvas in generate(predict, start(n=200), Remdm(MASKED, n, Cap(0.5)), seeds(200)):
        whole = ~canvas.open.any(-1)
        full += int((whole & canvas.going).sum())
        seen.append(whole)
    assert full > 100 and len(seen) == n and not canvas.going.any() and seen[-1].all()
    assert (torch.stack(seen[:-1]) & ~torch.stack(seen[1:])).any()  # some were opened again


def test_given_text_is_never_masked_and_a_done_row_never_opened():
    letter = P.argmax() // 3 % 3  # the middle of the likeliest word
    row = (None, LETTERS[letter].item(), None)
    for canvas in generate(predict, start(row, 300), Remdm(MASKED, 9, Cap(0.9)), seeds(300)):
        assert (canvas.tokens[:, 1] == row[1]).all() and not canvas.noisy[:, 1].any()
    logp = predict(canvas, None)
    after = Remdm(MASKED, 9, Cap(0.9)).step(replace(canvas, step=canvas.step - 5), logp, seeds(300))
    assert torch.equal(after.tokens, canvas.tokens) and not after.going.any()


def test_the_belief_that_a_token_was_written_with_is_kept_while_it_stands():
    way, before = Remdm(MASKED, 8, Conf()), start(n=100)
    for after in generate(predict, before, way, seeds(100)):
        psi = after.memo["psi"]
        assert torch.equal(psi == torch.inf, after.noisy)
        new = before.noisy & ~after.noisy
        p = predict(before, None).gather(-1, after.tokens[..., None]).squeeze(-1).exp()
        torch.testing.assert_close(psi[new], p[new])
        kept = ~before.noisy & ~after.noisy
        assert kept.sum() == 0 or torch.equal(psi[kept], before.memo["psi"][kept])
        before = after


def test_a_narrowed_draw_does_not_change_the_belief_that_is_kept():
    way = Remdm(MASKED, 1, Conf(), Draw(1.0, top_k=1))
    (after,) = generate(predict, start(n=1), way, Rng.seeds(0))
    top = conditional(torch.full((1, L), MASK))[0].max(-1)
    assert after.tokens[0].tolist() == top.indices.tolist()
    assert after.memo["psi"][0].tolist() == pytest.approx(top.values.tolist())


def test_a_remembered_belief_is_asked_for_again_when_a_row_is_opened():
    reuse = Reuse(predict)
    fast = list(generate(reuse, start(n=40), Remdm(MASKED, 30, Cap(0.2)), seeds(40)))
    slow = list(generate(predict, start(n=40), Remdm(MASKED, 30, Cap(0.2)), seeds(40)))
    assert all(torch.equal(a.tokens, b.tokens) for a, b in zip(fast, slow, strict=True))


@pytest.mark.parametrize("size", [2, 3])
def test_in_blocks_finished_blocks_stay_and_the_open_one_is_mended(size):
    class Two(Exact):
        """Any beliefs, from all that a block may see."""

        def features(self, x, t, *, mask, at=None, kv=None):
            seen = mask.dense(len(x), x.shape[1], x.shape[1]).double()
            return (seen @ one_hot(x, V).double()) * 0.3

    canvas, n, opened = blank([[None] * 6] * 30, MASK, 0), 5, 0
    front = Front(Two(), MASKED, size, 6, cached=False)
    assert front.finished == BlockCausal(size)
    before = canvas
    for i, after in enumerate(
        generate_blocks(front, canvas, Remdm(MASKED, n, Cap(0.9)), seeds(30))
    ):
        done = i // n * size
        assert torch.equal(after.tokens[:, :done], before.tokens[:, :done])
        opened += int((after.noisy & ~before.noisy).sum())
        before = after
    assert opened > 10 and not after.noisy.any() and i + 1 == n * 6 // size


def test_noise_with_random_tokens_is_refused_and_so_are_settings_that_are_none():
    for process in (Mixing(V, MASK, 1.0), Gidd(V, MASK)):
        with pytest.raises(BadInput, match="ancestral"):
            Remdm(process, 4)
    for plan in (Cap, Rescale, Loop):
        with pytest.raises(BadInput, match="eta"):
            plan(1.5)
    with pytest.raises(BadInput, match="t_off <= t_on"):
        Loop(0.1, t_on=0.2, t_off=0.4)
