"""From somebody's autoregressive checkpoint to a diffusion model that writes."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from redraft.adapt.adapted import bare
from redraft.adapt.lora import base_weights
from redraft.adapt.shift import NextToken
from redraft.convert import Layout, convert
from redraft.errors import BadInput
from redraft.loading import open_pretrained
from redraft.mask import BlockCausal, Full
from redraft.objective.ar import CrossEntropy
from redraft.objective.block import BlockAnyOrder
from redraft.objective.nelbo import NELBO, AnyOrder
from redraft.process.mixing import Mixing
from redraft.progress import measured
from redraft.recipe.find import find
from redraft.recipe.given import base_of, drawn, network_of, take_over, words_of
from redraft.recipe.llada2 import up_and_down
from redraft.recipe.nbdiff import growing
from redraft.recipe.start import start
from redraft.types import Batch, Rng
from tests.test_model import close

TEXT = "All the world's a stage, and all the men.\n" * 50
BUDGET = "text=text.txt length=32 rows=4 micro=4 steps=2 precision=fp32".split()
ADAPTING = ["a2d", "diffullama", "dream", "llada2", "nbdiff", "sdar"]
PADDED = 300  # rows of the table; the tokenizer has 257 tokens
SHAPE = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": PADDED,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
    "bos_token_id": 256,
    "eos_token_id": 256,
}


def tokenizer():
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={x: i for i, x in enumerate(letters)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([AddedToken("<|endoftext|>", normalized=False, special=True)])
    return inner


def tensors(vocab):
    rng = torch.Generator().manual_seed(0)
    shapes = {"embed_tokens": (vocab, 32), "norm": (32,)}
    for i in range(2):
        at = f"layers.{i}."
        shapes |= {f"{at}input_layernorm": (32,), f"{at}post_attention_layernorm": (32,)}
        shapes |= {f"{at}self_attn.{x}_proj": (32, 32) for x in "qo"}
        shapes |= {f"{at}self_attn.{x}_proj": (16, 32) for x in "kv"}
        shapes |= {f"{at}mlp.{x}_proj": (48, 32) for x in ("gate", "up")}
        shapes |= {f"{at}mlp.down_proj": (32, 48)}
    return {
        f"model.{name}.weight": torch.randn(shape, generator=rng) * 0.2 + (len(shape) == 1)
        for name, shape in shapes.items()
    }


def foreign(folder, vocab=PADDED):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(SHAPE | {"vocab_size": vocab}))
    save_file(tensors(vocab), folder / "model.safetensors")
    tokenizer().save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    (folder / "text.txt").write_text(TEXT)
    foreign(folder / "padded")
    foreign(folder / "exact", 257)
    return folder


@pytest.fixture(autouse=True)
def here(work, monkeypatch):
    monkeypatch.chdir(work)


def fresh(base, shifted=True, rank=0):
    words = words_of(base).build(iter(()))
    torch.manual_seed(0)
    return network_of(base, words, shifted, rank).build(), words


@pytest.mark.parametrize("name", ["padded", "exact"])
@pytest.mark.parametrize("rank", [0, 4])
@torch.no_grad()
def test_before_a_step_it_is_the_base(name, rank):
    base = base_of(name)
    assert isinstance(base.model, NextToken)
    model, words = fresh(base, rank=rank)
    assert (words.mask_id, words.vocab_size) == (257, 258)
    take_over(model, base, words.mask_id, 3)
    x = torch.tensor([[65, 200, 7, 7, 256, 3]])
    raw = base.model.model(x, mask=BlockCausal(1))
    logits = model.eval()(x, mask=BlockCausal(1))
    assert torch.equal(logits[:, 1:, :257], raw[:, :-1, :257])


@pytest.mark.parametrize("name", ["padded", "exact"])
@torch.no_grad()
def test_the_vector_of_the_mask_is_one_like_others(name):
    base = base_of(name)
    model, words = fresh(base)
    take_over(model, base, words.mask_id, 3)
    table = bare(model).embedding.weight
    old, mask = table[:257], table[words.mask_id]
    norms = old.norm(dim=-1)
    assert norms.min() < mask.norm() < norms.max()
    if name == "padded":
        assert not torch.equal(mask, bare(base.model).embedding.weight[words.mask_id])
    other, _ = fresh(base)
    take_over(other, base, words.mask_id, 4)
    assert not torch.equal(bare(other).embedding.weight[words.mask_id], mask)
    assert torch.equal(bare(other).embedding.weight[:257], old)
    adapted, _ = fresh(base, rank=4)
    take_over(adapted, base, words.mask_id, 3)
    assert torch.equal(bare(adapted).embedding.mask, mask)


def test_a_drawn_row_has_the_mean_and_spread_of_the_others():
    table = torch.randn(500, 8) * torch.arange(1.0, 9) + torch.arange(8.0)
    rng = torch.Generator().manual_seed(0)
    many = torch.stack([drawn(table, rng) for _ in range(4000)])
    torch.testing.assert_close(many.mean(0), table.mean(0), atol=0.5, rtol=0.05)
    torch.testing.assert_close(many.std(0), table.std(0), atol=0.1, rtol=0.05)


@pytest.mark.parametrize("name", ADAPTING)
@pytest.mark.parametrize("rank", [0, 2])
def test_every_recipe_begins_at_the_base_and_can_be_used(name, rank, work):
    run = find(name, ["base=padded", f"rank={rank}", *BUDGET])
    out = work / f"{name}-{rank}"
    told = list(start(run, out))
    assert all(t.stepped.loss > 0 for t in told) and told[-1].held_out is not None
    model = open_pretrained(out)
    frozen = base_weights(bare(model.model))
    same = torch.equal(
        frozen["layers.0.attention.q.weight"],
        tensors(PADDED)["model.layers.0.self_attn.q_proj.weight"],
    )
    assert same == (rank > 0)
    assert measured(model, ["text.txt"], rows=2, draws=1).bpb > 0
    *_, last = model.stream("All the", length=9, seed=1)
    assert last.tokens.shape == (1, 16) and not (last.tokens == 257).any()
    if model.block is not None:  # NBDiff's finished text is an autoregressive network's
        front = model.front(model.block, model.sampler(9))
        assert front.finished == BlockCausal(1 if name == "nbdiff" else model.block)
    if model.block is None:
        *_, filled = model.fill("All [[3]] world")
        assert filled.tokens.shape == (1, 13) and not filled.noisy.any()
    else:
        with pytest.raises(BadInput, match="right of a gap"):
            model.infill("All [[3]] world")


def test_what_each_recipe_evaluates(work):
    process = Mixing(258, 257)
    wanted = {
        "a2d": AnyOrder(process),
        "diffullama": AnyOrder(process),
        "dream": AnyOrder(process),
        "nbdiff size=8": BlockAnyOrder(process, 8, causal=True),
        "sdar": BlockAnyOrder(process, 4),
        "sdar complementary=true size=8": BlockAnyOrder(process, 8),
        "llada2 size=8": BlockAnyOrder(process, 8),
        "llada2 decay=0.0": AnyOrder(process),
    }
    shifted = {"diffullama", "dream", "nbdiff", "sdar complementary=true size=8"}
    for words, bound in wanted.items():
        name, *settings = words.split()
        run = find(name, ["base=exact", *BUDGET, *settings])
        assert run.objective.bound(False) == bound
        assert (type(run.model).__name__ == "ShiftedConfig") == bool({words, name} & shifted)
        assert run.init == "exact" and run.model.max_len == 64
    assert find("diffullama", ["base=exact", *BUDGET]).objective.mask == Full()


def test_an_adapted_model_can_be_adapted_again(work):
    run = find("dream", ["base=padded", "rank=2", *BUDGET])
    list(start(run, work / "once"))
    for rank in (0, 3):
        base = base_of("once")
        before = base.model(torch.tensor([[65, 257, 7, 257]]), mask=Full())
        model, words = fresh(base, rank=rank)
        take_over(model, base, words.mask_id, 5)
        after = model.eval()(torch.tensor([[65, 257, 7, 257]]), mask=Full())
        close(after[..., :257], before[..., :257])


@pytest.mark.parametrize(("name", "more"), [("dream", []), ("llada2", ["size=8"])])
def test_an_adapted_model_is_converted_with_its_adapters_folded_in(name, more, work):
    list(start(find(name, ["base=exact", "rank=2", *BUDGET, *more]), work / f"{name}-low"))
    before, x = open_pretrained(f"{name}-low"), torch.tensor([[65, 257, 7, 257]])
    want = before.model(x, mask=Full())[..., :257]
    convert(f"{name}-low", work / f"{name}-own", Layout.redraft)
    after = open_pretrained(f"{name}-own")
    close(after.model(x, mask=Full())[..., :257], want)
    assert after.block == before.block == (8 if name == "llada2" else None)
    assert getattr(before.trained, "size", None) == before.block


def test_no_other_layout_says_causal_between_blocks(work):
    list(start(find("nbdiff", ["base=exact", *BUDGET]), work / "causal"))
    with pytest.raises(BadInput, match="causally"):
        convert("causal", work / "causal-hf", Layout.hf)


def test_a_diffusion_model_keeps_its_mask(work):
    run = find("dream", ["base=padded", *BUDGET])
    list(start(run, work / "first"))
    base = base_of("first")
    model, words = fresh(base)
    take_over(model, base, words.mask_id, 5)
    for one, two in zip(model.parameters(), base.model.parameters(), strict=True):
        assert torch.equal(one, two)


def test_the_base_as_it_is_has_the_exact_likelihood(work):
    """The row "AR as it is": the same text, the same tokens."""
    base = base_of("exact")
    x = torch.tensor([base.tokenizer.encode("All the world")])
    batch = Batch(x, torch.ones_like(x).bool(), 0 * x, torch.arange(1), 1)
    assert isinstance(base.objective, CrossEntropy)
    model, words = fresh(base)
    take_over(model, base, words.mask_id, 0)
    process = Mixing(words.vocab_size, words.mask_id)
    _, nats, _ = BlockAnyOrder(process, 1, causal=True).scored(model.eval(), batch, Rng.seeds(0))
    raw = base.model.model(x, mask=BlockCausal(1)).log_softmax(-1)
    close(nats[:, 1:], -raw[:, :-1].gather(-1, x[:, 1:, None]).squeeze(-1))


# stages
def sizes(course):
    """Where each stage ends and the size of its blocks; None: whole rows."""
    found = []
    for stage in course.stages:
        inner = getattr(stage.objective, "objective", stage.objective)
        found.append((round(stage.until, 6), getattr(inner, "size", None)))
    return found


def test_blocks_double_until_they_have_their_size():
    process = Mixing(19, 5)
    assert sizes(growing(process, 8, 1.0, 0.6)) == [(0.2, 1), (0.4, 2), (0.6, 4), (1.0, 8)]
    assert sizes(growing(process, 6, 1.0, 0.6)) == [(0.2, 1), (0.4, 2), (0.6, 4), (1.0, 6)]
    assert sizes(growing(process, 1, 1.0, 0.6)) == [(1.0, 1)]
    assert sizes(growing(process, 8, 1.0, 0.0)) == [(1.0, 8)]
    assert all(stage.objective.weight == 0.3 for stage in growing(process, 8, 0.3, 0.6).stages)
    for size, grow in [(0, 0.5), (8, 1.0), (8, -0.1)]:
        with pytest.raises(BadInput):
            growing(process, size, 1.0, grow)


def test_blocks_go_up_to_the_row_and_down_again():
    process = Mixing(19, 5)
    found = sizes(up_and_down(process, 256, 32, 0.3, 0.3))
    up = [(0.06, 1), (0.12, 4), (0.18, 32), (0.24, 64), (0.3, 128)]
    assert found == [*up, (0.7, None), (0.8, 128), (0.9, 64), (1.0, 32)]
    assert sizes(up_and_down(process, 32, 8, 0.2, 0.2)) == [
        (0.1, 1),
        (0.2, 4),
        (0.8, None),
        (0.9, 16),
        (1.0, 8),
    ]
    assert sizes(up_and_down(process, 256, 256, 0.0, 0.3)) == [(1.0, None)]
    assert sizes(up_and_down(process, 100, 32, 0.0, 0.5))[1:] == [(0.75, 50), (1.0, 32)]
    assert sizes(up_and_down(process, 64, 8, 0.0, 0.0)) == [(1.0, None)]
    for warmup, decay in [(0.5, 0.5), (-0.1, 0.2), (0.2, -0.1)]:
        with pytest.raises(BadInput):
            up_and_down(process, 64, 8, warmup, decay)


def test_what_cannot_be_adapted_is_refused(work):
    with pytest.raises(BadInput, match="nowhere"):
        find("dream", ["base=nowhere", *BUDGET])
    with pytest.raises(BadInput, match="rank"):
        find("dream", ["base=exact", "rank=-1", *BUDGET])
    run = find("dream", ["base=exact", *BUDGET])
    wide = replace(run.model.inner, width=64)
    with pytest.raises(BadInput, match="the run's is"):
        start(replace(run, model=replace(run.model, inner=wide)), work / "wide")
    assert isinstance(run.objective, NELBO) and not (work / "wide").exists()
