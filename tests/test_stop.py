"""Where texts end: end tokens and stop strings at every place, at no cost behind them."""

import itertools
from dataclasses import replace

import pytest
import torch

from redraft.adapt.meter import Meter, Metered
from redraft.data.tokenizer import Bpe, Bytes
from redraft.errors import BadInput
from redraft.mask import BlockCausal
from redraft.process.mixing import Mixing
from redraft.sample.block import Front, generate_blocks
from redraft.sample.note import SURE, Noted
from redraft.sample.order import confidence, leftmost, margin, random
from redraft.sample.pick import Steps, Threshold, TopK
from redraft.sample.predict import bind, blank, generate
from redraft.sample.stop import Until
from redraft.sample.tally import Tally
from redraft.sample.unmask import Draw, Unmask
from redraft.types import Rng

MASK, END, V = 256, 257, 258
BYTES = Bytes().build(iter(()))
assert (BYTES.mask_id, BYTES.eos_id) == (MASK, END)
PROCESS = Mixing(V, MASK)
SAMPLERS = [
    Unmask(leftmost, TopK(1)),
    Unmask(confidence, Threshold(0.5)),
    Unmask(margin, Steps(3), Draw(1.0)),
    Unmask(random, TopK(2), Draw(1.0)),
]
every_sampler = pytest.mark.parametrize("sampler", SAMPLERS)


class Wanted:
    """A network that wants to write one text, whose positions it counts from the row's start."""

    timed, stores = False, False

    def __init__(self, ids, loud=50.0):
        self.ids, self.loud = ids, loud

    def features(self, x, t, *, mask, at=None, kv=None):
        return self(x, t, mask=mask)

    def head(self, h):
        return h

    def head_parameters(self):
        return []

    def __call__(self, x, t, *, mask):
        ids = torch.tensor([self.ids[i % len(self.ids)] for i in range(x.shape[1])])
        return torch.nn.functional.one_hot(ids, V).double().expand(*x.shape, V) * self.loud


def until(*stops, ends=(END,)):
    return Until(frozenset(ends), END, stops, BYTES.decode)


def told(model, row, sampler, block, how):
    """What becomes of a row: the answer, the meter, the last canvas."""
    meter, canvas = Meter(), blank([row], MASK, END)
    tally, close = Tally(how, meter), how.closing(canvas)
    model = Metered(model, meter)
    if block is None:
        predict = bind(model, PROCESS)
        canvases = generate(predict, canvas, sampler, Rng.seeds(0), close)
    else:
        front = Front(model, PROCESS, block, 64, cached=False)
        canvases = generate_blocks(front, canvas, sampler, Rng.seeds(0), close)
    for _ in tally.watch(itertools.chain([canvas], canvases)):
        pass
    return tally.answers()[0], meter, tally.last


TEXT = list(b"The cat sat on the mat, and there.")


@every_sampler
@pytest.mark.parametrize("block", [None, 4])
def test_an_end_in_every_place_ends_the_text_there(sampler, block):
    for place in range(3, 13):
        ids = [*TEXT[:place], END, *TEXT[place:]]
        answer, _, last = told(Wanted(ids), [*ids[:3], *[None] * 10], sampler, block, until())
        assert (answer.text, answer.finish_reason) == (bytes(ids[:place]).decode(), "eos")
        assert answer.ids == tuple(ids[3:place]) and answer.tokens == place - 3
        assert not last.noisy.any()


@pytest.mark.parametrize("sampler", [SAMPLERS[0], SAMPLERS[3]])
@pytest.mark.parametrize("block", [None, 3])
@pytest.mark.parametrize("stop", [",", "stop", "p é!"])
def test_a_stop_string_in_every_place_ends_the_text_before_it(sampler, block, stop):
    for place in range(8):
        whole = "abcdefgh"[:place] + "stop é!,.."
        ids = list(whole.encode())
        row = [*b"> ", *[None] * len(ids)]
        answer, _, last = told(Wanted([*b"> ", *ids]), row, sampler, block, until(stop))
        left = whole.index(stop)
        assert (answer.text, answer.finish_reason) == ("> " + whole[:left], "stop")
        assert answer.ids == tuple(whole[:left].encode())
        assert not last.noisy.any()


