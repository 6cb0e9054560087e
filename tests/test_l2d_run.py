"""The recipe l2d on tiny bases: trained, saved, loaded, measured and written with."""

import json
import re
from dataclasses import replace

import pytest
import torch

from redraft.adapt.l2d import L2D
from redraft.adapt.lora import Lora, Origin, adapters, fingerprint, save
from redraft.cli import main
from redraft.errors import BadInput
from redraft.loading import open_pretrained
from redraft.mask import BlockCausal
from redraft.objective.ar import CrossEntropy
from redraft.objective.l2d import Cosmap, PathBound, Refining
from redraft.process.mixing import Mixing
from redraft.recipe.find import find
from redraft.recipe.start import start
from redraft.sample.estimate import Average, Constant
from redraft.sample.l2d import Refine
from redraft.sample.ode import MIDPOINT, Adaptive, Fixed
from redraft.sample.unmask import Draw
from redraft.structure.language import by_regex
from redraft.types import Batch, Rng
from redraft.weights import read_tensors
from tests.test_l2d import PATH, V, X, paths

WORDS = "length=32 rows=4 micro=2 rank=2 vector=8 hidden=8 steps=2 every=1 lr=0.01 warmup=1".split()
TEXT = "All the world's a stage, and all the men.\n" * 50
GREEDY = Draw(0.0)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A base, conversations, and runs on both kinds of data."""
    folder = tmp_path_factory.mktemp("l2d")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        (folder / "text.txt").write_text(TEXT)
        ar = "text=text.txt tokenizer=bytes width=32 depth=2 length=64 steps=2".split()
        list(start(find("ar", ar), folder / "ar"))
        (folder / "base").symlink_to(folder / "ar" / "step-00000002")
        said = {i: [65, i, *[66 + i] * 9, 257] for i in range(12)}
        talk = [{"prompt": "say", "answer": "all", "ids": x, "start": 2} for x in said.values()]
        (folder / "talk.jsonl").write_text("".join(json.dumps(x) + "\n" for x in talk))
        run = replace(find("l2d", [*WORDS, "base=base", "text=talk.jsonl"]), eval_rows=3)
        told = list(start(run, folder / "run"))
    return folder, told


@pytest.fixture
def model(made, monkeypatch):
    monkeypatch.chdir(made[0])
    return open_pretrained("run")


def test_a_checkpoint_holds_the_path_and_no_more(made, model):
    folder, told = made
    held = read_tensors(told[-1].saved / "model.safetensors")
    assert held.keys() == model.model.saved_parameters().keys()
    assert all(name.startswith("model.path.") for name in held)
    frozen = dict(open_pretrained(folder / "base").model.model.named_parameters())
    mine = model.model.base_weights()
    assert frozen.keys() == mine.keys() and all(torch.equal(frozen[k], mine[k]) for k in mine)
    assert any(held[name].any() for name in held if name.endswith("merge.2.weight"))


@torch.no_grad()
def test_one_step_is_the_base_and_more_are_not(made, model):
    folder = made[0]
    base = open_pretrained(folder / "base")
    rows = torch.arange(9)[None]
    assert torch.equal(
        model.model(rows, mask=BlockCausal(1)), base.model(rows, mask=BlockCausal(1))
    )
    want = base.generate("say", length=9)
    one = Refine(1, draw=base.sampler(9).draw)
    assert model.generate("say", length=9, sampler=one) == want
    texts = model.generate("say", num=2, length=6, sampler=Refine(4))
    assert (
        len(texts) == 2 and model.generate("say", length=6, sampler=Refine(4), seed=1) == texts[1:]
    )
    with pytest.raises(BadInput, match="cannot fill gaps"):
        model.infill("a [[2]] b")


@torch.no_grad()
def test_it_can_be_held_to_a_language(model):
    held = by_regex(model, "[ab]{4}").hold(Refine(3, draw=GREEDY))
    assert re.fullmatch("say [ab]{4}", model.generate("say ", length=4, sampler=held)[0])
    assert model.front(1, held).refiner.how == Refine(3, draw=GREEDY)


def test_resumed_is_uninterrupted(made, monkeypatch):
    folder, _ = made
    monkeypatch.chdir(folder)
    run = replace(find("l2d", [*WORDS, "base=base", "text=talk.jsonl"]), eval_rows=3)
    first = next(iter(start(run, folder / "again")))
    assert first.saved
    list(start(run, folder / "again", again=True))
    one, two = (
        read_tensors(folder / n / "step-00000002/model.safetensors") for n in ("run", "again")
    )
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_another_base_is_refused_in_one_line(made, monkeypatch):
    folder = made[0]
    monkeypatch.chdir(folder)
    words = "text=text.txt tokenizer=bytes width=32 depth=2 length=64 steps=2 seed=1".split()
    if not (folder / "other").exists():
        list(start(find("ar", words), folder / "other"))
    step, moved = folder / "run" / "step-00000002", folder / "moved"
    moved.mkdir(exist_ok=True)
    for path in step.glob("*.*"):
        (moved / path.name).write_bytes(path.read_bytes())
    config = json.loads((step / "config.json").read_text())
    config["model"]["base"] = "other"
    (moved / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadInput, match=r"other: its weights are \w+, but this was made for"):
        open_pretrained(moved)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["base=run"], "writes beside a frozen network"),
        (["base=base", "rank=0", "words=zzz"], "no token of this vocabulary"),
        (["base=base", "drop=0"], "drop is a share"),
        (["base=base", "length=99"], "rows of 99"),
    ],
)
def test_what_does_not_fit_is_refused(made, monkeypatch, words, message):
    monkeypatch.chdir(made[0])
    with pytest.raises(BadInput, match=message):
        next(iter(start(find("l2d", [*WORDS, *words, "text=text.txt"]), made[0] / "none")))


@torch.no_grad()
def test_it_goes_on_top_of_adapters_and_of_whole_tuning(made, monkeypatch):
    folder = made[0]
    monkeypatch.chdir(folder)
    how, base = Lora(2, 4.0, ("q", "down")), open_pretrained("base")
    network = base.model.model
    origin = Origin("base", fingerprint(dict(network.named_parameters())))
    how.attach(network)
    for _, part in adapters(network):
        torch.nn.init.normal_(part.b)
    (folder / "lora").mkdir(exist_ok=True)
    save(network, folder / "lora", how, origin)
    want = network(X, mask=BlockCausal(1))
    with torch.enable_grad():
        run = find("l2d", [*WORDS, "base=lora", "text=text.txt", "rank=0", "steps=1"])
        list(start(replace(run, eval_rows=2), folder / "on"))
    found = open_pretrained(folder / "on").model
    got = found.model(X, mask=BlockCausal(1))
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)
    assert any(name.endswith("gate.weight") for name in found.saved_parameters())


def test_its_likelihood_is_a_bound_and_that_of_one_step_is_the_bases(made, model):
    assert model.objective == PathBound(model.process) and not model.objective.exact
    assert model.first == CrossEntropy(model.process)
    base, rng = open_pretrained(made[0] / "base"), Rng.of(0, torch.arange(2))
    one, two = (model.first.scored(each.model, batch(X), rng)[1] for each in (model, base))
    assert torch.equal(one, two)


def batch(tokens, target=None, doc=None):
    target = torch.ones_like(tokens, dtype=torch.bool) if target is None else target
    doc = torch.zeros_like(tokens) if doc is None else doc
    return Batch(tokens, target, doc, torch.arange(len(tokens)), len(tokens))


PROCESS = Mixing(V + 1, V)


def test_the_loss_is_the_mean_nats_at_times_of_each_positions_own():
    model = L2D(paths(), 3, spare=True)
    doc = torch.tensor([[0] * 4 + [1] * 6, [0] * 10])
    rows = batch(X, torch.rand(2, 10, generator=torch.Generator().manual_seed(5)) < 0.7, doc)
    objective, rng = Refining(PROCESS), Rng.of(0, rows.index)
    loss, nats, t = objective.scored(model, rows, rng)
    assert t.shape == X.shape and len(t.unique()) == t.numel()
    assert loss.count == rows.target.sum() and torch.equal(nats != 0, rows.target)
    torch.testing.assert_close(loss.total, nats.sum(), atol=1e-3, rtol=1e-5)
    plain = CrossEntropy(PROCESS).scored(model, rows, rng)[1]
    assert not torch.allclose(nats, plain, atol=1e-2)
    silent = Refining(PROCESS, least=1 - 1e-12).scored(model, rows, rng)[1]
    torch.testing.assert_close(silent, plain, atol=1e-4, rtol=1e-4)
    loss.total.backward()
    learned = [p for p in model.saved_parameters().values() if p.requires_grad]
    assert sum(p.grad is not None and bool(p.grad.any()) for p in learned) >= len(learned) - 1
    assert all(p.grad is None for p in model.base_weights().values())


def test_packed_documents_are_as_good_as_apart():
    model = L2D(paths(), 3, spare=True)
    doc = torch.tensor([[0] * 4 + [1] * 6, [0] * 10])
    rng = Rng.of(0, torch.arange(2))
    one = Refining(PROCESS).scored(model, batch(X, doc=doc), rng)[1]
    other = X.clone()
    other[0, :3] = (other[0, :3] + 1) % V
    two = Refining(PROCESS).scored(model, batch(other, doc=doc), rng)[1]
    assert torch.equal(one[0, 5:], two[0, 5:]) and not torch.equal(one[0, :4], two[0, :4])


@torch.no_grad()
def test_classes_are_withheld_position_by_position():
    from redraft.condition import Words

    objective = Refining(PROCESS, attribute=Words((int(X[0, 0]),)), drop=0.4)
    many = X[:1].expand(400, 10)
    rows = Batch(many, many > -1, many * 0, torch.arange(400), 400)
    label = objective.labels(rows, Rng.of(0, rows.index))
    share = (label == 2).double().mean().item()
    assert abs(share - 0.4) < 0.03 and set(label.unique().tolist()) == {1, 2}
    told = L2D(paths(path=replace(PATH, classes=2)), 3, spare=True)
    one, two = (
        objective.scored(told, batch(X), Rng.of(0, torch.arange(2)))[1],
        Refining(PROCESS).scored(told, batch(X), Rng.of(0, torch.arange(2)))[1],
    )
    assert not torch.equal(one, two)


class Oracle:
    """Knows p(token) and Bayes' rule: the best that a path can be."""

    timed = False
    p = torch.tensor([0.5, 0.3, 0.15, 0.05, 0.0]).double()
    table = (
        torch.nn.functional.normalize(
            torch.randn(5, 6, generator=torch.Generator().manual_seed(1)).double(), dim=-1
        )
        * 6**0.5
    )
    noise = 9.0

    def vector(self, x):
        return self.table[x]

    def remember(self, x, *, mask):
        return torch.zeros(*x.shape, 1).double(), None

    def beside(self, h, kv, z, t, *, mask, **more):
        a, s = (1 - t)[..., None], t[..., None] * self.noise
        far = ((z[..., None, :] - a[..., None] * self.table) / s[..., None]).square().sum(-1)
        return self.p.log() - far / 2

    def head(self, h):
        return h

    def head_parameters(self):
        return []

    def features(self, x, t, *, mask, at=None, kv=None):
        return self.p.log().expand(*x.shape, 5)

    def __call__(self, x, t, *, mask):
        return self.features(x, t, mask=mask)


