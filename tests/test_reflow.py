"""Reflow: pairs of a known flow, what is learned from them, and runs that do it."""

import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from redraft import cli
from redraft.errors import BadInput
from redraft.loading import open_pretrained
from redraft.mask import Full
from redraft.model.latent import LatentConfig
from redraft.objective.embedding import Regression, TokenLoss
from redraft.objective.reflow import Reflow
from redraft.process.codebook import Known, Learned, normal
from redraft.process.gaussian import Gaussian
from redraft.process.path import Straight
from redraft.process.prediction import Tokens, Velocity
from redraft.recipe.find import find
from redraft.recipe.start import start
from redraft.sample import solver
from redraft.sample.rules import DDIM, DPM
from redraft.types import Batch, Loss, Rng

# Two positions, one-dimensional vectors; token 2 is [MASK]. Neighbours attract.
CODES, MASK = torch.tensor([[-1.5], [0.4], [9.0], [1.0]]), 2
WORDS = torch.tensor([[0, 0], [0, 1], [1, 3], [3, 0], [3, 3]])
P = torch.tensor([0.35, 0.15, 0.2, 0.1, 0.2], dtype=torch.float64)
PATH, BOOK = Straight(), Known(CODES, Learned(1))
PROCESS = Gaussian(4, MASK, BOOK, PATH)


class World:
    """E[x0 | z] by counting all texts; its answer is x0."""

    def features(self, x, t, *, mask):
        z, at = x[..., :1].double(), PATH.at(t)
        z = z * (at.alpha**2 + at.sigma**2).sqrt()  # undo the scaling of the input
        far = (z[:, None] - at.alpha[:, None] * CODES[WORDS]) ** 2 / (2 * at.sigma[:, None] ** 2)
        p = (P.log() - far.sum((-1, -2))).softmax(-1)
        return torch.einsum("bw,wld->bld", p, CODES[WORDS].double()).float()

    def head(self, h):
        return h

    def head_parameters(self):
        return []

    def __call__(self, x, t, *, mask):
        return self.features(x, t, mask=mask)


def batch_of(rows, first=0):
    tokens = torch.zeros(rows, 2, dtype=torch.long)
    index = torch.arange(first, first + rows)
    return Batch(tokens, tokens == 0, tokens, index, rows)


def exact(steps=48):
    return partial(solver.ends, solver.Solver(PROCESS, DPM(), steps), World(), Full())


def test_the_ends_of_the_exact_flow_have_the_law_of_the_data():
    rng = Rng.of(0, torch.arange(4000))
    noise = normal(rng.fold("noise"), torch.empty(4000, 2, 1))
    got = exact()(noise, torch.zeros(4000, 2, dtype=torch.long))
    share = (got[:, None] == WORDS).all(-1).double().mean(0)
    assert share.sum() > 0.995  # nothing but texts of the world
    assert (share - P).abs().sum() / 2 < 0.03


def test_a_row_is_paired_with_the_text_that_its_own_noise_leads_to():
    seen = []

    class Inner:
        process, mask, exact = PROCESS, Full(), False

        def scored(self, model, batch, rng):
            seen.append((batch.tokens, normal(rng.fold("noise"), torch.empty(8, 2, 1))))
            loss = Loss(torch.zeros(()), torch.ones(()))
            return loss, torch.zeros(8, 2), torch.zeros(8, 1)

    batch, ends = batch_of(8, first=40), exact()
    rng = Rng.of(3, batch.index)
    Reflow(Inner(), ends).scored(World(), batch, rng)
    tokens, noise = seen[0]
    assert torch.equal(tokens, ends(noise, batch.doc)) and len(tokens.unique(dim=0)) > 1


@pytest.mark.parametrize("kind", [Regression, TokenLoss])
def test_micro_batches_and_the_text_of_the_batch_change_nothing(kind):
    process = Gaussian(4, MASK, BOOK, PATH, Velocity())
    if kind is TokenLoss:
        process = Gaussian(4, MASK, BOOK, PATH, Tokens())
    torch.manual_seed(0)
    model = LatentConfig(4, 1, 1 if kind is Regression else 4, 16, 1, 1, 2, 16).build()
    objective, batch = Reflow(kind(process), exact(8)), batch_of(6)
    _, whole, _ = objective.scored(model, batch, Rng.of(0, batch.index))
    parts = [objective.scored(model, b, Rng.of(0, b.index)) for b in batch.split(4)]
    torch.testing.assert_close(torch.cat([p[1] for p in parts]), whole)
    other = Batch(batch.tokens + 1, batch.target, batch.doc, batch.index, batch.rows)
    assert torch.equal(objective.scored(model, other, Rng.of(0, batch.index))[1], whole)


