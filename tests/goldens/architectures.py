"""Networks: the same logits from the same checkpoint."""

import torch

from redraft.mask import BlockCausal, BlockDiffusion, Documents, Full
from redraft.process.mixing import Mixing
from redraft.process.reading import Score
from redraft.schedule import Linear
from tests.goldens.case import NOT_BUILT, Case, NotOffered
from tests.goldens.networks import Network, network


def architecture(case: Case) -> dict:
    """Logits, and log-probabilities where the reference gives them too."""
    found = network(case.checkpoint)
    with torch.no_grad():
        return answers(case, found)


def answers(case: Case, found: Network) -> dict:
    """By what the network is told and what may see what."""
    x, raw = case["input_ids"], found.raw
    told = next((case[n] for n in ("sigma", "timesteps") if n in case), None)
    t = None if told is None else told.view(len(x), 1)
    if raw.get("model_type") == "bert":
        types = case["token_type_ids"] if "token_type_ids" in case else None
        real = case["attention_mask"] if "attention_mask" in case else torch.ones_like(x)
        return {"logits": found.model(x, None, mask=Documents(real - 1), types=types)}
    if raw.get("model_type") == "bd3lm":
        return {"logits": blockwise(case, found, x, t)}
    label = {}
    if found.model.config.classes:
        label["label"] = case["cond"] if "cond" in case else torch.full_like(x[:, 0], -1)
    logits = found.model(x, t, mask=Full(), **label)
    if "graph" in raw:
        return {"logits": score(found, logits, x, t)}
    got = {"logits": logits}
    if "log_probs" in case:
        process = Mixing(found.vocab_size, found.mask_id)
        got["log_probs"] = process.copy(process.log_x0(logits), x)
    return got


def score(found: Network, logits: torch.Tensor, x: torch.Tensor, sigma: torch.Tensor):
    """SEDD's log score: the reading of the logits at the t of this sigma."""
    absorb = found.raw["graph"]["type"] == "absorb"
    reading = Score(scaled=found.raw["model"]["scale_by_sigma"])
    mask_id = found.mask_id if absorb else None
    process = Mixing(found.vocab_size, mask_id, 1.0 - absorb, Linear(), reading)
    return process.log_ratios(logits, x, -torch.expm1(-sigma.double()))


def blockwise(case: Case, found: Network, x: torch.Tensor, t: torch.Tensor | None):
    """BD3-LM: noised and clean joined, or a prefix block by block."""
    size, n = int(found.raw["block_size"]), x.shape[1]
    seen = case["block_mask"].bool() if "block_mask" in case else None
    mask = BlockCausal(size)
    if seen is None or torch.equal(mask.dense(1, n, n)[0], seen):
        return found.model(x, t, mask=mask)
    mask = BlockDiffusion(size, n // 2)
    if not torch.equal(mask.dense(1, n, n)[0], seen):
        raise NotOffered(f"{NOT_BUILT}: a mask that is neither block-causal nor that of training")
    at = (torch.arange(n) % (n // 2)).expand(x.shape)
    return found.model(x, t, mask=mask, at=at)[:, : n // 2]
