"""Trainers of adapted networks: dLLM's three, and DiffuLLaMA's. They let [MASK] be predicted."""

import torch
from torch import Tensor, nn

from redraft.adapt.shift import Shifted
from redraft.objective.block import BlockNELBO
from redraft.objective.cart import Cart
from redraft.objective.nelbo import NELBO
from redraft.objective.reduce import Weighing, per_masked, per_row, per_sequence, per_target
from redraft.process.mixing import Mixing
from redraft.schedule import Cosine, Linear
from redraft.types import Batch
from tests.goldens.case import NOT_BUILT, Case, NotOffered
from tests.goldens.given import Given
from tests.goldens.networks import grad_norm, network

EPS = 1e-6  # what dLLM adds to the share of masks that it divides by
NORMS = {"token": per_target, "sequence": per_sequence, "batch": per_row}
SCHEDULES = {"linear": Linear(), "cosine": Cosine()}


class Predicting(nn.Module):
    """A network whose [MASK] has an id of its own behind all others, so that it may be predicted.

    redraft never lets it; the references do, and their losses are over all tokens.
    """

    def __init__(self, model: nn.Module, mask_id: int, size: int):
        super().__init__()
        self.model, self.mask_id, self.size = model, mask_id, size
        self.timed, self.head_parameters = False, model.head_parameters

    def features(self, x, t=None, *, mask, **more):
        return self.model.features(
            x.masked_fill(x == self.size, self.mask_id), t, mask=mask, **more
        )

    def head(self, h):
        return nn.functional.pad(self.model.head(h), (0, 1))


class Rolled(nn.Module):
    """dLLM's shift of a doubled row: every row speaks of the one behind it, also into a block."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model, self.head, self.head_parameters = model, model.head, model.head_parameters

    def features(self, x, t=None, *, mask, **more):
        h = self.model.features(x, t, mask=mask, **more)
        return torch.cat([h[:, :1], h[:, :-1]], 1)


def batch_of(tokens: Tensor, target: Tensor, real: Tensor) -> Batch:
    """Rows whose time is the draw itself; what is not real is seen by nothing that is."""
    return Batch(tokens, target, real.long() - 1, torch.arange(len(tokens)), rows=1)


def noised(process: Mixing, batch: Batch, t: Tensor, u: Tensor) -> Tensor:
    """The rows with the stored noise."""
    xt = process.corrupt(batch.tokens, t[:, None].double(), Given(kept=1 - u.double()))
    return torch.where(batch.target, xt, batch.tokens)


def dllm(case: Case) -> dict:
    """dLLM: a loss of one of its trainers, or a table of CART weights."""
    settings = case.settings
    if "weight" in case.outputs:
        masked = case["masked"]
        return {"weight": Cart(float(settings["p"]))(masked, torch.zeros_like(masked).long())}
    if settings["scheduler"] not in SCHEDULES or settings["loss_norm_type"] not in NORMS:
        raise NotOffered(f"{NOT_BUILT}: {settings['scheduler']}, {settings['loss_norm_type']}")
    model, mask_id = network(case.checkpoint).model, int(settings["mask_token_id"])
    size = settings.get("block_size")
    if settings.get("right_shift_logits"):
        model = Shifted(model) if size is None else Rolled(model)
    V = model.head_parameters()[0].shape[0]
    process = Mixing(V + 1, V, schedule=SCHEDULES[settings["scheduler"]])
    batch = supervised(case, size is not None)
    eps = float(settings["time_epsilon"])
    t = (1 - eps) * case["u_time"] + eps
    xt = noised(process, batch, t, case["u_mask"])
    loss = scored(settings, process, Predicting(model, mask_id, V), batch, t, xt)
    shown = xt.masked_fill(xt == V, mask_id)
    shown = shown if size is None else torch.cat([shown, batch.tokens], 1)
    got = {"t": t, "model_input_ids": shown, "loss": loss}
    return got | {"grad_norm": grad_norm(model, loss)}


def supervised(case: Case, block: bool) -> Batch:
    """Rows, their targets and what is padding; behind a beginning where the shift asks for one."""
    x, labels, settings = case["input_ids"], case["labels"], case.settings
    real = case["attention_mask"] if "attention_mask" in case else torch.ones_like(x)
    if settings.get("right_shift_logits") and not (labels[:, 0] == -100).all():
        first = torch.ones_like(x[:, :1])
        x = torch.cat([first * int(settings["bos_token_id"]), x], 1)
        labels, real = torch.cat([-100 * first, labels], 1), torch.cat([first, real], 1)
    target = labels != -100
    return batch_of(torch.where(target, labels, x), target, torch.ones_like(x) if block else real)


def everywhere(cart: Cart):
    """The reference counts padding as clear text."""
    return lambda noised, doc: cart(noised, torch.zeros_like(doc))


def scored(settings: dict, process: Mixing, model, batch: Batch, t: Tensor, xt: Tensor) -> Tensor:
    """By the weight, the divisor and the layout that the trainer is told."""
    kind, norm = settings["loss_weight_type"], NORMS[settings["loss_norm_type"]]
    share = 1 - process.schedule.alpha(t[:, None].double())
    weigh = None
    if kind.startswith("cart"):
        weigh, change = (
            everywhere(Cart(float(kind.partition("geo_p:")[2].rstrip("]") or 0.3))),
            share / share,
        )
    elif kind == "uniform":
        change = 1 / process.schedule.weight(t[:, None].double())
    else:
        change = share / (share + EPS)

    def reduce(noised: Tensor, target: Tensor, rate: Tensor) -> Weighing:
        return norm(noised, target, rate * change)

    wide = t[:, None].double()
    if "block_size" in settings:
        objective = BlockNELBO(process, int(settings["block_size"]), reduce=reduce)
        wide = wide.expand(batch.tokens.shape)
    else:
        objective = NELBO(process, reduce=reduce, weigh=weigh)
    loss, _ = objective.given(model, batch, wide, xt)
    return loss.total / loss.count


def diffullama(case: Case) -> dict:
    """DiffuLLaMA: the weighted loss over the number of masks; with the shift not of the first."""
    settings, found = case.settings, network(case.checkpoint)
    model, mask_id, V = found.model, found.mask_id, found.vocab_size
    process = Mixing(V + 1, V)
    x, shift = case["input_ids"], bool(settings.get("shift", True))
    batch = batch_of(x, case["src_mask"] == 0, torch.ones_like(x))
    t = (1 - 1e-3) * case["u_time"] + 1e-3
    xt = noised(process, batch, t, case["u_mask"])

    def reduce(noised: Tensor, target: Tensor, rate: Tensor) -> Weighing:
        later = torch.arange(x.shape[1]) > 0 if shift else torch.ones(x.shape[1]).bool()
        return per_masked(noised & later, target, rate)

    seen = Predicting(Shifted(model) if shift else model, mask_id, V)
    objective = NELBO(process, reduce=reduce)
    loss, _ = objective.given(seen, batch, t[:, None].double(), xt)
    mean = loss.total / loss.count
    got = {"t": t, "xt": xt.masked_fill(xt == V, mask_id), "loss": mean}
    return got | {"grad_norm": grad_norm(model, mean)}