def learned(objective, steps=120):
    torch.manual_seed(0)
    model = LatentConfig(4, 1, 1, 32, 2, 1, 2, 32, learned=False).build()
    optim = torch.optim.Adam(model.parameters(), 3e-3)
    for step in range(steps):
        batch = batch_of(192, first=192 * step)
        loss = objective(model, batch, Rng.of(0, batch.index))
        optim.zero_grad()
        (loss.total / loss.count).backward()
        for group in optim.param_groups:
            group["lr"] = 3e-3 * (1 - step / steps)
        optim.step()
    return model


@pytest.mark.slow
def test_one_euler_step_comes_nearer_the_end_after_reflow():
    """Before it, one step leads all noise to the mean text; after it, to its own end."""
    process = Gaussian(4, MASK, BOOK, PATH, Velocity())
    straighter = learned(Reflow(Regression(process), exact(6)))
    noise = normal(Rng.of(9, torch.arange(500)), torch.empty(500, 2, 1))
    doc = torch.zeros(500, 2, dtype=torch.long)
    want = exact()(noise, doc)

    def reached(model, process, n):
        got = solver.ends(solver.Solver(process, DDIM(), n), model, Full(), noise, doc)
        return (got == want).all(-1).double().mean().item()

    before, after = reached(World(), PROCESS, 1), reached(straighter, process, 1)
    assert before < 0.1 and after > 0.45


SMALL = "text=text.txt tokenizer=bytes width=32 depth=1 length=16 rows=4 micro=2"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("reflow")
    (home / "text.txt").write_text("All the world's a stage, and all the men.\n" * 50)
    (home / "other.txt").write_text("Other letters, and so another vocabulary: xyz!\n" * 50)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        for name, more in (("flow", "size=4"), ("velocity", "size=4 velocity=true")):
            list(start(find("flow", f"{SMALL} steps=2 {more}".split()), home / name))
        mdlm = "text=text.txt tokenizer=bytes width=32 depth=1 length=16 rows=4 micro=4 steps=1"
        list(start(find("mdlm", mdlm.split()), home / "mdlm"))
    return home


@pytest.mark.slow
@pytest.mark.parametrize("name", ["flow", "velocity"])
def test_a_run_of_reflow_begins_from_its_flow_and_resumes_exactly(name, home, monkeypatch):
    monkeypatch.chdir(home)
    run = find("flow", f"{SMALL} steps=3 lr=1e-3 ode=3 reflow={name}".split())
    whole, parts = home / f"{name}-whole", home / f"{name}-parts"
    list(start(run, whole))
    list(start(run, parts, stop=lambda: True))
    assert not (parts / "step-00000003").exists()
    list(start(run, parts, again=True))
    one, two = (load_file(x / "step-00000003" / "model.safetensors") for x in (whole, parts))
    assert all(torch.equal(one[key], two[key]) for key in one)
    first = load_file(open_pretrained(name).path / "model.safetensors")
    assert all((one[key] - first[key]).abs().max() < 0.01 for key in one)
    model = open_pretrained(whole)
    assert type(model.trained).__name__ == type(open_pretrained(name).trained).__name__
    assert len(model.generate(num=2)) == 2


@pytest.mark.slow
def test_the_vectors_of_another_run_are_taken_and_stay(home, monkeypatch):
    monkeypatch.chdir(home)
    for name, width in (("flow", 4), ("mdlm", 32)):
        for velocity in ("true", "false"):
            settings = f"{SMALL} steps=2 codebook={name} velocity={velocity}"
            run, out = find("flow", settings.split()), home / f"on-{name}-{velocity}"
            list(start(run, out))
            table = open_pretrained(out).process.codebook.vectors()
            assert table.shape[1] == width
            earlier = open_pretrained(name)
            if name == "flow":
                torch.testing.assert_close(table, earlier.process.codebook.vectors())
            rows = table.norm(dim=-1)
            torch.testing.assert_close(rows, torch.full_like(rows, width**0.5))
            assert len(open_pretrained(out).generate()) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ("reflow=mdlm", "no rectified flow"),
        ("reflow=nowhere", "no such checkpoint"),
        ("reflow=flow codebook=flow", "does not go with"),
        ("reflow=flow size=5", "size=5 does not go with reflow="),
        ("reflow=flow velocity=true", "velocity=True does not go with reflow="),
        ("codebook=flow size=5", "of vectors of 4"),
        ("ode=3", "ode=3 needs reflow=RUN"),
        ("reflow=flow text=other.txt tokenizer=chars", "[MASK]"),
        ("codebook=flow text=other.txt tokenizer=chars", "another tokenizer"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(settings, why, home, monkeypatch, capsys):
    monkeypatch.chdir(home)
    words = [*SMALL.split(), "steps=1", *settings.split(), "--out", "never"]
    monkeypatch.setattr(sys, "argv", ["redraft", "train", "flow", *words])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    said = capsys.readouterr()
    assert caught.value.code == 2 and why in said.err and said.err.count("\n") == 1
    assert not Path("never").exists() and BadInput
