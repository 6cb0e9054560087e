"""L2D: the frozen path is untouched, the other one sees what it should, and nothing else."""

from dataclasses import replace

import pytest
import torch

from redraft.cache.store import Dense
from redraft.errors import BadInput
from redraft.mask import BlockCausal, Documents
from redraft.model.formats.hf import Unfilled
from redraft.model.l2d import TwoPaths, TwoPathsConfig
from redraft.model.layers import gelu, layer_norm
from redraft.model.llama import LlamaConfig
from redraft.model.path import Copied, Delta, Kept, LowRank, Vectors
from redraft.model.path_layer import PathConfig
from tests.test_model import close, loud

V, L, D = 19, 10, 8
INNER = LlamaConfig(V, 32, 2, 4, 2, 48, 64)
PATH = PathConfig(
    LowRank(4, 8.0), Vectors(D, length=D**0.5, noise=3.0), entry_width=12, clock_waves=16,
    clock_width=12,
)  # fmt: skip
BASES = (
    INNER,
    replace(INNER, attention_bias=True, tied=True),  # Qwen2
    replace(INNER, qk_norm=True, head_size=12),  # Qwen3
    replace(INNER, rope_theta=None, norm=layer_norm, act=gelu, gated=False, mlp_bias=True),
    replace(INNER, reach=3, near=(1,), embed_scale=2.0),
)
PATHS = (
    PATH,
    replace(PATH, own=Copied(), classes=3),
    replace(PATH, own=Kept(), gated=False, from_noise=True),
    replace(PATH, vectors=Vectors(D, None, 1.0, 2.0), entry_scale=0.5),
    replace(PATH, vectors=Vectors(32, 0, None, 2.0), entry_scale=0.0, entry_depth=0),
)
X = torch.randint(V, (2, L), generator=torch.Generator().manual_seed(0))
T = torch.rand(2, L, generator=torch.Generator().manual_seed(1)).double()
every = pytest.mark.parametrize("base", BASES)
all_paths = pytest.mark.parametrize("path", PATHS)


def paths(base=INNER, path=PATH, trained=True):
    """Beside a loud network; the path says nothing unless it is trained."""
    model, rng = TwoPaths(loud(base), path), torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in model.path.parameters() if trained else ():
            weight.copy_(torch.randn(weight.shape, generator=rng) * 0.3)
    return model.eval()


def noise(path=PATH, seed=3):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(2, L, path.vectors.width, generator=rng) * path.vectors.noise


def joint(model, z, t, x=X, mask=None, **more):
    """Both paths over whole rows."""
    store, mask = Dense(), BlockCausal(1) if mask is None else mask
    h = model.remember(x, mask=mask, kv=store)
    store.commit(x.shape[1])
    return model.head(model.beside(h, store, z, t, mask=mask, **more))


@every
@torch.no_grad()
def test_where_all_is_noise_it_is_the_frozen_network_bit_for_bit(base):
    for path in PATHS:
        model, want = paths(base, path), loud(base)(X, mask=BlockCausal(1))
        one = torch.ones(2, L).double()
        assert torch.equal(joint(model, noise(path), one), want)
        assert torch.equal(model(X, mask=BlockCausal(1)), want)
        almost = joint(model, noise(path), one - 1e-7)  # it comes from there without a leap
        torch.testing.assert_close(almost, want, atol=1e-2, rtol=1e-2)
        mixed = T.where(torch.arange(L) % 2 == 0, 1.0)
        same = (joint(model, noise(path), mixed) == want).all(-1)
        assert torch.equal(same, mixed == 1)


@every
@torch.no_grad()
def test_a_path_of_frozen_parts_that_is_fed_the_tokens_is_the_frozen_network(base):
    """It asks the same keys the same questions, so its states are the others', layer by layer."""
    own = PathConfig(
        Kept(), Vectors(32, 0, None), entry_depth=0, entry_scale=0.0, clock_waves=8, clock_width=8,
        gated=False, silent=False,
    )  # fmt: skip
    model = paths(base, own, trained=False)
    model.path.merge[-1].bias.fill_(1.0)  # norms do not see that a state is doubled
    want = model(X, mask=BlockCausal(1))
    got = joint(model, model.model.embed(X), T)
    torch.testing.assert_close(got, want, atol=1e-3, rtol=1e-3)
    assert not torch.allclose(joint(model, model.model.embed(X.flip(1)), T), want, atol=0.1)


@all_paths
@torch.no_grad()
def test_at_the_beginning_it_is_the_frozen_network_at_every_time(path):
    model = paths(path=path, trained=False)
    assert torch.equal(joint(model, noise(path), T), model(X, mask=BlockCausal(1)))


