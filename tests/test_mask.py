import jaxtyping
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention as sdpa

from redraft.mask import (
    BlockCausal,
    BlockDiffusion,
    Documents,
    Full,
    NumberedCausal,
    NumberedDiffusion,
    Window,
    block_causal,
    block_diffusion,
    block_of,
)
from redraft.model import attention
from redraft.model.attention import attend, flexible, sight

DOC = torch.tensor([[0] * 5 + [1] * 4 + [-1] * 3, [0] * 2 + [1] * 6 + [2] * 4])
B, L = DOC.shape
CPU = torch.device("cpu")
TWICE = torch.cat([DOC[:, :6], DOC[:, :6]], 1)  # noisy | clean
MASKS = {
    "full": Full(),
    "causal": BlockCausal(1),
    "blocks": BlockCausal(4),
    "one_block": BlockCausal(L),
    "diffusion": BlockDiffusion(2, 6),
    "diffusion_ragged": BlockDiffusion(4, 6),
    "window": Window(2),
    "packed_causal_window": Documents(DOC) & Window(3) & BlockCausal(1),
    "packed": Documents(DOC),
    "packed_causal": BlockCausal(1) & Documents(DOC),
    "packed_blocks": Documents(DOC) & BlockCausal(3) & Full(),
    "packed_diffusion": BlockDiffusion(2, 6) & Documents(TWICE),
    "local_blocks": block_causal(DOC, 3),
    "local_diffusion": block_diffusion(TWICE[:, :6], 2),
}
every = pytest.mark.parametrize("name", MASKS)


def diffusion(size):
    """BD3-LM's rule as a sentence for each pair of halves, for 6 noisy and 6 clean positions."""

    def may(b, q, k):
        block_q, block_k = (q % 6) // size, (k % 6) // size
        if q < 6:
            return block_k == block_q if k < 6 else block_k < block_q
        return k >= 6 and block_k <= block_q

    return may


def same(doc, b, q, k):
    return doc[b, q] == doc[b, k]


def local(doc, b, i, size):
    """The block of a position within its document."""
    return (i - doc[b].tolist().index(doc[b, i])) // size


def local_diffusion(b, q, k):
    doc = TWICE[:, :6]
    block_q, block_k = local(doc, b, q % 6, 2), local(doc, b, k % 6, 2)
    if not same(doc, b, q % 6, k % 6):
        return False
    if q < 6:
        return block_k == block_q if k < 6 else block_k < block_q
    return k >= 6 and block_k <= block_q


MEANING = {
    "full": lambda b, q, k: True,
    "causal": lambda b, q, k: k <= q,
    "blocks": lambda b, q, k: k < 4 * (q // 4 + 1),
    "one_block": lambda b, q, k: True,
    "diffusion": diffusion(2),
    "diffusion_ragged": diffusion(4),
    "window": lambda b, q, k: -2 <= q - k <= 2,
    "packed_causal_window": lambda b, q, k: 0 <= q - k <= 3 and DOC[b, q] == DOC[b, k],
    "packed": lambda b, q, k: DOC[b, q] == DOC[b, k],
    "packed_causal": lambda b, q, k: k <= q and DOC[b, q] == DOC[b, k],
    "packed_blocks": lambda b, q, k: k < 3 * (q // 3 + 1) and DOC[b, q] == DOC[b, k],
    "packed_diffusion": lambda b, q, k: diffusion(2)(b, q, k) and TWICE[b, q] == TWICE[b, k],
    "local_blocks": lambda b, q, k: (
        same(DOC, b, q, k) and local(DOC, b, k, 3) <= local(DOC, b, q, 3)
    ),
    "local_diffusion": lambda b, q, k: local_diffusion(b, q, k),
}


def meant(name):
    pairs = [[[bool(MEANING[name](b, q, k)) for k in range(L)] for q in range(L)] for b in range(B)]
    return torch.tensor(pairs)


def heads(*shape):
    rng = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, generator=rng) for _ in range(3)]


@every
def test_dense_is_what_the_mask_means(name):
    assert torch.equal(MASKS[name].dense(B, L, L), meant(name))


@every
def test_simple_forbids_the_same(name):
    assert torch.equal(MASKS[name].simple().dense(B, L, L), meant(name))


def test_block_diffusion_is_the_published_picture():
    rows = "11......|11......|..1111..|..1111..|....11..|....11..|....1111|....1111".split("|")
    seen = BlockDiffusion(2, 4).dense(1, 8, 8)[0].int()
    assert ["".join(map(str, row)) for row in seen.tolist()] == [r.replace(".", "0") for r in rows]


def test_blocks_are_counted_from_the_start_of_each_document():
    doc = torch.tensor([[0] * 5 + [1] * 4 + [-1] * 3, [7] * 12, [0, 1] * 6])
    want = ["000112223444", "000111222333", "0123456789AB"]
    assert ["".join(f"{n:X}" for n in row) for row in block_of(doc, 3).tolist()] == want
    assert torch.equal(block_of(doc, 1), torch.arange(12).expand(3, 12))


