"""Canvases that grow: to the length the model expects, where it is unsure, or block after block."""

from dataclasses import replace

import pytest
import torch

from redraft.errors import BadInput
from redraft.sample.daedal import Daedal, Row
from redraft.sample.grow import Append, begun
from redraft.sample.note import SURE
from redraft.sample.order import confidence, leftmost, random
from redraft.sample.pick import TopK
from redraft.sample.predict import bind, blank
from redraft.sample.unmask import Draw, Unmask
from redraft.types import Rng
from tests.test_cli import redo, refused, work  # noqa: F401
from tests.test_filling import model as toy
from tests.test_filling import neighbours
from tests.test_stop import END, MASK, PROCESS, V, Wanted, until

SMALL = Daedal(MASK, first=8, by=4, most=40, reach=4, window=6)


def beliefs(*rows):
    """One row of log-probabilities, of (token, probability); the others share what is left."""
    p = torch.zeros(len(rows), V, dtype=torch.float64)
    for i, (token, chance) in enumerate(rows):
        p[i] = (1 - chance) / (V - 1)
        p[i, token] = chance
    return p.log()


def test_how_sure_the_end_is():
    how = Daedal(MASK)
    text, end = (65, 0.9), (END, 1.0)
    assert how.ending(beliefs(*[end] * 40), until()) == 1.0
    assert how.ending(beliefs(*[text] * 40, *[end] * 8), until()) == 0.25
    assert how.ending(beliefs(*[end] * 40, text), until()) == 0
    assert how.ending(beliefs((END, 0.8), (END, 0.6)), until()) == pytest.approx(1.4 / 32)
    assert how.ending(beliefs((65, 0.6)), until()) == 0, "not the likeliest"
    wide = replace(how, scattered=True)
    assert wide.ending(beliefs(*[end] * 8, text, *[end] * 8, text), until()) == 0.5


class Sized(Wanted):
    """Wants a text, and end tokens behind it; what it does not know yet it is unsure of."""

    def __init__(self, ids, unsure=()):
        super().__init__(ids)
        self.unsure = unsure

    def __call__(self, x, t, *, mask):
        ids = torch.tensor([self.ids[i] if i < len(self.ids) else END for i in range(x.shape[1])])
        logits = torch.nn.functional.one_hot(ids, V).double() * 50
        logits[[i for i in self.unsure if i < len(ids)]] /= 50
        return logits.expand(*x.shape, V)


def grown(model, how, rows, seed=0):
    canvas = blank([[*row, *[None] * how.begin(how.most)[0]] for row in rows], MASK, END)
    rng = Rng.seeds(*range(seed, seed + len(rows)))
    canvases = list(how.write(bind(model, PROCESS), canvas, rng, until()))
    closing = until().closing(canvases[-1])
    return canvases, [closing.result(canvases[-1], i) for i in range(len(rows))]


