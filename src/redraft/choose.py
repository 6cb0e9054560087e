"""From the words of a command line to samplers and likelihoods; the one place to read them."""

from enum import StrEnum

from redraft.errors import BadInput
from redraft.refining import Kind, refining


class Order(StrEnum):
    """Which position is written first."""

    margin = "margin"
    confidence = "confidence"
    entropy = "entropy"
    random = "random"
    left = "left"
    ancestral = "ancestral"
    tweedie = "tweedie"
    euler = "euler"
    first_hitting = "first-hitting"


LEAPS = (Order.ancestral, Order.tweedie, Order.euler)


class Growth(StrEnum):
    """How a canvas finds its length."""

    daedal = "daedal"
    append = "append"


class Likelihood(StrEnum):
    """How the likelihood of a text is measured."""

    bound = "bound"
    ode = "ode"
    first = "first"


def likelihood_of(model, kind: Likelihood, steps: int | None):
    """The objective that measures it."""
    from redraft.objective.ode import FlowBound
    from redraft.process.gaussian import Gaussian

    usual = model.objective
    if kind is Likelihood.bound:
        if steps is not None:
            raise BadInput("--steps is for --likelihood ode")
        return usual
    if kind is Likelihood.first:
        if steps is not None or not getattr(model, "refines", False):
            raise BadInput("--likelihood first is for models that refine (L2D), without --steps")
        return model.first
    if not isinstance(model.process, Gaussian):
        raise BadInput("--likelihood ode is for models of vectors; this one has tokens: bound")
    return FlowBound(model.process, steps or 32, mask=model.mask)


def solver_of(model, order: Order | None, vectors: dict, given: dict, more: dict | None = None):
    """The solver that the options describe, for a model of vectors; else None.

    `vectors` are the options for such models, by their names: solver, clamp, churn. `more` are
    those for models of tokens alone.
    """
    from redraft.process.gaussian import Gaussian
    from redraft.sample import rules, solver

    if getattr(model, "refines", False):
        return None
    for word in ("estimate", "heat", "tolerance"):
        if vectors.get(word) is not None:
            raise BadInput(f"--{word} is for models that refine tokens (L2D)")
    if not isinstance(model.process, Gaussian):
        for word, value in vectors.items():
            if value is not None:
                raise BadInput(
                    f"--{word} is for models of vectors; this one has tokens: choose an --order"
                )
        return None
    for word, value in (more or {}).items():
        if value is not None:
            raise BadInput(f"--{word} is for models of tokens; this one has vectors")
    if order is not None:
        kinds = ", ".join(Kind)
        raise BadInput(f"--order is for models of tokens; this one has vectors: --solver {kinds}")
    refuse("a model of vectors", given, "temperature", "top-k", "top-p", "threshold", "correct")
    known = {
        Kind.ddpm: rules.DDPM(),
        Kind.ddim: rules.DDIM(),
        Kind.euler: rules.DDIM(),  # the same step
        Kind.heun: rules.Heun(rules.straight_frame),
        Kind.dpm: rules.DPM(),
        Kind.sde: rules.SDE(),
    }
    steered = getattr(model, "steered", None)
    kind = vectors["solver"] or (Kind.heun if steered is None else Kind.ddpm)
    if kind not in known:
        raise BadInput(f"--solver {kind.value} is for models that refine tokens (L2D)")
    rule = known[kind]
    clamp, churn = vectors["clamp"], churn_of(vectors["churn"])
    found = solver.Solver(model.process, rule, given["steps"] or 64, clamp=clamp, churn=churn)
    return found if steered is None else steered(found)


def churn_of(text: str | None):
    """AMOUNT, or AMOUNT,LOW,HIGH, or AMOUNT,LOW,HIGH,NOISE: S_churn, S_tmin, S_tmax, S_noise."""
    from redraft.sample.grid import Churn

    if text is None:
        return Churn()
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 3, 4):
        raise BadInput(f"--churn {text}: give AMOUNT, or AMOUNT,LOW,HIGH, or AMOUNT,LOW,HIGH,NOISE")
    return Churn(*numbers)


