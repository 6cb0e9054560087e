"""The probes of `redraft doctor`, each on networks and tokenizers that are known exactly."""

import pytest
import torch
from rich.console import Console
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from torch.nn import functional as F

from redraft.adapt.lora import Lora
from redraft.adapt.shift import NextTokenConfig
from redraft.adapt.side import SideConfig
from redraft.data.tokenizer import Bpe, Bytes
from redraft.data.tokenizer import Tokenizer as Ours
from redraft.doctor.page import show
from redraft.doctor.sample import TEXT
from redraft.eval.doctor import alignment, attention, loss, tokens, verdicts
from redraft.eval.doctor.finding import Finding
from redraft.eval.doctor.leak import Leaks, crossing, leaks
from redraft.eval.doctor.loss import Measured, measure
from redraft.eval.doctor.numbers import context, heads, look, mask_row, overflow, weights
from redraft.eval.doctor.report import Report, Sight
from redraft.eval.doctor.template import template
from redraft.mask import BlockCausal, Full
from redraft.model.llama import LlamaConfig
from redraft.objective.ar import CrossEntropy
from redraft.objective.block import BlockAnyOrder
from redraft.objective.dual import DualBound
from redraft.objective.nelbo import AnyOrder
from redraft.process.mixing import Mixing
from redraft.types import Loss

V, MASK, L = 6, 4, 24
P = Mixing(V, MASK)
LLAMA = LlamaConfig(V, 16, 1, 2, 2, 16, 2 * L)
ROWS = torch.arange(6 * L).view(6, L).remainder(7).remainder(4)  # 0 1 2 3 0 1 2, again and again
ROW = ROWS[:1]


class Sees:
    """A network whose row i is the sum of what tokens give that a pattern lets it see."""

    timed = False

    def __init__(self, pattern):
        self.pattern = pattern

    def features(self, x, t=None, *, mask=None, at=None):
        seen = self.pattern[: x.shape[1], : x.shape[1]].float()
        return seen @ F.one_hot(x, V).float()


class Knows:
    """A network whose row i is almost sure of token i + offset of a text that it knows."""

    timed = False

    def __init__(self, text, offset, sure=6.0):
        self.text, self.offset, self.sure = text, offset, sure

    def features(self, x, t=None, *, mask=None, at=None):
        return F.one_hot(self.text[:, : x.shape[1]].roll(-self.offset, 1), V) * self.sure

    def head(self, h):
        return h


def judged(canvas, model, fresh=False):
    nats = alignment.probe(model, canvas, None, MASK)
    return alignment.decide(canvas, nats, V - 1, fresh)


@pytest.mark.parametrize("offset", [-1, 0, 1, 2])
def test_what_a_row_speaks_of_is_found(offset):
    canvas = alignment.masked(ROWS, MASK)
    assert judged(canvas, Knows(ROWS, offset)).offset == offset
    assert judged(canvas, Knows(ROWS, offset), fresh=True).offset is None
    assert judged(canvas, Knows(ROWS, offset, 0.0)).offset is None  # knows nothing


class Unigrams(Knows):
    """A network that knows how frequent tokens are, and no more."""

    def features(self, x, t=None, *, mask=None, at=None):
        counts = torch.bincount(self.text.flatten(), minlength=V).double() + 1e-3
        return (counts / counts.sum()).log().expand(*x.shape, V)


def test_readings_that_are_equally_good_are_not_told_apart():
    found = judged(alignment.masked(ROWS, MASK), Unigrams(ROWS, 0))
    assert found.offset is None and found.best < found.uniform - 0.2


def test_a_network_that_is_shown_its_tokens_may_copy_them():
    canvas = alignment.causal(ROWS)
    found = judged(canvas, Knows(ROWS, 0))
    assert found.copies and found.offset is None
    assert not judged(canvas, Knows(ROWS, 1)).copies
    assert judged(canvas, Knows(ROWS, 2)).offset == 2  # labels that were shifted twice
    [finding] = verdicts.alignment(judged(canvas, Knows(ROWS, 2)), 1, "it")
    assert "row i speaks of token i+2, and by it it should be token i+1" in finding.what


