"""`--correct`: its words, what they build, and what they do in whole models."""

from pathlib import Path

import pytest
import torch

from redraft.choose import Order, options, sampler_of
from redraft.correction import WAYS, parsed
from redraft.data.tokenizer import Bytes
from redraft.errors import BadInput
from redraft.mask import BlockCausal, Full
from redraft.model.llama import LlamaConfig
from redraft.objective.block import BlockNELBO
from redraft.objective.nelbo import NELBO, GeneralNELBO
from redraft.pretrained import WRITING, Pretrained
from redraft.process.gidd import Gidd
from redraft.process.mixing import Mixing
from redraft.process.reading import X0
from redraft.sample.block import Front, generate_blocks
from redraft.sample.edit import Edited
from redraft.sample.note import SURE
from redraft.sample.order import confidence, leftmost, random
from redraft.sample.pick import Steps, TopK
from redraft.sample.plan import Planned
from redraft.sample.predict import blank, generate
from redraft.sample.refine import Redrafted, reopened
from redraft.sample.remask import Cap, Conf, Loop, Remdm, Rescale
from redraft.sample.unmask import Draw, Unmask
from redraft.sample.wino import Wino
from tests.test_model import loud
from tests.test_sample import MASK, PAD, L, rng, world

TOKENS = Bytes().build(iter(()))
CONFIG = LlamaConfig(TOKENS.vocab_size, 16, 1, 2, 2, 24, 24)


def model(size=None, process=None):
    """A network of bytes that has learned nothing, in full sight or in blocks."""
    process = process or Mixing(TOKENS.vocab_size, TOKENS.mask_id)
    mask = Full() if size is None else BlockCausal(size)
    plain = NELBO if process.absorbing else GeneralNELBO
    trained = plain(process) if size is None else BlockNELBO(process, size)
    return Pretrained(loud(CONFIG), TOKENS, process, mask, trained, 24, Path("a model"))


def chosen(text, of=None, order=None, tokens=8, **given):
    names = ("temperature", "top_k", "top_p", "steps", "threshold")
    asked = options(*(given.get(name) for name in names), text)
    return sampler_of(of or model(), tokens, order, Order.random, WRITING, asked)


def test_words_are_parsed():
    assert parsed("64") == ("gidd", {"rounds": 64})
    assert parsed("remdm") == ("remdm", {})
    assert parsed("remdm:loop,eta=0.1") == ("remdm", {"plan": "loop", "eta": 0.1})
    assert parsed("wino:exact,keep=0.8") == ("wino", {"exact": True, "keep": 0.8})
    assert parsed("p2:score=random") == parsed("p2:random") == ("p2", {"score": "random"})


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("nothing", "remdm"),
        ("remdm:speed=1", "its options are plan, eta"),
        ("edit:budget=few", "no value for budget"),
        ("edit:budget", "its options are tau, rounds, budget"),
        ("wino:exact=perhaps", "no value for exact"),
        ("p2:score=margin", "no value for score"),
    ],
)
def test_words_that_mean_nothing_are_refused(text, word):
    with pytest.raises(BadInput, match=word):
        parsed(text)


def test_words_become_samplers():
    full = model()
    assert chosen("remdm", full) == Remdm(full.process, 8, Rescale(), Draw(1.0))
    assert chosen("remdm:cap,eta=0.1", full, steps=20) == Remdm(
        full.process, 20, Cap(0.1), Draw(1.0)
    )
    assert chosen("remdm:conf", full, top_p=0.9).plan == Conf(Rescale(1.0))
    assert chosen("remdm:loop,t_on=0.5", full, Order.ancestral).plan == Loop(t_on=0.5)
    assert chosen("p2:eta=2", full, steps=4) == Planned(full.process, Steps(4), WRITING, eta=2.0)
    assert chosen("wino:keep=0.8", full, temperature=0.0) == Wino(full.process, keep=0.8)
    way = chosen("edit:tau=0.2,budget=3", full, threshold=0.4)
    assert isinstance(way, Edited) and way.inner.pick.tau == 0.4 and way.budget == 3
    assert chosen("dcd:span=5", full).pick.span == 5
    one = Unmask(random, Steps(4), WRITING)
    assert chosen("did:share=0.5", full) == Redrafted(one, one, TOKENS.mask_id, 4, (0.5,))