def sampler_of(model, tokens: int, order: Order | None, usual, draw, given: dict, vectors=None):
    """The sampler that the options describe. An option that it would not read is refused.

    `usual` is the order and `draw` the choice of tokens where the options say nothing.
    """
    if getattr(model, "refines", False):
        if order not in (None, Order.left):
            raise BadInput(f"--order {order.value}: this model writes from left to right only")
        refuse("a model that refines tokens", given, "threshold", "correct")
        return refining(model, drawing(draw, given), given["steps"], vectors or {})
    if getattr(model, "block", None) is not None:
        tokens, given = within(model.block, tokens, given)
    if model.causal:
        return leftmost(order, draw, given)
    if getattr(model, "dual", False):
        if order is Order.left:
            return verified(model, given)
        if order is None and not any(given.values()):
            return model.sampler(tokens)
        usual = Order.confidence
    if getattr(model, "own_steps", False):
        if order not in (None, Order.ancestral):
            raise BadInput(f"--order {order.value}: guided so, this model takes ancestral steps")
        refuse("this guidance", given, "temperature", "top-k", "top-p", "threshold", "correct")
        return model.sampler(given["steps"] or tokens)
    if given["correct"] is not None:
        return corrected(model, tokens, order, draw, given)
    if not model.process.absorbing:
        usual = Order.ancestral
    order = order or (usual if given["threshold"] is None else Order.confidence)
    if order not in LEAPS and not model.process.absorbing:
        names = ", ".join(each.value for each in LEAPS)
        raise BadInput(
            f"--order {order.value}: noise with random tokens shows nobody which positions are "
            f"still to be written; choose {names}"
        )
    if order in LEAPS or order is Order.first_hitting:
        return following(model, tokens, order, given)
    return unmasking(tokens, order, drawing(draw, given), given)


def growing(model, tokens, growth: Growth, block: int | None, order, draw, given: dict, vectors):
    """A sampler whose canvas grows: by what DAEDAL says, or by blocks until there is an end."""
    from redraft.sample.daedal import Daedal
    from redraft.sample.grow import Append

    if growth is Growth.daedal:
        refuse("--grow daedal", given, *given)
        if order is not None:
            raise BadInput("--grow daedal writes what it is sure of: it does not go with --order")
        found = Daedal(model.tokenizer.mask_id)
        return found if block is None else Daedal(model.tokenizer.mask_id, first=block)
    refuse("--grow", given, "correct")
    size, given = within(block or 32, tokens, given)
    inner = sampler_of(model, size, order, Order.random, draw, given, vectors)
    return Append(inner, model.tokenizer.mask_id, size)


def way_of(model, tokens, order: Order | None, usual, draw, given: dict, more: dict, vectors=None):
    """A preset, or the sampler that the options describe, in blocks and with a cache if asked.

    `more`: preset, block, cache, drift, prompt-weight; None where nothing was given.
    """
    from redraft.sample.preset import changed, named, preset
    from redraft.sample.window import Windows

    policy, size, own = named(more["cache"], more["drift"]), more["block"], model.block
    if own is not None and (size or policy):
        word = "block" if size else "cache"
        raise BadInput(f"--{word}: this model has blocks of {own}, and remembers them exactly")
    if more["preset"] is None:
        size = size or (32 if policy else None)
        share = (tokens, given) if size is None else within(size, tokens, given)
        sampler = sampler_of(model, share[0], order, usual, draw, share[1], vectors)
        gamma = more["prompt-weight"]
        if size is None and gamma is None:
            return sampler
        gamma = 1.0 if gamma is None else gamma
        return Windows(sampler, share[0], policy or Windows.policy, gamma)
    refuse("--preset", given, "correct")
    asked = {"block": more["block"], "cache": policy, "guidance": more["prompt-weight"]}
    asked |= {"order": None if order is None else score_of(order)}
    return changed(preset(more["preset"]), given | asked).way(tokens, own, model.process)