def test_canvases_hide_what_they_ask_for():
    masked = alignment.masked(ROWS, MASK)
    assert bool((masked.x[masked.asked] == MASK).all()) and masked.asked.any(1).all()
    assert not masked.asked[:, :2].any() and not masked.asked[:, -1].any()
    begun = alignment.causal(ROWS, 5)
    assert begun.x.shape == ROWS.shape and begun.x[:, 0].eq(5).all()  # no longer than a context
    blocks = alignment.blocks(ROWS, MASK, 4)
    assert bool((blocks.x[blocks.asked] == MASK).all())
    assert not blocks.noised[:, :-4].any() and blocks.noised[:, -4:].all()
    assert torch.equal(blocks.x[~blocks.asked], blocks.clean[~blocks.asked])


def test_every_known_layout_is_named_by_itself():
    for layout in [*attention.layouts(12)]:
        assert attention.named(layout.seen) == layout.name
    for layout in [*attention.layouts(L)][::6]:
        found = attention.reacts(Sees(layout.seen), ROW, V, Full(), banned=(MASK,))
        assert torch.equal(found, layout.seen), layout.name


def test_layouts_without_a_name():
    other = torch.eye(L, dtype=torch.bool).flip(0)
    assert attention.named(other) == "other"
    far = attention.dense(Full(), L).clone()
    far[2:8, 15:] = False
    assert attention.named(far) == "other" and attention.named(far, far | True) == "full"


@pytest.mark.parametrize(
    ("pattern", "mask", "words"),
    [
        (Full(), BlockCausal(1), "attention is full, and by it causal: row 0 reacts to token 1"),
        (BlockCausal(4), BlockCausal(1), "block-causal, blocks of 4, and by it causal"),
        (BlockCausal(8), BlockCausal(4), "blocks of 8, and by it block-causal, blocks of 4"),
        (BlockCausal(1), Full(), "attention is causal, and by it full: 48 % of what it may see"),
    ],
)
def test_a_network_that_does_not_keep_to_its_mask(pattern, mask, words):
    seen, allowed = attention.dense(pattern, L), attention.dense(mask, L)
    [finding] = verdicts.layout(seen, allowed, False, "it")
    assert words in finding.what
    assert not [*verdicts.layout(allowed, allowed, False, "it")]


def test_attention_that_does_nothing():
    itself = torch.eye(L, dtype=torch.bool)
    [finding] = verdicts.layout(itself, itself | True, False, "it")
    assert "every row sees itself only" in finding.what
    assert not [*verdicts.layout(itself, itself | True, True, "it")]  # never trained
    [note] = verdicts.layout(itself, itself | True, False, "it", sure=False)
    assert finding.wrong and not note.wrong


class Careless:
    """An objective that scores every row of a network under a mask of its choice."""

    exact, process = True, P

    def __init__(self, mask):
        self.mask = mask

    def bound(self, timed):
        return self

    def scored(self, model, batch, rng):
        model.features(batch.tokens, None, mask=self.mask)
        nats = torch.ones(batch.tokens.shape)
        return Loss(nats.sum(), batch.target.sum()), nats, None


class Smeared(BlockAnyOrder):
    """Block diffusion whose clean half sees the noise."""

    def scored(self, model, batch, rng):
        share, noised = self.noise(batch, rng)
        xt = torch.where(noised, MASK, batch.tokens)
        x = torch.cat([xt, batch.tokens], 1)
        model.features(x, None, mask=Full())
        return Loss(share.sum(), batch.target.sum()), noised.float(), share


def network(config=LLAMA):
    torch.manual_seed(0)
    model = config.build().eval()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return model


@pytest.mark.parametrize(
    ("objective", "config", "size"),
    [
        (CrossEntropy(P), NextTokenConfig(LLAMA, 5), 1),
        (AnyOrder(P), LLAMA, None),
        (BlockAnyOrder(P, 4), LLAMA, 4),
        (BlockAnyOrder(P, 1), LLAMA, 1),
    ],
)
def test_sound_objectives_do_not_leak(objective, config, size):
    found = leaks(objective, network(config), ROW, V, size)
    assert found == Leaks(scored=found.scored) and found.scored
    assert not [*verdicts.leaks(found)]


class Choosy(AnyOrder):
    """Hides the tokens 0 only, whatever was drawn."""

    def scored(self, model, batch, rng):
        hidden = batch.tokens == 0
        model.features(batch.tokens.masked_fill(hidden, MASK), None, mask=Full())
        return Loss(hidden.sum().float(), batch.target.sum()), hidden.float(), None


def test_noise_that_depends_on_the_tokens_is_no_leak():
    assert leaks(Choosy(P), network(), ROW, V, None) == Leaks(scored=int((ROW == 0).sum()))