@torch.no_grad()
def test_the_frozen_path_does_not_know_of_the_other():
    model, plain = paths(), loud(INNER)
    one, two = Dense(), Dense()
    h = model.remember(X, mask=BlockCausal(1), kv=one)
    plain.stream(X, mask=BlockCausal(1), kv=two)
    one.commit(L), two.commit(L)
    before = [[k.clone() for k in one.held(i)] for i in range(2)]
    model.beside(h, one, noise(), T, mask=BlockCausal(1))
    for i in range(2):
        for mine, theirs, then in zip(one.held(i), two.held(i), before[i], strict=True):
            assert torch.equal(mine, theirs) and torch.equal(mine, then)
    assert torch.equal(model.model.norm(h), plain.features(X, mask=BlockCausal(1)))


@all_paths
@torch.no_grad()
def test_positions_of_the_path_do_not_see_each_other(path):
    model, z = paths(path=path), noise(path)
    before = joint(model, z, T)
    for at in range(L):
        other, time = z.clone(), T.clone()
        other[:, at] += 1
        assert ((joint(model, other, T) != before).any(-1).any(0).nonzero() == at).all()
        time[:, at] /= 2
        moved = (joint(model, z, time) != before).any(-1).any(0)
        assert moved.nonzero().flatten().tolist() == [at]


@every
@torch.no_grad()
def test_a_position_sees_the_text_up_to_itself(base):
    model = paths(base)
    before = joint(model, noise(), T)
    other = X.clone()
    other[:, 4] = (other[:, 4] + 1) % V
    moved = (joint(model, noise(), T, other) - before).abs().amax((0, 2)) > 1e-6
    assert moved.tolist() == [i >= 4 for i in range(L)]


@every
@torch.no_grad()
def test_a_position_beside_what_is_stored_is_that_position_of_the_whole(base):
    model, z = paths(base), noise()
    want = joint(model, z, T)
    store = Dense()
    for i in range(L):
        h = model.remember(X[:, i : i + 1], mask=BlockCausal(1), kv=store)
        store.commit(1)
        one = slice(i, i + 1)
        for _ in range(2):  # any number of times
            got = model.beside(h, store, z[:, one], T[:, one], mask=BlockCausal(1))
        close(model.head(got), want[:, one])


@torch.no_grad()
def test_padding_and_packing_change_nothing():
    model, z = paths(), noise()
    alone = joint(model, z[:, 3:], T[:, 3:], X[:, 3:])
    doc = torch.where(torch.arange(L) < 3, -1, 0).expand(2, L)
    at = (torch.arange(L) - 3).clamp(min=0).expand(2, L)
    store, mask = Dense(), BlockCausal(1) & Documents(doc)
    h = model.remember(X, mask=mask, at=at, kv=store)
    store.commit(L)
    padded = model.head(model.beside(h, store, z, T, mask=mask, at=at))
    close(padded[:, 3:], alone)
    packed = joint(model, z, T, mask=BlockCausal(1) & Documents(doc + 1))
    close(packed[:, 3:], alone)
    close(packed[:, :3], joint(model, z[:, :3], T[:, :3], X[:, :3]))


@torch.no_grad()
def test_the_class_is_told_and_none_is_the_last_of_the_table():
    path = PATHS[1]
    model, z = paths(path=path), noise(path)
    none = joint(model, z, T)
    for label in (-1, 3):
        assert torch.equal(joint(model, z, T, label=torch.full((2, 1), label)), none)
    one = torch.tensor([[1], [3]]).expand(2, L)
    told = joint(model, z, T, label=one)
    assert torch.equal(told[1], none[1]) and (told[0] != none[0]).any(-1).all()
    silent = joint(model, z, torch.ones(2, L).double(), label=one)
    assert torch.equal(silent, model(X, mask=BlockCausal(1)))


@all_paths
@torch.no_grad()
def test_vectors_are_of_the_length_that_is_said(path):
    model = paths(path=path)
    table, length = model.table(), path.vectors.length
    assert table.shape == (V, path.vectors.width)
    if length is not None:
        close(table.norm(dim=-1), torch.full((V,), length))
    close(model.vector(X), table[X])


@pytest.mark.parametrize("sigma", [1.0, 64.0])
@torch.no_grad()
def test_noisy_vectors_enter_with_unit_variance(sigma):
    vectors = Vectors(64, length=8.0, noise=sigma)
    rng = torch.Generator().manual_seed(0)
    v = torch.nn.functional.normalize(torch.randn(4096, 64, generator=rng), dim=-1) * 8
    for t in (0.0, 0.01, 0.3, 1.0):
        z = (1 - t) * v + t * sigma * torch.randn(v.shape, generator=rng)
        entered = z / vectors.std(torch.tensor(t))
        assert abs(entered.var().item() - 1) < 0.02