def within(size: int, tokens: int, given: dict) -> tuple[int, dict]:
    """The tokens of a block, and its share of the steps, for a model that writes in blocks."""
    steps = given["steps"]
    share = None if steps is None else -(-steps // -(-tokens // size))
    return min(tokens, size), given | {"steps": share}


def leftmost(order: Order | None, draw, given: dict):
    """How an autoregressive model writes."""
    from redraft.sample import order as orders
    from redraft.sample.pick import TopK
    from redraft.sample.unmask import Unmask

    if order not in (None, Order.left):
        raise BadInput(f"--order {order.value}: this model writes from left to right only")
    refuse("an autoregressive model", given, "steps", "threshold", "correct")
    return Unmask(orders.leftmost, TopK(1), drawing(draw, given))


def verified(model, given: dict):
    """From left to right by drafts that the frozen network verifies: its own greedy text."""
    from redraft.sample.lossless import Lossless

    refuse("--order left", given, "steps", "temperature", "top-k", "top-p", "threshold", "correct")
    return Lossless(model.tokenizer.mask_id, model.block)


def drawing(draw, given: dict):
    """How tokens are chosen."""
    from redraft.sample import unmask

    if given["temperature"] == 0:
        refuse("--temperature 0", given, "top-k", "top-p")
    choice = [given[name] for name in ("temperature", "top-k", "top-p")]
    if choice == [None, None, None]:
        return draw
    return unmask.Draw(1.0 if choice[0] is None else choice[0], *choice[1:])


def following(model, tokens: int, order: Order, given: dict):
    """A sampler that follows the process back, and so draws from the model's own law."""
    from redraft.sample import ancestral, first_hitting, tau

    refuse(f"--order {order.value}", given, "temperature", "top-k", "top-p", "threshold")
    if order is Order.first_hitting:
        refuse("--order first-hitting", given, "steps")
        return first_hitting.FirstHitting(model.process)
    if order is Order.ancestral:
        if given["steps"] is None:
            return ancestral.evenly(model.process, tokens)
        return ancestral.Ancestral(model.process, given["steps"])
    if not hasattr(model.process, "log_ratios"):
        raise BadInput(f"--order {order.value} follows jump rates; here choose ancestral")
    leap = tau.Tweedie if order is Order.tweedie else tau.Euler
    return leap(model.process, given["steps"] or tokens)


def corrected(model, tokens: int, order: Order | None, draw, given: dict):
    """A sampler that takes back some of what it wrote."""
    from redraft.correction import WAYS, Asked, correcting, parsed

    name, _ = parsed(given["correct"])
    chosen = any(given[option] is not None for option in ("temperature", "top-k", "top-p"))

    def asked(options: dict) -> Asked:
        unread = {"temperature", "top-k", "top-p", "steps", "threshold"} - {*WAYS[name].reads}
        refuse(f"--correct {name}", given, *sorted(unread))
        if given["threshold"] is not None:
            refuse("--threshold", given, "steps")
        how = given["steps"], given["threshold"], drawing(draw, given), chosen
        return Asked(model, tokens, *how, options)

    return correcting(model, given["correct"], None if order is None else order.value, asked)


def unmasking(tokens: int, order: Order, draw, given: dict):
    """A sampler that commits some positions at every step."""
    from redraft.sample import order as orders
    from redraft.sample.pick import Steps, Threshold
    from redraft.sample.unmask import Unmask

    steps, threshold = given["steps"], given["threshold"]
    score = score_of(order)
    if threshold is None:
        return Unmask(score, Steps(steps or tokens), draw)
    refuse("--threshold", given, "steps")
    if score not in (orders.margin, orders.confidence):
        raise BadInput(f"--order {order.value} has no scores between 0 and 1 for --threshold")
    return Unmask(score, Threshold(threshold), draw)


def score_of(order: Order):
    """The score of an order."""
    from redraft.sample import order as orders

    scores = {
        Order.margin: orders.margin,
        Order.confidence: orders.confidence,
        Order.entropy: orders.neg_entropy,
        Order.random: orders.random,
        Order.left: orders.leftmost,
    }
    if order not in scores:
        raise BadInput(f"--order {order.value} is no order of positions: {', '.join(scores)}")
    return scores[order]


def options(temperature, top_k, top_p, steps, threshold, correct=None) -> dict:
    """What was given, by the names of the command line; None where nothing was."""
    return {
        "temperature": temperature,
        "top-k": top_k,
        "top-p": top_p,
        "steps": steps,
        "threshold": threshold,
        "correct": correct,
    }


def refuse(what: str, given: dict, *unread: str) -> None:
    """BadInput for an option that would not be read."""
    for option in unread:
        if given[option] is not None:
            raise BadInput(f"{what} does not go with --{option}")