class Foreseen:
    """An objective that says of every token something about the last one of the row."""

    exact, process, mask = False, P, Full()

    def scored(self, model, batch, rng):
        nats = 1 + batch.tokens[:, -1:].expand(batch.tokens.shape).float()
        return Loss(nats.sum(), batch.target.sum()), nats, torch.zeros(nats.shape)

    def bound(self, timed):
        return self


def test_leaks_beside_a_frozen_network():
    side = SideConfig(LLAMA, MASK, 5, Lora(2, 2.0))
    found = crossing(DualBound(P, 4), network(side), ROW, 4)
    assert found == Leaks(scored=found.scored) and found.scored > L / 2
    found = crossing(Foreseen(), network(), ROW, 4)
    assert found.later == tuple((q, L - 1) for q in range(L - 4)) and not found.hidden


def test_leaks_are_found():
    own = leaks(Careless(BlockCausal(1)), network(), ROW, V, 1)
    assert own.own == tuple(range(L)) and not own.later
    later = leaks(Careless(BlockCausal(2)), network(NextTokenConfig(LLAMA, 5)), ROW, V, 1)
    assert later.own == tuple(range(0, L, 2)) and not later.later
    later = leaks(Careless(BlockCausal(4)), network(NextTokenConfig(LLAMA, 5)), ROW, V, 1)
    assert (0, 1) in later.later and (0, 4) not in later.later
    smeared = leaks(Smeared(P, 4), network(), ROW, V, 4)
    assert smeared.noise and smeared.own and smeared.later
    assert "clean text sees the noisy copy" in [*verdicts.leaks(smeared)][-1].what


def test_the_loss_is_the_objective_s_own():
    model = network(NextTokenConfig(LLAMA, 5))
    found = measure(CrossEntropy(P), model, ROWS, 5)
    logits = model(ROWS, mask=BlockCausal(1)).detach()
    logits[..., MASK] = -torch.inf
    right = F.cross_entropy(logits.flatten(0, 1), ROWS.flatten())
    assert found.nats == pytest.approx(right.item(), rel=1e-5) and found.exact
    assert (found.tokens, round(found.uniform, 4)) == (ROWS.numel(), 1.6094)


@pytest.mark.parametrize(
    ("nats", "words"), [(1.6, "knows nothing"), (0.001, "too few"), (float("nan"), "loss is nan")]
)
def test_absurd_losses(nats, words):
    [finding] = verdicts.loss(Measured(nats, 0.1, 1.609, 99, True), False)
    assert words in finding.what
    assert not [*verdicts.loss(Measured(1.0, 0.1, 1.609, 99, True), False)]


def test_a_text_is_cut_into_rows():
    assert loss.cut([*range(10)], 4, 8).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert loss.cut([*range(3)], 4, 8).tolist() == [[0, 1, 2]]


def bytes_with(**changes):
    """The tokenizer of bytes, with parts of another."""
    inner = Bytes().build(iter(())).inner
    for name, part in changes.items():
        setattr(inner, name, part)
    return inner


def test_tokenizers_that_keep_texts():
    assert not [*tokens.round_trip(bytes_with(), TEXT)]
    assert not [*tokens.round_trip(Bpe(300).build(iter([TEXT])).inner, TEXT)]


@pytest.mark.parametrize(
    ("inner", "wrong", "words"),
    [
        (bytes_with(normalizer=normalizers.Lowercase()), False, "'The fe"),
        (bytes_with(decoder=decoders.Fuse()), True, "does not come back"),
        (bytes_with(normalizer=normalizers.Replace("e", "i")), True, "'The ferry"),
    ],
)
def test_tokenizers_that_change_texts(inner, wrong, words):
    [finding] = tokens.round_trip(inner, TEXT)
    assert finding.wrong is wrong and words in finding.what


