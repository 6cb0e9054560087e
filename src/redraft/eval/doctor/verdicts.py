"""From what was measured to what is wrong."""

import math
from collections.abc import Iterator

from redraft.eval.doctor.alignment import Alignment, said, token
from redraft.eval.doctor.attention import Seen, named, unused
from redraft.eval.doctor.finding import Finding
from redraft.eval.doctor.leak import Leaks
from redraft.eval.doctor.loss import Measured

KNOWS = 0.98  # of the nats of a uniform guess, above which a model knows nothing
POOR = 0.6  # of the nats of a uniform guess: from there on a model is hardly one of such text
LESS = 0.8  # of its own nats, for another use to be the right one
SAW = 0.01  # nats a token, below which it must have seen the answer
UNTRAINED = "all gains of its norms are 1, so it was never trained"
TEXT = "the measured loss"


def loss(found: Measured, fresh: bool) -> Iterator[Finding]:
    """Whether a model knows anything of a text, and no more than it can."""
    if not math.isfinite(found.nats):
        yield Finding(
            f"the loss is {found.nats}", TEXT, "look for weights or activations that overflow"
        )
    elif found.nats > KNOWS * found.uniform:
        why = f" ({UNTRAINED})" if fresh else ""
        yield Finding(
            f"{found.nats:.2f} nats a token, and a uniform guess has {found.uniform:.2f}: "
            f"it knows nothing of this text{why}",
            TEXT,
            "train it" if fresh else "give --text of the kind it was trained on, or train it",
        )
    elif found.nats < SAW:
        yield Finding(
            f"{found.nats:.4f} nats a token are too few for text that has to be guessed",
            TEXT,
            "it sees what it is scored on, or has learned this text by heart",
        )


def alignment(found: Alignment, offset: int, where: str) -> Iterator[Finding]:
    """Whether the rows speak of the tokens that the configuration says."""
    if found.copies:
        yield Finding(
            f"row i repeats token i, which it is shown, and does not predict the next "
            f"({found.told} nats)",
            "its predictions",
            "it was trained with labels that are not shifted: train again with the next tokens",
        )
    elif found.offset is not None and found.offset != offset:
        yield Finding(
            f"{said(found.offset)}, and by {where} it should be token {token(offset)} "
            f"({found.told} nats)",
            "its predictions",
            MENDS.get(
                (offset, found.offset), "the labels were shifted by another number in training"
            ),
        )


MENDS = {
    (0, 1): "load it as a shifted model: its family is one like Dream, not like LLaDA",
    (1, 0): "load it as one that is not shifted: its family is one like LLaDA, not like Dream",
}


def family(found: Alignment, other: Alignment) -> Iterator[Finding]:
    """Whether a network is of the other kind: poor as it is said to be used, good otherwise.

    Diffusion models that began as autoregressive ones may be good in both ways.
    """
    poor = found.offset is None or found.best > POOR * found.uniform
    if other.offset is None or not poor or other.best > LESS * found.best:
        return
    said_so, really = "a diffusion model", "autoregressive"
    if other.layout != "causal":
        said_so, really = really, said_so
    yield Finding(
        f"it is said to be {said_so} and acts as {really}: {other.best:.2f} nats so, "
        f"{found.best:.2f} as it is said",
        "its predictions",
        "mend model_type: these are weights of another kind of model",
    )


def layout(
    seen: Seen, allowed: Seen, fresh: bool, where: str, sure: bool = True
) -> Iterator[Finding]:
    """Whether rows react to the tokens that the mask allows, and to no other.

    `sure`: the network has learned enough for what it does not use to be a fault.
    """
    name, told = named(seen, allowed), named(allowed)
    if bool((seen & ~allowed).any()):
        q, k = (seen & ~allowed).nonzero()[0].tolist()
        yield Finding(
            f"attention is {name}, and by {where} {told}: row {q} reacts to token {k}",
            "its reaction to changed tokens",
            "the network does not keep to its mask, so what it writes is not what it was scored on",
        )
    elif name != told and not fresh:
        yield Finding(
            f"attention is {name}, and by {where} {told}: "
            f"{100 * unused(seen, allowed):.0f} % of what it may see it does not use",
            "its reaction to changed tokens",
            "attention seems dead, or has a window that the configuration does not tell",
            wrong=sure,
        )


def leaks(found: Leaks) -> Iterator[Finding]:
    """Whether an answer stands in the question."""
    if found.own:
        yield Finding(
            f"{len(found.own)} of {found.scored} scored rows see their own token, such as row "
            f"{found.own[0]}",
            "its objective",
            "score masked positions only, or shift the input of a next-token network",
        )
    elif found.later or found.hidden:
        pairs, kind = (found.later, "later") if found.later else (found.hidden, "hidden")
        yield Finding(
            f"{kind} tokens leak: the scored row {pairs[0][0]} reacts to token {pairs[0][1]}; "
            f"{len(pairs)} such pairs",
            "its objective",
            "its loss is no bound: mend the attention mask it is trained with",
        )
    if found.noise:
        yield Finding(
            "clean text sees the noisy copy beside it",
            "its objective",
            "the clean half must not react to the noise: mend the mask of noisy|clean",
        )
