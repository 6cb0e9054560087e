"""Networks: the same logits from the same checkpoint."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from redraft.cache.store import Dense
from redraft.mask import BlockCausal, BlockDiffusion, Documents, Full, Mask
from redraft.model.formats.l2d import FILE
from redraft.process.mixing import Mixing
from redraft.process.reading import Score
from redraft.schedule import Linear
from tests.goldens import blocks, l2d
from tests.goldens.case import NOT_BUILT, Case, NotOffered
from tests.goldens.networks import Network, grad_norm, network

TABLES = ("block_mask", "attend", "attention_bias", "attention_mask")  # who may see whom


@dataclass(frozen=True, eq=False)
class Table(Mask):
    """A mask that is given entry by entry."""

    seen: Tensor  # bool [B, Q, K]

    def may(self, b, q, k):
        return self.seen[b, q, k]


def architecture(case: Case) -> dict:
    """What the case asks for, by the arrays that it brings."""
    found = network(case.checkpoint)
    if FILE in found.raw:
        with torch.no_grad():
            return l2d.architecture(case, found)
    if "loss" in case.outputs:
        if "p_mask_at_masked" in case:
            return blocks.weighed(case, found)
        return (blocks.complementary if "u_mask" in case else next_token)(case, found)
    with torch.no_grad():
        if "hidden_states" in case.outputs and "input_ids" not in case:
            return {"hidden_states": hidden(found, case.beside["full__input_ids"])}
        if "remasking_strategy" in case.settings:
            return blocks.written(case, found)
        if "replace_from" in case:
            return {"logits": blocks.resumed(case, found)}
        if "prompt" in case:
            return {"tokens": greedy(found, case["prompt"], case["tokens"].shape[1])}
        if "prefix_len" in case:
            return {"logits": continued(case, found)}
        if found.raw.get("model_type") == "bd3lm":
            return {"logits": blockwise(case, found)}
        return answers(case, found)


def visible(case: Case, found: Network, x: Tensor) -> Mask:
    """Who may see whom: as a table, or by what kind of network it is and which tokens are real."""
    for name in TABLES:
        if name in case and case[name].ndim > (name == "attention_mask") + 1:
            table = case[name].bool()
            return Table(table.view(-1, *table.shape[-2:]).expand(len(x), -1, -1))
    causal = found.kind.causal or case.about.get("note") == "annealing ratio 0"
    mask = BlockCausal(1) if causal else Full()
    return mask & Documents(case["attention_mask"] - 1) if "attention_mask" in case else mask


def answers(case: Case, found: Network) -> dict:
    """By what the network is told and what may see what."""
    x = case["input_ids"]
    more = {"t": told(case), "mask": visible(case, found, x)}
    more |= {"at": case["position_ids"]} if "position_ids" in case else {}
    more |= {"types": case["token_type_ids"]} if "token_type_ids" in case else {}
    if getattr(found.model.config, "classes", 0):
        more["label"] = case["cond"] if "cond" in case else torch.full_like(x[:, 0], -1)
    logits = found.model(x, **more)
    if "graph" in found.raw:
        return {"logits": score(found, logits, x, more["t"])}
    got = {"logits": logits}
    if "log_probs" in case:
        process = Mixing(found.vocab_size, found.mask_id)
        got["log_probs"] = process.copy(process.log_x0(logits), x)
    if "hidden_states" in case:
        got["hidden_states"] = hidden(found, x, **more)
    return got


def told(case: Case) -> Tensor | None:
    """What the network is told of the noise, one number a row."""
    given = next((case[n] for n in ("sigma", "timesteps") if n in case), None)
    return None if given is None else given.view(len(case["input_ids"]), 1)


def hidden(found: Network, x: Tensor, **more) -> Tensor:
    """What enters each layer, and what the head reads."""
    states: list[Tensor] = []

    def keep(layer: nn.Module, given: tuple) -> None:
        states.append(given[0])

    hooks = [layer.register_forward_pre_hook(keep) for layer in found.model.layers]
    mask = BlockCausal(1) if found.kind.causal else Full()
    last = found.model.features(x, **({"mask": mask} | more))
    for hook in hooks:
        hook.remove()
    return torch.stack([*states, last])


def greedy(found: Network, prompt: Tensor, length: int) -> Tensor:
    """The likeliest token after the other, never the end; earlier keys and values are kept."""
    tokens, store = prompt, Dense()
    while tokens.shape[1] < length:
        new = tokens[:, store.length :]
        h = found.model.features(new, None, mask=BlockCausal(1), kv=store)
        store.commit(new.shape[1])
        logits = found.model.head(h[:, -1])
        if found.kind.eos_id is not None:
            logits[:, found.kind.eos_id] = -torch.inf
        tokens = torch.cat([tokens, logits.argmax(-1, keepdim=True)], 1)
    return tokens


def continued(case: Case, found: Network) -> Tensor:
    """The logits of the last block, with what is before it in a store."""
    x, before, store = case["input_ids"], int(case["prefix_len"]), Dense()
    size = int(case["block_size"]) if "block_size" in case else x.shape[1] - before
    mask = BlockCausal(size)
    found.model.features(x[:, :before], None, mask=mask, kv=store)
    store.commit(before)
    return found.model.head(found.model.features(x[:, before:], None, mask=mask, kv=store))


def next_token(case: Case, found: Network) -> dict:
    """The mean cross-entropy of the token behind, and its gradient."""
    logits = found.model(case["input_ids"], None, mask=BlockCausal(1))
    labels = case["labels"][:, 1:].flatten()
    loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels, ignore_index=-100)
    return {"loss": loss, "grad_norm": grad_norm(found.model, loss)}


def score(found: Network, logits: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
    """SEDD's log score: the reading of the logits at the t of this sigma."""
    absorb = found.raw["graph"]["type"] == "absorb"
    reading = Score(scaled=found.raw["model"]["scale_by_sigma"])
    mask_id = found.mask_id if absorb else None
    process = Mixing(found.vocab_size, mask_id, 1.0 - absorb, Linear(), reading)
    return process.log_ratios(logits, x, -torch.expm1(-sigma.double()))


def blockwise(case: Case, found: Network) -> Tensor:
    """BD3-LM: noised and clean joined, or a prefix block by block."""
    x, t = case["input_ids"], told(case)
    size, n = int(found.raw["block_size"]), x.shape[1]
    seen = case["block_mask"].bool() if "block_mask" in case else None
    mask = BlockCausal(size)
    if seen is None:
        return stored(found, x, t, size)
    if torch.equal(mask.dense(1, n, n)[0], seen):
        return found.model(x, t, mask=mask)
    mask = BlockDiffusion(size, n // 2)
    if not torch.equal(mask.dense(1, n, n)[0], seen):
        raise NotOffered(f"{NOT_BUILT}: a mask that is neither block-causal nor that of training")
    at = (torch.arange(n) % (n // 2)).expand(x.shape)
    return found.model(x, t, mask=mask, at=at)[:, : n // 2]


def stored(found: Network, x: Tensor, t: Tensor | None, size: int) -> Tensor:
    """Block by block, the earlier ones in a store."""
    store, parts = Dense(), []
    for block in x.split(size, 1):
        parts.append(found.model(block, t, mask=BlockCausal(size), kv=store))
        store.commit(block.shape[1])
    return torch.cat(parts, 1)
