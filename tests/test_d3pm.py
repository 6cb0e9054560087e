"""The recipe from a text to a sample, for every kernel."""

import pytest

import redraft
from redraft.errors import BadInput
from redraft.process.graph import Neighbours
from redraft.process.matrix import Matrix
from redraft.recipe.d3pm import recipe
from redraft.recipe.start import start
from redraft.sample.ancestral import evenly

TINY = dict(tokenizer="chars", width=16, depth=1, length=16, rows=4, micro=2, steps=2, T=20)


@pytest.fixture
def text(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for i in range(4):
        lines = (f"{a} and {b} of {i}\n" for a in ("red", "blue") for b in ("hen", "fox", "owl"))
        (tmp_path / f"{i}.txt").write_text("".join(lines) * 8)
    return str(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["absorbing", "uniform", "gaussian", "reflected", "neighbours"])
def test_every_kernel_trains_and_writes(text, tmp_path, kernel):
    run = recipe(text, kernel=kernel, **TINY)
    tuple(start(run, tmp_path / "run"))
    model = redraft.load(tmp_path / "run")
    assert model.process == run.objective.process
    assert run.objective.lam == (0.01 if kernel == "absorbing" else 0.0)
    sampler = evenly(model.process, 7)
    assert sampler.n == (10 if isinstance(model.process, Matrix) else 7)
    assert len(model.generate(length=9, num=2, sampler=sampler)) == 2


@pytest.mark.slow
def test_the_neighbours_are_the_same_each_time_and_travel_with_the_checkpoint(text, tmp_path):
    one, two = (recipe(text, kernel="neighbours", k=3, leap=0.2, **TINY) for _ in range(2))
    assert one == two
    kernel = one.objective.process.kernel
    assert isinstance(kernel, Neighbours) and kernel.leap == 0.2
    tuple(start(one, tmp_path / "run"))
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    assert redraft.load(tmp_path / "elsewhere").process.kernel == kernel


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"kernel": "band"}, "choose absorbing, uniform"),
        ({"kernel": "uniform", "k": 3}, "kernel=neighbours has"),
        ({"kernel": "neighbours", "k": 0}, "neighbours"),
        ({"kernel": "gaussian", "T": 10**9}, "use Reflected"),
    ],
)
def test_what_cannot_be_is_refused(text, given, words):
    with pytest.raises(BadInput, match=words):
        recipe(text, **TINY | given)
