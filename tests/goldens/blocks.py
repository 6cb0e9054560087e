"""SDAR and Fast-dLLM v2: caches inside a block, training losses and whole runs."""

import math

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from redraft.cache.store import Dense
from redraft.mask import BlockCausal, BlockDiffusion
from redraft.process.mixing import Mixing
from redraft.sample.block import Front, generate_blocks
from redraft.sample.order import confidence, leftmost
from redraft.sample.pick import Shares
from redraft.sample.predict import blank
from redraft.sample.unmask import Draw, Unmask
from redraft.types import Rng
from tests.goldens.case import Case, NotOffered
from tests.goldens.networks import Network, grad_norm


def resumed(case: Case, found: Network) -> Tensor:
    """A block whose second half changes; the first half is what it was when it was encoded."""
    x, before = case.beside["kv_cached__input_ids"], int(case.beside["kv_cached__prefix_len"])
    size, half = int(case.beside["kv_cached__block_size"]), int(case["replace_from"])
    store, mask = Dense(), BlockCausal(size)
    found.model.features(x[:, :before], None, mask=mask, kv=store)
    store.commit(before)
    found.model.features(x[:, before:], None, mask=mask, kv=store)
    store.commit(half)
    new = case["block_ids"][:, half:]
    return found.model.head(found.model.features(new, None, mask=mask, kv=store))


def doubled(found: Network, noisy: Tensor, clean: Tensor, size: int) -> tuple[Tensor, ...]:
    """Logits of the noisy half of noisy|clean, and what the network was given."""
    L = clean.shape[1]
    both, at = torch.cat([noisy, clean], 1), torch.arange(L).repeat(2).expand(len(clean), -1)
    mask = BlockDiffusion(size, L)
    logits = found.model(both, None, mask=mask, at=at)[:, :L]
    return logits, both, at, mask.dense(len(clean), 2 * L, 2 * L)


def weighed(case: Case, found: Network) -> dict:
    """SDAR: cross-entropy over the chance of a mask, by the tokens of the answer."""
    x, labels, masked = case["input_ids"], case["labels"], case["masked"].bool()
    size = int(found.meta["block_size"])
    logits, both, at, mask = doubled(found, case["noisy_ids"], x, size)
    nats = cross_entropy(logits[masked], x[masked], reduction="none")
    loss = (nats / case["p_mask_at_masked"]).sum() / (labels != -100).sum()
    q = found.model.layers[0].attention.q.weight
    steep = torch.autograd.grad(loss, q, retain_graph=True)[0]
    got = {"concat_ids": both, "concat_position_ids": at, "block_mask": mask[:, None]}
    return got | {"loss": loss, "grad_norm": grad_norm(found.model, loss), "grad_q0": steep}


def complementary(case: Case, found: Network) -> dict:
    """Fast-dLLM v2: every token is masked in one of two copies; row i is scored on token i + 1."""
    x, labels, size = case["input_ids"], case["labels"], int(found.meta["block_size"])
    p = (1 - 1e-3) * case["u_time"][:, None] + 1e-3
    hit = (case["u_mask"] < p).view(len(x), -1)[:, : x.shape[1]]
    hit = torch.cat([hit, ~hit]) & (labels != -100).repeat(2, 1)
    clean = x.repeat(2, 1)
    noisy = torch.where(hit, found.mask_id, clean)
    logits, both, _, _ = doubled(found, noisy, clean, size)
    wanted = torch.where(hit, clean, -100)
    loss = cross_entropy(logits[:, :-1].flatten(0, 1), wanted[:, 1:].flatten(), ignore_index=-100)
    got = {"network_input": both, "network_labels": wanted, "logits": logits}
    return got | {"loss": loss, "grad_norm": grad_norm(found.model, loss)}


def written(case: Case, found: Network) -> dict:
    """A whole run, block after block. The reference also stores its last block: one more call."""
    settings, prompt = case.settings, case["prompt"]
    size, L = settings["block_length"], prompt.shape[1] + settings["gen_length"]
    total = math.ceil(L / size) * size
    how = settings["remasking_strategy"]
    left, quota = -prompt.shape[1] % size, -(-size // settings["denoising_steps"])
    if how != "sequential" and 0 < left < quota:
        raise NotOffered(
            "a fault of the reference that we do not copy: it writes over the prompt where a "
            "block has fewer masks than tokens are due"
        )
    row: list[int | None] = [*prompt[0].tolist()]
    canvas = blank([row + [None] * (total - len(row))], found.mask_id, 0)
    above = settings["confidence_threshold"] if how == "low_confidence_dynamic" else None
    score = leftmost if how == "sequential" else confidence
    sampler = Unmask(score, Shares(size, settings["denoising_steps"], above), Draw(0.0))
    front = Front(found.model, Mixing(found.vocab_size, found.mask_id), size, 10**6)
    calls: list[None] = []
    hook = found.model.norm.register_forward_hook(lambda *_: calls.append(None))
    *_, last = generate_blocks(front, canvas, sampler, Rng.seeds(0))
    hook.remove()
    return {"tokens": last.tokens, "nfe": torch.tensor(len(calls) + 1)}