@pytest.mark.parametrize("size", [0, 1, 5, 6, 7, 13, 20, 33])
def test_the_first_length_is_found_by_adding(size):
    """8 + 4 k masks until half of the last 4 are sure to be ends; then 2 places for ends."""
    text = [65 + i % 20 for i in range(size)]
    canvases, (found,) = grown(Sized([*b"> ", *text]), SMALL, [list(b"> ")])
    assert (found.text, found.reason) == ("> " + bytes(text).decode(), "eos")
    lengths = [int((c.doc >= 0).sum()) - 2 for c in canvases]
    measured = next(n for n in range(8, 44, 4) if n >= size + 2)
    assert lengths[: (measured - 8) // 4 + 1] == [*range(12, measured + 1, 4), measured + 2]
    assert set(lengths[(measured - 8) // 4 :]) == {measured + 2}


def test_there_is_an_end_to_growth():
    canvases, (found,) = grown(Sized([65] * 99), SMALL, [[66]])
    assert canvases[-1].tokens.shape[1] == 41 and found.reason == "length"
    assert found.text == "B" + "A" * 40 and found.kept == 40
    assert SMALL.begin(5)[0] == 5 and SMALL.begin(5)[1].most == 5
    canvases, (found,) = grown(Sized([65] * 99), SMALL.begin(5)[1], [[66]])
    assert found.text == "B" + "A" * 5


def test_the_least_sure_position_becomes_several_and_all_that_is_written_stays():
    how = replace(SMALL, enough=0.0, reach=2)  # no more masks at the end
    row = Row([66, *[MASK] * 6], [False, *[True] * 6], [torch.nan] * 7, 1, stage="write")
    logp = beliefs((66, 1), (65, 0.95), (67, 0.09), (67, 0.08), (68, 0.95), (67, 0.5), (67, 0.5))
    how.step(row, torch.cat([logp]), until())
    assert row.tokens == [66, 65, MASK, MASK, MASK, MASK, MASK, 68, MASK, MASK]
    assert [i for i, noisy in enumerate(row.noisy) if not noisy] == [0, 1, 7]
    assert row.own == 6 + how.by - 1
    sure = replace(how, ready=0.0)
    row = Row([66, *[MASK] * 6], [False, *[True] * 6], [torch.nan] * 7, 1, stage="write")
    sure.step(row, logp, until())
    assert row.own == 6, "nothing is inserted where the end is sure"
    full = replace(how, most=7)
    row = Row([66, *[MASK] * 6], [False, *[True] * 6], [torch.nan] * 7, 1, stage="write")
    full.step(row, logp, until())
    assert row.own == 7, "nor beyond the most"


@pytest.mark.parametrize("seed", range(4))
def test_what_was_given_or_written_never_changes_its_order(seed):
    dice = torch.Generator().manual_seed(seed)
    ids = torch.randint(97, 123, (30,), generator=dice).tolist()
    unsure = set(torch.randint(3, 30, (6,), generator=dice).tolist())
    canvases, found = grown(Sized(ids, unsure), SMALL, [ids[:3], ids[:2]])
    for row in range(2):
        before: list[int] = []
        for canvas in canvases:
            own = (canvas.doc[row] >= 0) & ~canvas.noisy[row]
            now = canvas.tokens[row][own].tolist()
            rest = iter(now)
            assert all(token in rest for token in before), "a subsequence"
            before = now
        assert before[: 3 - row] == ids[: 3 - row] and not canvases[-1].noisy.any()
        alone, (one,) = grown(Sized(ids, unsure), SMALL, [ids[: 3 - row]])
        assert (one.text, one.reason) == (found[row].text, found[row].reason)
        said = canvases[-1].memo[SURE][row]
        assert (said[: 3 - row].isnan()).all() and (said.nan_to_num(0) <= 0).all() and alone


@pytest.mark.parametrize("block", [1, 3, 4, 16])
@pytest.mark.parametrize("inner", [Unmask(leftmost, TopK(1)), Unmask(random, TopK(2), Draw(1.0))])
def test_blocks_are_added_until_there_is_an_end(block, inner):
    for size in (0, 1, 3, 4, 7, 14):
        text, how = [*b"> ", *[65] * size], Append(inner, MASK, block, most=14)
        canvases, (found,) = grown(Sized(text), how, [list(b"> ")])
        want = ("> " + "A" * size, "length" if size == 14 else "eos")
        assert (found.text, found.reason) == want
        blocks = min(-(-(size + 1) // block) * block, 14)
        assert canvases[-1].tokens.shape[1] - 2 == blocks, "as many as are needed"
        assert not canvases[-1].noisy.any()
        if inner.score is leftmost:
            assert len(canvases) == min(size + 1, 14)


def test_rows_with_blocks_added_are_what_they_are_alone():
    class Own(Sized):
        def __call__(self, x, t, *, mask):
            sizes = [int(row[0]) - 60 for row in x]
            rows = zip(x, sizes, strict=True)
            return torch.cat([Sized([65] * n)(row[None], t, mask=mask) for row, n in rows])

    how = Append(Unmask(random, TopK(1), Draw(1.0)), MASK, 3, most=20).noted()
    canvases, found = grown(Own([]), how, [[65], [75], [61]])
    assert [each.kept for each in found] == [4, 14, 0]
    for i, first in enumerate((65, 75, 61)):
        alone, (one,) = grown(Own([]), how, [[first]], seed=i)
        assert one == found[i]
        width = alone[-1].tokens.shape[1]
        assert torch.equal(alone[-1].tokens[0], canvases[-1].tokens[i, :width])
        assert (canvases[-1].doc[i, width:] == -1).all()
        written = ~alone[-1].memo[SURE][0].isnan()
        assert torch.equal(written, ~canvases[-1].memo[SURE][i, :width].isnan())


def test_a_model_writes_and_tells(tmp_path):
    pre = toy(neighbours)
    how = Append(Unmask(confidence, TopK(2)), MASK, block=4)
    (answer,) = pre.answers("ab", length=10, sampler=how)
    assert answer.finish_reason == "length" and answer.tokens == 10 and answer.forwards == 5
    assert answer.text.startswith("ab") and len(answer.text) == 12
    (answer,) = pre.answers("ab", length=30, sampler=SMALL)
    assert answer.finish_reason == "eos" or answer.tokens == 30
    for other in (replace(PROCESS, p_uniform=1.0),):
        with pytest.raises(BadInput, match="masks that see all"):
            replace(pre, process=other).generate("ab", sampler=how)
    with pytest.raises(BadInput, match="no gaps"):
        canvas = blank([[65, None, 66]], MASK, END)
        list(SMALL.write(bind(Wanted([65]), PROCESS), canvas, Rng.seeds(0), until()))
    assert begun(pre, 7, None) == (7, None)
    with pytest.raises(BadInput, match="1 or more"):
        Append(how.inner, MASK, 0)
    with pytest.raises(BadInput, match="1 or more"):
        replace(SMALL, window=0)


def test_growth_from_the_command_line(redo):  # noqa: F811
    words = ["generate", "runs/mdlm", "--prompt", "To", "--length", "12", "--json", "--grow"]
    for more in (["daedal"], ["daedal", "--block", "4"], ["append", "--block", "4"], ["append"]):
        code, out, err = redo(*words, *more, "--trace", "t")
        assert code == 0 and '"finish_reason": "' in out, err
        code, told, _ = redo("replay", "t")
        assert code == 0 and " after " in told
    refused(redo(*words, "daedal", "--steps", "4"), "--grow daedal", "--steps")
    refused(redo(*words, "daedal", "--order", "left"), "--grow daedal", "--order")
    refused(redo("generate", "runs/ar", "--grow", "append"), "masks that see all")
