"""BD3-LM's sampler: block after block, inside a block masked steps or first hitting."""

import torch
from torch import Tensor

from redraft.draw import narrowed
from redraft.mask import BlockCausal
from redraft.process.mixing import Mixing
from redraft.sample.first_hitting import FirstHitting
from redraft.schedule import Linear
from redraft.types import Canvas
from tests.goldens.ancestral import chosen, column, landing, revealed
from tests.goldens.case import Case
from tests.goldens.given import Given
from tests.goldens.networks import network

BOS = 1  # the canvas starts with this token
CONTEXT = 1 << 20


def sampler(case: Case) -> dict:
    """One step of the last block, or a whole run."""
    found = network(case.checkpoint)
    process = Mixing(found.vocab_size, found.mask_id, schedule=Linear())
    size = int(found.raw["block_size"])
    if "x" not in case:
        return run(case, found, process, size)
    x, mass = case["x"], float(case.settings.get("nucleus_p", 1.0))
    t = column(case["t"], len(x))
    s = t - float(case["dt"])
    with torch.no_grad():
        logits = found.model(x, t, mask=BlockCausal(size))[:, -size:]
    block = x[:, -size:]
    logp = short(process.log_x0(logits.double()), mass)
    probs, then = revealed(process, logp, block, t, s, case["uniforms"])
    return {"probs": probs, "next": torch.cat([x[:, :-size], then], 1)}


def short(logp: Tensor, mass: float) -> Tensor:
    """The likeliest tokens of at most this mass (redraft's nucleus has at least it), or one."""
    if mass >= 1:
        return logp
    ranked = logp.exp().sort(-1, descending=True).values
    many = (ranked.cumsum(-1) <= mass).sum(-1).clamp(min=1)
    rows = [
        narrowed(row, 1.0, int(k), None)
        for row, k in zip(logp.flatten(0, -2), many.flatten(), strict=True)
    ]
    return torch.stack(rows).view(logp.shape)


def run(case: Case, found, process: Mixing, size: int) -> dict:
    """All blocks, each begun as masks; a network call counts where it changed something."""
    from redraft.sample.block import Front

    settings, mask_id = case.settings, found.mask_id
    front = Front(found.model, process, size, CONTEXT, bool(settings.get("kv_cache")))
    done, left, passes = [], Draws(case), 0
    for stride in range(int(settings["num_strides"])):
        block = torch.full((1, size), mask_id)
        if stride == 0:
            block[:, 0] = BOS
        block, more = filled(case, front, process, block, left)
        passes += more
        done.append(block)
        front.advance(block, torch.zeros_like(block), size)
    return {"tokens": torch.cat(done, 1), "network_passes": torch.tensor(passes)}


class Draws:
    """The stored draws, in order."""

    def __init__(self, case: Case):
        self.case, self.at = case, 0

    def next(self) -> dict[str, Tensor]:
        """Those of one step."""
        names = ("uniforms", "hitting_uniforms", "hitting_index")
        found = {name: self.case[name][self.at] for name in names if name in self.case}
        self.at += 1
        return found


def filled(case: Case, front, process: Mixing, block: Tensor, left: Draws):
    """One block from masks to text, and how many steps changed it."""
    settings, changed = case.settings, 0
    n, mass = int(settings["num_steps"]), float(settings.get("nucleus_p", 1.0))
    grid, predict = torch.linspace(1, 0, n, dtype=torch.float64), front.predict()
    tau = {}
    for i in range(n if not settings.get("first_hitting") else 10**6):
        if not process.noisy(block).any():
            break
        draws, before = left.next(), block
        t = column(grid[min(i, n - 1)], 1)
        canvas = part(process, block, tau)
        logp = short(predict(canvas, t).double(), mass)
        if settings.get("first_hitting"):
            block, tau = hit(process, canvas, logp, draws)
        else:
            block = revealed(process, logp, block, t, t - 1 / n, draws["uniforms"])[1]
        changed += int((block != before).any())
    return block, changed


def part(process: Mixing, block: Tensor, memo: dict) -> Canvas:
    """The open block as a canvas."""
    noisy, rows = process.noisy(block), torch.zeros(1, dtype=torch.float64)
    one = torch.zeros(1, dtype=torch.long)
    return Canvas(block, noisy, noisy, one, torch.zeros_like(block), memo | {"row": rows})


def hit(process: Mixing, canvas: Canvas, logp: Tensor, draws: dict) -> tuple[Tensor, dict]:
    """One mask lifted: which of those left, and which token, from the stored draws."""
    where = process.noisy(canvas.tokens)[0].nonzero()[int(draws["hitting_index"])]
    score = torch.zeros(canvas.tokens.shape, dtype=torch.float64)
    score[:, where] = 0.5
    probs = logp.exp()
    token = landing(probs, chosen(probs, draws["uniforms"]))
    given = Given(when=1 - draws["hitting_uniforms"].double(), where=score, token=token)
    then = FirstHitting(process).step(canvas, logp, given)
    return then.tokens, {"tau": then.memo["tau"]}