@pytest.mark.parametrize("block", [1, 3, 8])
def test_cost_follows_the_answer(block):
    """One token a pass: as many passes as tokens, and no block is begun that is not needed."""
    for place in range(10):
        ids = [*[65] * place, END, *[66] * 40]
        answer, meter, _ = told(Wanted(ids), [None] * 40, SAMPLERS[0], block, until())
        assert answer.forwards == meter.passes == place + 1
        stops = [*[65] * place, *b"; so it goes on", *[66] * 40]
        answer, meter, _ = told(Wanted(stops), [None] * 40, SAMPLERS[0], block, until("; "))
        assert answer.forwards == meter.passes == place + 2 and answer.tokens == place
        sure = Unmask(confidence, Threshold(0.5))
        _, meter, _ = told(Wanted(ids), [None] * 40, sure, block, until())
        assert meter.passes == place // block + 1, "a pass for each block that is needed"


def test_the_last_block_is_only_as_wide_as_the_text():
    meter = Meter()
    front = Front(Metered(Wanted([65]), meter), PROCESS, 8, 64, cached=False)
    list(generate_blocks(front, blank([[None] * 11], MASK, END), SAMPLERS[1], Rng.seeds(0), END))
    assert (meter.passes, meter.positions) == (2, 8 + 11)


@every_sampler
def test_an_early_end_changes_no_text(sampler):
    """Of a network whose beliefs depend on what stands there."""
    few = torch.tensor([97, 98, 99, END])

    class Table(Wanted):
        def __call__(self, x, t, *, mask):
            seen = self.ids[x] + self.ids[x].roll(1, 1) + self.ids[x].roll(-1, 1)
            logits = torch.full((*x.shape, V), -torch.inf, dtype=torch.float64)
            return logits.index_copy(-1, few, seen)

    never, found = Until(frozenset(), END, (), BYTES.decode), set()
    for stops in ((), ("ab",), ("ca", "bb")):
        for seed in range(5):
            dice = torch.Generator().manual_seed(seed)
            table = torch.randn(V, 4, generator=dice, dtype=torch.float64) * 2
            row = [97, *[None] * 12]
            _, meter, free = told(Table(table), row, sampler, None, never)
            want = until(*stops).closing(blank([row], MASK, END)).result(free, 0)
            early, less, _ = told(Table(table), row, sampler, None, until(*stops))
            assert (early.text, early.finish_reason) == (want.text, want.reason)
            assert less.passes <= meter.passes
            found.add((early.finish_reason, less.passes < meter.passes))
    assert {each for each, _ in found} >= {"eos", "stop"}
    assert any(less for _, less in found) or sampler == SAMPLERS[1], "which needs few passes"


def test_one_that_changes_its_mind_is_left_to_finish():
    class Fickle(Unmask):
        keeps = False

    ids = [65, END, *[66] * 10]
    for block, passes in ((None, 12), (4, 4)):
        answer, meter, _ = told(Wanted(ids), [None] * 12, Fickle(leftmost, TopK(1)), block, until())
        assert (answer.text, answer.forwards, meter.passes) == ("A", passes, passes)


def test_rows_end_each_for_itself():
    def row(how):
        canvas = blank([[65, *[None] * 8], [66, *[None] * 8], [67, None, None]], MASK, END)
        meter = Meter()
        tally = Tally(how, meter)
        front = Front(Metered(Wanted([*b"Aab.cd", END]), meter), PROCESS, 3, 64, cached=False)
        close = how.closing(canvas)
        canvases = generate_blocks(front, canvas, SAMPLERS[0], Rng.seeds(0, 1, 2), close)
        list(tally.watch(itertools.chain([canvas], canvases)))
        return tally.answers()

    one, two, three = row(until("Bab"))  # what was given is no part of a stop string
    assert (three.text, three.finish_reason, three.forwards) == ("Cab", "length", 2)
    assert three.seconds < one.seconds
    assert (one.text, one.finish_reason, one.forwards) == ("Aab.cd", "eos", 6)
    assert (two.text, two.finish_reason) == ("Bab.cd", "eos")
    one, two, _ = row(until("."))
    assert (one.text, one.tokens, two.text) == ("Aab", 2, "Bab")


def test_text_that_was_given_behind_a_gap_ends_nothing():
    row = [65, None, None, END, 66]
    answer, _, _ = told(Wanted([65, END, 67, END, 66]), row, SAMPLERS[1], None, until("B", "C"))
    assert (answer.finish_reason, answer.tokens) == ("length", 2)
    row = [65, None, None, 66, None, None]  # a gap, and an open end
    answer, _, _ = told(Wanted([65, 67, 67, 66, 68, END]), row, SAMPLERS[1], None, until())
    assert (answer.text, answer.ids, answer.finish_reason) == ("ACCBD", (67, 67, 68), "eos")