def test_without_documents_blocks_need_no_numbers():
    one = torch.zeros(2, 6, dtype=torch.long)
    assert block_causal(one, 2) == BlockCausal(2)
    assert block_diffusion(one, 2) == BlockDiffusion(2, 6)
    number = block_of(one, 2)
    for numbered, plain in (
        (NumberedCausal(number), BlockCausal(2)),
        (NumberedDiffusion(number), BlockDiffusion(2, 6)),
    ):
        n = 6 if plain == BlockCausal(2) else 12
        assert torch.equal(numbered.dense(2, n, n), plain.dense(2, n, n))


def test_one_block_is_full_noise_without_clean_text_and_blocks_of_one_see_themselves():
    seen = BlockDiffusion(4, 4).dense(1, 8, 8)[0]
    assert seen[:4, :4].all() and not seen[:4, 4:].any() and seen[4:, 4:].all()
    seen = BlockDiffusion(1, 4).dense(1, 8, 8)[0]
    assert torch.equal(seen[:4, :4], torch.eye(4).bool())
    assert torch.equal(seen[:4, 4:], torch.ones(4, 4).bool().tril(-1))
    assert torch.equal(seen[4:, 4:], torch.ones(4, 4).bool().tril())


@every
def test_a_cut_is_a_place_before_which_nobody_behind_it_looks(name):
    mask, cut = MASKS[name], MASKS[name].cut()
    assert (cut is None) == ("diffusion" not in name)
    if cut is not None:
        assert cut == 6 and not mask.dense(B, L, L)[:, cut:, :cut].any()


def test_documents_forbid_nothing_where_there_is_one():
    one = Documents(torch.tensor([[3, 3, 3], [0, 0, 0]]))
    assert one.simple() == Full()
    assert (BlockCausal(1) & one).simple() == (one & BlockCausal(1)).simple() == BlockCausal(1)
    assert (one & Full()).simple() == Full()
    padded = Documents(torch.tensor([[0, 0, -1], [0, 0, 0]]))
    assert padded.simple() is padded
    both = (BlockCausal(1) & padded).simple()
    assert (both.one, both.two) == (BlockCausal(1), padded)


@every
def test_everybody_sees_himself(name):
    """A row of a softmax without any key would be NaN."""
    assert MASKS[name].dense(B, L, L).diagonal(dim1=1, dim2=2).all()


@every
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("longest", [L - 1, L])
def test_attention_is_the_softmax_over_what_may_be_seen(name, training, longest, monkeypatch):
    """By every kernel, and the same for the gradients."""
    monkeypatch.setattr(attention, "EXPLICIT", longest)
    inputs = [x.requires_grad_(training) for x in heads(B, 2, L, 8)]
    out = attend(*inputs, sight(MASKS[name], B, L, CPU))
    q, k, v = inputs
    score = (q @ k.mT / 8**0.5).masked_fill(~meant(name)[:, None], -torch.inf)
    want = score.softmax(-1) @ v
    torch.testing.assert_close(out, want, atol=1e-5, rtol=1e-5)
    if training:
        ours, theirs = (torch.autograd.grad(x.sin().sum(), inputs) for x in (out, want))
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_a_mask_that_forbids_nothing_costs_nothing():
    one = Documents(torch.zeros(B, L, dtype=torch.long))
    full, causal = (sight(mask & one, B, L, CPU) for mask in (Full(), BlockCausal(1)))
    assert not full.causal and full.dense is None and full.block is None
    assert causal.causal and causal.dense is None and causal.block is None


@pytest.mark.parametrize("training", [False, True])
def test_padding_gives_numbers_and_takes_no_part(training):
    q, k, v = heads(B, 2, L, 8)
    q.requires_grad_(training)
    seen = sight(Documents(DOC), B, L, CPU)
    out = attend(q, k, v, seen)
    k[0, :, 9:], v[0, :, 9:] = 9.0, 9.0
    after = attend(q, k, v, seen)
    assert out.isfinite().all() and after.isfinite().all()
    torch.testing.assert_close(after[0, :, :9], out[0, :, :9])


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@every
def test_flex_agrees_with_the_reference(name, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # dynamo cannot trace it
    q, k, v = heads(B, 2, L, 16)
    with torch.no_grad():
        out = flexible(q, k, v, MASKS[name].flex(B, L, L, "cpu"))
    want = sdpa(q, k, v, attn_mask=meant(name)[:, None])
    torch.testing.assert_close(out, want, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mask", [BlockCausal(32), BlockDiffusion(32, 192)])
def test_flex_skips_the_blocks_that_nobody_may_see(mask):
    n = 384
    coarse = mask.dense(1, n, n)[0].view(3, 128, 3, 128).any(3).any(1)
    assert torch.equal(mask.flex(1, n, n, "cpu").to_dense()[0, 0].bool(), coarse)
    assert not coarse.all()