def test_a_tokenizer_that_does_not_know_the_words():
    inner = Tokenizer(models.WordLevel({"[UNK]": 0, "the": 1}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    [finding] = tokens.round_trip(inner, TEXT)
    assert "are unknown to the tokenizer" in finding.what and finding.wrong


def test_a_tokenizer_much_smaller_than_the_network():
    inner = bytes_with()  # 258 tokens
    assert not [*tokens.fit(inner, 300, None)]
    [finding] = tokens.fit(inner, 600, None)
    assert "258 tokens, the network 600 rows" in finding.what
    [finding] = tokens.fit(inner, 257, 256)
    assert "ids up to 257, the network only 257 rows" in finding.what
    assert not [*tokens.fit(inner, 257, 257)]  # a mask behind all that the network knows


def test_special_ids():
    inner = bytes_with()
    sound = tokens.Ids(256, 257, None, -1, 258)
    assert not [*tokens.ids(sound, inner)]
    assert not [*tokens.ids(tokens.Ids(None, 257, None, None, 258, masks=False), inner)]
    [none] = tokens.ids(tokens.Ids(None, 257, None, None, 258), inner)
    assert none.what == "no mask token" and "[MASK] (256)" in none.do
    assert not [*tokens.ids(tokens.Ids(256, 257, None, 257, 258), inner)]  # padded with eos
    [unused] = tokens.ids(tokens.Ids(-5, 257, None, None, 258), inner)
    assert "mask_token_id -5 is outside" in unused.what


def test_templates():
    inner = Bytes().build(iter(())).inner
    inner.add_special_tokens([AddedToken("<|im_end|>", special=True, normalized=False)])
    ours = Ours(inner)
    line = "{% for m in messages %}{{ m.content }}END{% endfor %}"
    good = line.replace("END", "{{ eos_token }}")
    assert not [*template(good, ours, "", "<|endoftext|>", "it")]
    [note] = template(line.replace("END", "<|im_end|>"), ours, "", "<|endoftext|>", "it")
    assert not note.wrong and "ends answers with <|im_end|>, and eos is <|endoftext|>" in note.what
    [fault] = template(line, ours, "", "<|endoftext|>", "it")
    assert fault.wrong and fault.what == "the chat template ends no answer"
    [fault] = template("{{ raise_exception('no') }}", ours, "", "", "it")
    assert fault.wrong and "refuses" in fault.what


def test_numbers():
    table = torch.ones(5, 3)
    sound = look([("norm.weight", torch.tensor([1.0, 1.1])), ("a", table), ("b", torch.zeros(2))])
    assert (sound.total, sound.broken, sound.zero, sound.fresh) == (19, (), (), False)
    assert look([("norm.weight", torch.ones(2)), ("a", table * 0)]).fresh
    assert not [*weights(look([("norm.weight", torch.ones(2)), ("a", table * 0)]), "it")]
    bad = look([("norm.weight", torch.zeros(2)), *((str(i), table * 0) for i in range(4))])
    [finding] = weights(bad, "it")
    assert finding.what == "norm.weight, 0, 1 and 2 more are zero throughout"
    assert not [*mask_row(table, 4, "it")] and not [*mask_row(table, 5, "it")]
    [finding] = mask_row(table * (torch.arange(5) != 2)[:, None], 2, "it")
    assert "(2) has length 0; others have 1.7" in finding.what
    assert not [*heads(True, table, table.clone(), "it")] and not [*heads(None, table, None, "it")]
    assert [*heads(True, table, table + 1, "it")] and [*heads(False, table, None, "it")]
    assert [*overflow(["F16"], 4e4, "it")] and not [*overflow(["BF16"], 4e9, "it")]
    assert not [*overflow(["F16"], 3e4, "it")]


@pytest.mark.parametrize(
    ("theta", "length", "words"),
    [
        (10000.0, 2048, None),
        (100000.0, 8192, None),
        (None, 8192, None),
        (10000.0, 65536, None),  # once and a bit
        (10000.0, 131072, "turns 2.8 times"),
        (0.0, 2048, "rotary base 0.0"),
        (float("nan"), 2048, "rotary base nan"),
    ],
)
def test_rotary_positions(theta, length, words):
    found = [*context(LlamaConfig(V, 256, 1, 4, 4, 16, length, rope_theta=theta), "it")]
    assert [words in each.what for each in found] == ([] if words is None else [True])


def paged(report, width, encoding="utf-8"):
    """The page as text."""
    import io

    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    show(report, Console(file=out, width=width))
    out.seek(0)
    return out.read()


def test_the_page_is_as_wide_as_the_terminal_and_knows_ascii():
    sight = Sight("causal", "causal", ("#..", "##.", "###"), ("#..", "##.", "###"))
    fault = Finding("a fault " * 9, "it", "mend it")
    report = Report("model", (("kept as", "x" * 99),), (), (fault,), sight=sight)
    for width in (60, 80, 120):
        page = paged(report, width).split("wrong")[0]
        assert max(map(len, page.splitlines())) <= width
    assert "█▄ " in paged(report, 80)
    lines = [line for line in paged(report, 80).splitlines() if line.startswith("wrong: ")]
    assert lines == [f"wrong: {fault.line}"]
    plain = paged(report, 80, "ascii")
    assert plain.isascii() and "  ##.\n  ###" in plain
