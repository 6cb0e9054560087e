"""What a loss is divided by: the conventions of the field, by name.

Every one turns the cross-entropies of a batch into sum(weight * nll) / count. `noised` says
which target positions were masked, `rate` is the bound's weight at their time: 1/t for the
linear schedule. `per_target` is the bound in nats per target token, with a global denominator.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from redraft.types import Where

Weights = Float[Tensor, "B L"]


@dataclass(frozen=True)
class Weighing:
    """Weight of each position's cross-entropy, and the denominator.

    `path` is a further weight that is multiplied with the model's own (detached) probability
    of the right token.
    """

    weight: Weights
    count: Float[Tensor, ""]
    path: Weights | None = None


def per_target(noised: Where, target: Where, rate: Weights) -> Weighing:
    """Over all target positions (dLLM `token`, d1, SDAR; toy N3): the NELBO per token."""
    return Weighing(rate * noised, target.sum().to(rate))


def per_position(noised: Where, target: Where, rate: Weights) -> Weighing:
    """Over all positions, prompts included (LLaDA pre-training, MDLM, SMDM; N1)."""
    return Weighing(rate * noised, rate.new_tensor(target.numel()))


def per_sequence(noised: Where, target: Where, rate: Weights) -> Weighing:
    """Each row over its own targets, then over rows (LLaDA SFT; N2)."""
    targets = target.sum(-1, keepdim=True).clamp(min=1)
    return Weighing(rate * noised / targets, rate.new_tensor(len(target)))


def per_row(noised: Where, target: Where, rate: Weights) -> Weighing:
    """Summed over positions, averaged over rows (dLLM `batch`, SEDD; N4)."""
    return Weighing(rate * noised, rate.new_tensor(len(target)))


def per_masked(noised: Where, target: Where, rate: Weights) -> Weighing:
    """Weighted, but over the masked positions (DiffuLLaMA; N5): not a bound."""
    return Weighing(rate * noised, noised.sum().to(rate))


def realised_ratio(noised: Where, target: Where, rate: Weights) -> Weighing:
    """1/t replaced by the share that was really masked (MegaDLMs; N6), over all positions."""
    masked = noised.sum(-1, keepdim=True).clamp(min=1)
    weight = noised * (target.shape[1] / masked).to(rate)
    return Weighing(weight, rate.new_tensor(target.numel()))


def flat_masked(noised: Where, target: Where, rate: Weights) -> Weighing:
    """Plain mean over masked positions (dFactory; N7): not a bound."""
    return Weighing(noised.to(rate), noised.sum().to(rate))


def unweighted(noised: Where, target: Where, rate: Weights) -> Weighing:
    """Masked positions alike, over all targets (BD3-LM clipped above one half): not a bound."""
    return Weighing(noised.to(rate), target.sum().to(rate))


def flat_masked_path(noised: Where, target: Where, rate: Weights) -> Weighing:
    """`flat_masked` plus the path term of Open-dLLM (N8), weighted by the model's confidence."""
    return Weighing(noised.to(rate), noised.sum().to(rate), rate * noised)


def flat_target(noised: Where, target: Where, rate: Weights) -> Weighing:
    """Plain mean over targets, masked or not (Automodel's block diffusion; N9)."""
    return Weighing(target.to(rate), target.sum().to(rate))