def test_what_cannot_be_is_refused_with_what_can():
    uniform = model(process=Mixing(TOKENS.vocab_size, None, 1.0))
    for text, of, order, given, word in (
        ("remdm", uniform, None, {}, "choose gidd"),
        ("gidd", None, None, {}, "choose remdm, p2, wino"),
        ("64", None, None, {}, "choose remdm"),
        ("remdm", None, Order.margin, {}, "--order ancestral"),
        ("gidd", uniform, Order.tweedie, {}, "--order ancestral"),
        ("remdm", None, None, {"threshold": 0.5}, "--threshold"),
        ("wino", None, None, {"steps": 5}, "--steps"),
        ("p2", None, None, {"steps": 5, "threshold": 0.5}, "--threshold does not go with --steps"),
        ("remdm:cap,t_on=0.5", None, None, {}, "does not read t_on"),
        ("remdm:plan=fast", None, None, {}, "cap, rescale"),
        ("did:size=3", model(4), None, {}, "its own blocks"),
    ):
        with pytest.raises(BadInput, match=word):
            chosen(text, of, order, **given)


SHORT = {
    "remdm": "remdm:cap,eta=0.4",
    "p2": "p2:eta=2",
    "wino": "wino:accept=0.05,keep=0.1",
    "edit": "edit:tau=0.1,rounds=2",
    "did": "did:share=0.5",
    "dcd": "dcd:span=3",
}


@pytest.mark.parametrize("size", [None, 4])
@pytest.mark.parametrize("name", [name for name, way in WAYS.items() if not way.random])
def test_a_model_writes_so_in_full_sight_and_in_blocks(name, size):
    writer = model(size)
    sampler = chosen(SHORT[name], writer, tokens=10)
    texts = []
    for seeds in ((0, 1), (1,)):
        *_, last = writer.stream("ab", len(seeds), 10, sampler, seeds[0])
        assert not last.noisy.any() and (last.tokens != TOKENS.mask_id).all()
        assert (last.tokens[:, :2] == torch.tensor([97, 98])).all()
        texts.append(last.tokens)
    assert torch.equal(texts[0][1], texts[1][0])  # alone as beside another


def test_gidd_mends_inside_the_open_block():
    """Within blocks too: finished ones stay, the open one comes to agree with the network."""
    process = Gidd(TOKENS.vocab_size, TOKENS.mask_id, 0.2, reading=X0())
    full = model(process=process)
    sampler = chosen("gidd:rounds=6,temperature=0", full, tokens=4)
    noise = process.start(blank([[None] * 8] * 3, TOKENS.mask_id, 0), rng(0, 1, 2))
    edited, before = 0, None
    for canvas in generate_blocks(Front(full.model, process, 4, 8), noise, sampler, rng(0, 1, 2)):
        if before is not None:
            stood = ~before.noisy & ~canvas.noisy
            edited += int((stood & (before.tokens != canvas.tokens)).sum())
            if (~before.noisy[:, 4:]).any():
                assert torch.equal(before.tokens[:, :4], canvas.tokens[:, :4])
        before = canvas
    assert edited > 0 and not canvas.noisy.any()


# Diffusion in Diffusion


def drafted(share, shares=None, again=None):
    canvas = blank([[5, *[None] * (L - 1)]] * 2, MASK, PAD)
    again = again or Unmask(leftmost, TopK(1), Draw(1.0))
    way = Redrafted(Unmask(leftmost, TopK(1), Draw(1.0)), again, MASK, 3, shares or (share,))
    draft = list(way.drafted(world, canvas, rng(0, 1)))
    return draft, list(way.write(iter(draft), world, rng(0, 1)))


def test_with_nothing_to_write_anew_the_draft_is_the_text():
    draft, seen = drafted(0.0)
    assert len(seen) == len(draft) and torch.equal(seen[-1].tokens, draft[-1].tokens)