@torch.no_grad()
def test_projections_begin_as_the_frozen_ones():
    x = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    for own in (LowRank(4, 8.0), Copied(), Kept()):
        model = paths(BASES[1], replace(PATH, own=own), trained=False)
        layer, frozen = model.path.layers[1], model.model.layers[1]
        assert torch.equal(layer.q(x, frozen.attention.q), frozen.attention.q(x))
        assert torch.equal(layer.up(x, frozen.mlp.up), frozen.mlp.up(x))


def test_low_rank_begins_with_noise_of_the_papers_size():
    a = Delta(torch.nn.Linear(400, 40), 10, 1.0).a
    assert abs(a.std().item() - 0.1) < 0.005


@pytest.mark.parametrize(
    ("base", "count"),
    [
        (LlamaConfig(128256, 2048, 16, 32, 8, 8192, 131072, tied=True), 73_344_256),
        (LlamaConfig(128256, 4096, 32, 32, 8, 14336, 131072), 281_036_032),
        (
            LlamaConfig(151936, 1536, 28, 12, 2, 8960, 32768, attention_bias=True, tied=True),
            103_324_928,
        ),
        (LlamaConfig(152064, 3584, 28, 28, 4, 18944, 32768, attention_bias=True), 233_008_384),
    ],
    ids=["Llama-3.2-1B", "Llama-3.1-8B", "Qwen2.5-1.5B", "Qwen2.5-7B"],
)
def test_as_much_is_learned_as_is_published(base, count):
    with torch.device("meta"), Unfilled():
        model = TwoPathsConfig(base).build()
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == count
    d, q = base.width, base.n_heads * base.size
    low = 32 * (2 * (d + q) + 3 * (d + base.hidden))
    head, small = 256 * 257, 257 * d
    assert count == base.depth * (low + head + 6 * small) + 4 * head + 2 * small + 256 * (d + 1)


def test_gradients_reach_the_path_and_nothing_else():
    model = paths()
    joint(model, noise(), T)[..., 2].sum().backward()
    moved = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    learned = {f"path.{name}" for name, _ in model.path.named_parameters()}
    unmoved = {"path.merge.2.bias"}  # it is there at t = 1 too, and taken off
    assert moved == learned - unmoved - {n for n in learned if "vocabulary" in n}
    joint(model, model.vector(X), T * 0.5)[..., 2].sum().backward()
    assert all(p.grad.any() for p in model.path.vocabulary.parameters())
    assert not any(p.requires_grad for p in model.model.parameters())


def test_gates_move_from_the_second_step_on():
    """Of two factors that begin at 0, one alone gets a gradient; then both do."""
    model = paths(trained=False)
    ends = [model.path.merge[-1].weight, *(x.modulation[-1].weight for x in model.path.layers)]
    joint(model, noise(), T)[..., 2].sum().backward()
    assert ends[0].grad.any() and not any(end.grad.any() for end in ends[1:])
    with torch.no_grad():
        ends[0].sub_(0.1 * ends[0].grad)
    model.zero_grad()
    joint(model, noise(), T)[..., 2].sum().backward()
    assert all(end.grad.any() for end in ends)


@torch.no_grad()
def test_half_precision_is_coarser_and_no_more():
    model, z = paths(), noise()
    want = joint(model, z, T)
    with torch.autocast("cpu", torch.bfloat16):
        got = joint(model, z, T).float()
    assert torch.nn.functional.cosine_similarity(got, want, dim=-1).min() > 0.98
    for weight in model.model.parameters():
        weight.data = weight.data.bfloat16()
    one = torch.ones(2, L).double()
    assert torch.equal(joint(model, z, one), model(X, mask=BlockCausal(1)))
    for _ in range(2):  # with a path in full precision, and in half
        got = joint(model, z, T).float()
        assert torch.nn.functional.cosine_similarity(got, want, dim=-1).min() > 0.97
        model.bfloat16()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"vectors": Vectors(8, 0)}, "cannot be embeddings"),
        ({"vectors": Vectors(8, 1, None)}, "no known spread"),
        ({"entry_depth": 0}, "cannot be states"),
        ({"clock_waves": 5}, "pairs of waves"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(change, words):
    with pytest.raises(BadInput, match=words):
        paths(path=replace(PATH, **change))