def test_the_shortest_beginning_that_holds_a_stop_string_counts():
    """Whatever the blocks: as if the tokens came one by one."""
    how = until("bc", "abcd")
    assert how.found([], list(b"xabcdbc")).text == "xa"
    assert until("abcd", "cd").found([], list(b"xabcdbc")).text == "x"
    assert until("b").found([], [*b"a", END, *b"b"]).reason == "eos"
    assert until("a").found(list(b"a"), list(b"bb")) is None


@pytest.fixture(scope="module")
def merged():
    text = ["the end is near, the end is here; naïve café 🤖 " * 20]
    return Bpe(300).build(iter(text))


def test_stop_strings_cross_the_borders_of_tokens(merged):
    """Every substring of a text, against the text itself, with tokens of several bytes."""
    whole = "the end is near 🤖; the café"
    ids = merged.encode(whole)
    assert len(ids) < len(whole)
    for a in range(len(whole)):
        for b in range(a + 1, min(a + 6, len(whole)) + 1):
            stop = whole[a:b]
            how = Until(frozenset({merged.eos_id}), merged.eos_id, (stop,), merged.decode)
            found = how.found([], ids)
            assert found.text == whole[: whole.index(stop)], stop
            kept = merged.decode(ids[: found.kept]).rstrip("\ufffd")
            assert kept.startswith(found.text), stop
            assert found.kept == 0 or len(merged.decode(ids[: found.kept - 1])) <= len(found.text)


def test_half_a_character_is_no_stop_string():
    ids = list("é".encode())
    how = until("\ufffd", "e")
    assert how.found([], ids[:1]) is None and how.found([], ids) is None
    assert until("é").found(ids[:1], ids[1:]).text == ""


def test_stop_strings_that_make_no_sense_are_refused():
    with pytest.raises(BadInput, match="empty stop string"):
        until("")
    with pytest.raises(BadInput, match="tokenizer"):
        Until(frozenset(), END, ("a",))


@every_sampler
def test_what_is_noted_is_what_the_model_believed(sampler):
    canvas = blank([[65, None, None, None], [66, None]], MASK, END)
    predict = bind(Wanted([65, 66, 67, 68], loud=3.0), PROCESS)
    *_, plain = generate(predict, canvas, sampler, Rng.seeds(0, 1))
    before = canvas
    for after in generate(predict, canvas, Noted(sampler), Rng.seeds(0, 1)):
        said, fresh = after.memo[SURE], before.noisy & ~after.noisy
        logp = predict(before, None).gather(-1, after.tokens[..., None]).squeeze(-1)
        assert torch.equal(said[fresh], logp[fresh].double())
        assert said[~canvas.open | after.noisy].isnan().all()
        assert not said[canvas.open & ~after.noisy].isnan().any()
        before = after
    assert torch.equal(before.tokens, plain.tokens)


def test_what_is_written_over_is_noted_anew():
    class Edits(Unmask):
        def step(self, canvas, logp, rng):
            return replace(canvas, tokens=torch.tensor([[66, 67]]), step=canvas.step + 1)

    canvas = replace(blank([[65, 67]], MASK, END), window=torch.ones(1, 2, dtype=torch.bool))
    logp = torch.randn(1, 2, V).log_softmax(-1)
    said = Noted(Edits()).step(canvas, logp, Rng.seeds(0)).memo[SURE]
    assert said[0, 0] == logp[0, 0, 66].double() and said[0, 1].isnan()


def test_blocks_carry_what_was_noted():
    canvas = blank([[65, *[None] * 6], [66, *[None] * 4]], MASK, END)
    front = Front(Wanted([65, 66, 67], loud=3.0), PROCESS, 3, 64, cached=False)
    *_, last = generate_blocks(front, canvas, Noted(SAMPLERS[1]), Rng.seeds(0, 1))
    assert torch.equal(~last.memo[SURE].isnan(), canvas.open)
    assert BlockCausal(3) == front.finished
    led = last.led(67)
    assert led.memo[SURE].shape == led.tokens.shape and led.memo[SURE][:, 0].isnan().all()
    assert torch.equal(led.memo[SURE][:, 1:].isnan(), last.memo[SURE].isnan())