@torch.no_grad()
def test_the_bound_is_the_likelihood_for_a_path_that_knows():
    x = torch.arange(4).repeat(2000, 2)
    rows = Batch(x, x > -1, x * 0, torch.arange(2000), 2000)
    nats = PathBound(Mixing(5, 4)).scored(Oracle(), rows, Rng.of(0, rows.index))[1].double()
    want = -Oracle.p[:4].log()
    found = nats.view(-1, 4).mean(0)
    error = nats.view(-1, 4).std(0) / 4000**0.5
    assert ((found - want).abs() < 4 * error + 2e-3).all() and error.max() < 0.15

    class Wrong(Oracle):
        p = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.0]).double()

    off = PathBound(Mixing(5, 4)).scored(Wrong(), rows, Rng.of(0, rows.index))[1].double()
    worse = (Oracle.p[:4] * off.view(-1, 4).mean(0)).sum()
    true = torch.special.entr(Oracle.p).sum()
    assert worse > true + 0.1
    assert abs(worse - true - (Oracle.p[:4] * (Oracle.p / Wrong.p)[:4].log()).sum()) < 0.15


def test_more_of_the_middle_is_drawn_by_cosmap():
    u = torch.linspace(0.01, 0.99, 99).double()[None]
    s = Cosmap()(u)
    torch.testing.assert_close(s / (1 - s), torch.tan(torch.pi / 2 * u), atol=1e-9, rtol=1e-9)