def test_as_many_as_asked_are_written_anew_and_the_others_stay():
    draft, seen = drafted(0.5)
    n = (L - 1) // 2
    opened = seen[len(draft)]
    assert opened.noisy.sum(-1).tolist() == [n, n]
    assert torch.equal(seen[-1].tokens[~opened.noisy], draft[-1].tokens[~opened.noisy])
    sure = draft[-1].memo[SURE]
    for row in range(2):
        assert sure[row][opened.noisy[row]].max() <= sure[row][1:][~opened.noisy[row][1:]].min()
    assert len(seen) == len(draft) + 1 + n and not seen[-1].noisy.any()


def test_snapshots_are_of_the_step_that_wrote_and_nothing_later_changes_them():
    draft, _ = drafted(0.5)
    before = blank([[5, *[None] * (L - 1)]] * 2, MASK, PAD)
    for after in draft:
        new = before.noisy & ~after.noisy
        said = world(before).gather(-1, after.tokens[..., None])[..., 0].double()
        torch.testing.assert_close(after.memo[SURE][new], said[new])
        old = ~before.noisy & ~after.noisy & after.window
        if SURE in before.memo:
            assert torch.equal(after.memo[SURE][old], before.memo[SURE][old])
        before = after


def test_with_all_written_anew_nothing_is_left_of_the_draft():
    texts = []
    for seed in (0, 7):
        canvas = blank([[None] * L], MASK, PAD)
        one = Unmask(leftmost, TopK(1), Draw(1.0))
        way = Redrafted(one, Unmask(confidence, TopK(2), Draw(0.0)), MASK, 3, (1.0,))
        draft = way.drafted(world, canvas, rng(seed))
        *_, last = way.write(draft, world, rng(0))
        texts.append(last.tokens)
    *_, plain = generate(world, canvas, way.again, rng(0))
    assert torch.equal(texts[0], texts[1]) and torch.equal(texts[0], plain.tokens)


def test_stages_and_steps_add_up_and_the_draft_goes_block_by_block():
    draft, seen = drafted(0.5, (0.5, 0.2))
    steps = [int(each.step[0]) for each in seen]
    assert steps == sorted(steps) and steps[-1] == (L - 1) + 5 + 2
    for canvas in draft:
        begun = (~canvas.noisy[0]).nonzero()[-1].item()
        assert not canvas.noisy[0, : 1 + (begun - 1) // 3 * 3].any()
    assert reopened(draft[-1], 0.0, MASK).noisy.sum() == 0
    with pytest.raises(BadInput, match="share"):
        drafted(1.5)


def test_in_blocks_of_full_attention_a_cache_must_run_what_is_judged():
    from redraft.cache.policy import Delayed, Dual, Prefix, Watched
    from redraft.sample.window import Windows

    writer = model()
    edits = chosen("edit:tau=0.1,rounds=2", writer, tokens=4)
    for policy in (None, Prefix(), Dual(), Watched(Dual())):
        way = Windows(edits, 4) if policy is None else Windows(edits, 4, policy)
        *_, last = writer.stream("ab", 2, 10, way, 0)
        assert not last.noisy.any()
    for policy in (Delayed(), Watched(Delayed())):
        with pytest.raises(BadInput, match="dual or prefix"):
            list(writer.stream("ab", 1, 8, Windows(edits, 4, policy), 0))
    *_, last = writer.stream(
        "ab", 2, 10, Windows(chosen("remdm:cap,eta=0.5", writer), 4, Dual()), 0
    )
    assert not last.noisy.any()
    with pytest.raises(BadInput, match="second belief"):
        list(writer.stream("ab", 1, 8, Windows(chosen("wino", writer), 4), 0))


@pytest.mark.parametrize("name", ["llada21", "remdm", "p2", "wino"])
@pytest.mark.parametrize("size", [None, 4])
def test_presets_that_take_back_write_in_full_sight_and_in_blocks(name, size):
    from redraft.choose import way_of

    writer = model(size)
    nothing = dict.fromkeys(("preset", "block", "cache", "drift", "prompt-weight"))
    asked = options(None, None, None, None, None, None)
    way = way_of(writer, 9, None, Order.random, WRITING, asked, nothing | {"preset": name})
    assert way.sampler.reopens
    *_, last = writer.stream("ab", 2, 9, way, 0)
    assert not last.noisy.any() and (last.tokens != TOKENS.mask_id).all()
