"""From the words of a command line to a sampler. The one place that branches on such words."""

from enum import StrEnum

from redraft.errors import BadInput


class Order(StrEnum):
    """Which position is written first."""

    margin = "margin"
    confidence = "confidence"
    entropy = "entropy"
    random = "random"
    left = "left"
    ancestral = "ancestral"
    first_hitting = "first-hitting"


class Kind(StrEnum):
    """How a model of vectors goes from noise to text."""

    ddpm = "ddpm"
    ddim = "ddim"
    euler = "euler"
    heun = "heun"
    dpm = "dpm"
    sde = "sde"


def solver_of(model, kind: Kind | None, order: Order | None, clamp: float | None, given: dict):
    """The solver that the options describe, for a model of vectors; else None."""
    from redraft.process.gaussian import Gaussian
    from redraft.sample import solver

    if not isinstance(model.process, Gaussian):
        if kind is not None or clamp is not None:
            word = "--solver" if kind is not None else "--clamp"
            raise BadInput(
                f"{word} is for models of vectors; this one has tokens: choose an --order"
            )
        return None
    if order is not None:
        kinds = ", ".join(Kind)
        raise BadInput(f"--order is for models of tokens; this one has vectors: --solver {kinds}")
    refuse("a model of vectors", given, "temperature", "top-k", "top-p", "threshold")
    rules = {
        Kind.ddpm: solver.DDPM(),
        Kind.ddim: solver.DDIM(),
        Kind.euler: solver.DDIM(),  # the same step
        Kind.heun: solver.Heun(solver.straight_frame),
        Kind.dpm: solver.DPM(),
        Kind.sde: solver.SDE(),
    }
    return solver.Solver(model.process, rules[kind or Kind.heun], given["steps"] or 64, clamp=clamp)


def sampler_of(model, tokens: int, order: Order | None, usual, draw, given: dict):
    """The sampler that the options describe. An option that it would not read is refused.

    `usual` is the order and `draw` the choice of tokens where the options say nothing.
    """
    from redraft.sample import ancestral, first_hitting, unmask

    if given["temperature"] == 0:
        refuse("--temperature 0", given, "top-k", "top-p")
    choice = [given[name] for name in ("temperature", "top-k", "top-p")]
    if choice != [None, None, None]:
        draw = unmask.Draw(1.0 if choice[0] is None else choice[0], *choice[1:])
    if model.causal:
        if order not in (None, Order.left):
            raise BadInput(f"--order {order.value}: this model writes from left to right only")
        refuse("an autoregressive model", given, "steps", "threshold")
        return unmask.Unmask(unmask.leftmost, unmask.TopK(1), draw)
    steps, threshold = given["steps"], given["threshold"]
    order = order or (usual if threshold is None else Order.confidence)
    if order is Order.ancestral:
        refuse("--order ancestral", given, "temperature", "top-k", "top-p", "threshold")
        return ancestral.Ancestral(model.process, steps or tokens)
    if order is Order.first_hitting:
        refuse("--order first-hitting", given, *given)
        return first_hitting.FirstHitting(model.process)
    scores = {
        Order.margin: unmask.margin,
        Order.confidence: unmask.confidence,
        Order.entropy: unmask.neg_entropy,
        Order.random: unmask.random,
        Order.left: unmask.leftmost,
    }
    score = scores[order]
    if threshold is None:
        return unmask.Unmask(score, unmask.Steps(steps or tokens), draw)
    refuse("--threshold", given, "steps")
    if score not in (unmask.margin, unmask.confidence):
        raise BadInput(f"--order {order.value} has no scores between 0 and 1 for --threshold")
    return unmask.Unmask(score, unmask.Threshold(threshold), draw)


def options(temperature, top_k, top_p, steps, threshold) -> dict:
    """What was given, by the names of the command line; None where nothing was."""
    return {
        "temperature": temperature,
        "top-k": top_k,
        "top-p": top_p,
        "steps": steps,
        "threshold": threshold,
    }


def refuse(what: str, given: dict, *unread: str) -> None:
    """BadInput for an option that would not be read."""
    for option in unread:
        if given[option] is not None:
            raise BadInput(f"{what} does not go with --{option}")