def said(monkeypatch, capsys, *words):
    monkeypatch.setattr("sys.argv", ["redraft", *words])
    with pytest.raises(SystemExit) as stop:
        main()
    told = capsys.readouterr()
    return stop.value.code or 0, told.out, told.err


def test_the_words_of_the_command_line_are_a_sampler(model):
    from redraft.choose import Kind, options, sampler_of
    from redraft.refining import Guess

    given = options(None, None, None, 16, None)
    words = {"solver": Kind.midpoint, "estimate": Guess.average, "heat": "0.5"}
    how = sampler_of(model, 9, None, None, GREEDY, given, words)
    assert how == Refine(16, Fixed(MIDPOINT), Average(), Constant(0.5), draw=GREEDY)
    words = {"solver": Kind.adaptive, "tolerance": 0.1}
    how = sampler_of(model, 9, None, None, GREEDY, options(*[None] * 5), words)
    assert isinstance(how.solver, Adaptive) and how.solver.tolerance == 0.1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--solver ddim", "is for models of vectors"),
        ("--solver adaptive --steps 4", "takes what it needs"),
        ("--tolerance 0.1", "is for --solver adaptive"),
        ("--heat 0.5", "is for --estimate"),
        ("--estimate sample --heat warm", "falling"),
        ("--guidance 2", "needs a --label"),
        ("--label 1", "knows no classes"),
        ("--order random", "from left to right only"),
        ("--threshold 0.5", "does not go with --threshold"),
        ("--clamp 0.5", "refines tokens"),
    ],
)
def test_words_that_would_not_be_read_are_refused(made, monkeypatch, capsys, words, message):
    monkeypatch.chdir(made[0])
    code, _, err = said(monkeypatch, capsys, "generate", "run", *words.split())
    assert code == 2 and message in err


def test_the_command_line_writes_and_measures(made, monkeypatch, capsys):
    monkeypatch.chdir(made[0])
    for words in (
        "--steps 3 --solver rk4",
        "--estimate sample --heat falling",
        "--solver adaptive",
    ):
        more = ["--prompt", "say", "--length", "4", *words.split()]
        code, out, _ = said(monkeypatch, capsys, "generate", "run", *more)
        assert code == 0 and out.startswith("say")
    rows = ["--text", "text.txt", "--rows", "2", "--json"]
    _, out, _ = said(monkeypatch, capsys, "eval", "run", *rows)
    assert json.loads(out)["bound"] is True
    _, out, _ = said(monkeypatch, capsys, "eval", "run", "--likelihood", "first", *rows)
    assert json.loads(out)["bound"] is False
    code, _, err = said(monkeypatch, capsys, "eval", "base", *rows, "--likelihood", "first")
    assert code == 2 and "(L2D)" in err
