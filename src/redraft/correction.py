"""From the words of `--correct NAME:option=value,...` to a sampler that takes back its words."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from redraft.errors import BadInput

CHOICE = ("temperature", "top-k", "top-p")


@dataclass(frozen=True)
class Asked:
    """What a sampler is made of."""

    model: Any
    tokens: int  # to write, in a block if it writes in blocks
    steps: int | None
    threshold: float | None
    draw: Any  # how tokens are chosen
    chosen: bool  # whether that was said
    options: dict[str, Any]

    @property
    def process(self) -> Any:
        """What the noise is."""
        return self.model.process

    def pick(self, tau: float | None = None) -> Any:
        """How many positions a step writes."""
        from redraft.sample.pick import Steps, Threshold

        tau = tau if self.threshold is None else self.threshold
        return Steps(self.steps or self.tokens) if tau is None else Threshold(tau)


@dataclass(frozen=True)
class Way:
    """How a name becomes a sampler, its own options, and which of the others it reads."""

    build: Callable[[Asked], Any]
    options: dict[str, Callable[[str], Any]]
    reads: tuple[str, ...] = ()
    orders: tuple[str, ...] = ()
    random: bool = False  # for noise with random tokens; the others are for masked noise
    words: tuple[tuple[str, tuple[str, Any]], ...] = ()  # an option as one bare word


def gidd(asked: Asked) -> Any:
    """Ancestral steps, then a network that judges visible tokens mends them."""
    from redraft.sample.ancestral import Ancestral, evenly
    from redraft.sample.correct import Corrected

    n = asked.steps
    inner = evenly(asked.process, asked.tokens) if n is None else Ancestral(asked.process, n)
    return Corrected(inner, asked.process, **asked.options)


def remdm(asked: Asked) -> Any:
    """Ancestral steps that mask some of what was written again."""
    from redraft.sample import remask
    from redraft.sample.unmask import Draw

    options = dict(asked.options)
    name = options.pop("plan", "rescale")
    if name not in PLANS:
        raise BadInput(f"--correct remdm:plan={name}: choose one of {', '.join(PLANS)}")
    if name == "conf":
        options.setdefault("eta", 1.0)
    try:
        plan = getattr(remask, PLANS[name])(**options)
        plan = remask.Conf(plan) if name == "conf" else plan
    except TypeError:
        words = ", ".join(options)
        raise BadInput(f"--correct remdm: the plan {name} does not read {words}") from None
    draw = asked.draw if asked.chosen else Draw(1.0)
    return remask.Remdm(asked.process, asked.steps or asked.tokens, plan, draw)


def p2(asked: Asked) -> Any:
    """A denoiser fills, a planner says what stands."""
    from redraft.sample.order import confidence, random
    from redraft.sample.plan import Planned

    options = dict(asked.options)
    planner = options.pop("planner", None)
    scores = {"confidence": confidence, "random": random}
    score = scores[options.pop("score", "confidence")]
    judge = None if planner is None else judged(asked.model, planner)
    return Planned(asked.process, asked.pick(), asked.draw, score, planner=judge, **options)


def judged(model: Any, path: str) -> Any:
    """Another checkpoint as planner; it must have the same tokens."""
    from pathlib import Path

    from redraft.loading import open_pretrained
    from redraft.sample.plan import Judge

    other = open_pretrained(Path(path))
    text = "To be, or not to be: 42!"
    mine, its = (each.tokenizer for each in (model, other))
    if mine.encode(text) != its.encode(text) or mine.vocab_size != its.vocab_size:
        raise BadInput(f"{path}: its tokens are not those of {model.path}, whose text it judges")
    if other.causal or other.block is not None:
        raise BadInput(f"{path}: a planner judges with all of the text in sight; this one cannot")
    return Judge(other.predict(None))


def wino(asked: Asked) -> Any:
    """Write widely, verify each token without it."""
    from redraft.sample.wino import Wino

    return Wino(asked.process, draw=asked.draw, **asked.options)


def edit(asked: Asked) -> Any:
    """Write masks and edit tokens by thresholds."""
    from redraft.sample.edit import Edited
    from redraft.sample.order import confidence
    from redraft.sample.unmask import Unmask

    inner = Unmask(confidence, asked.pick(None if asked.steps else 0.7), asked.draw)
    return Edited(inner, **asked.options)


def did(asked: Asked) -> Any:
    """Draft in small blocks, write the least sure anew with all in sight."""
    from redraft.sample.order import random
    from redraft.sample.pick import Steps
    from redraft.sample.refine import Redrafted
    from redraft.sample.unmask import Unmask

    options = dict(asked.options)
    share, size = options.pop("share", 0.25), options.pop("size", None)
    if size is not None and asked.model.block is not None:
        raise BadInput(
            f"--correct did:size: this model drafts in its own blocks, {asked.model.block}"
        )
    size, stages = size or asked.model.block or 4, options.pop("stages", 1)
    draft = Unmask(random, Steps(asked.steps or min(size, asked.tokens)), asked.draw)
    again = Unmask(
        random, Steps(options.pop("steps", max(1, int(share * asked.tokens)))), asked.draw
    )
    return Redrafted(draft, again, asked.process.mask_id, size, (share,) * stages)


def dcd(asked: Asked) -> Any:
    """Unsure tokens near the edge of a sliding window wait."""
    from redraft.sample.defer import Deferred
    from redraft.sample.order import confidence
    from redraft.sample.unmask import Unmask

    tau: dict[str, Any] = {} if asked.threshold is None else {"tau": asked.threshold}
    return Unmask(confidence, Deferred(**tau, **asked.options), asked.draw)


def yes(text: str) -> bool:
    """Whether an option is on."""
    return {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}[text]


def named(*names: str) -> Callable[[str], str]:
    """One of some words."""

    def read(text: str) -> str:
        if text not in names:
            raise ValueError(text)
        return text

    return read


PLANS = {  # of ReMDM, by the names of its classes; conf shares out what rescale says
    **{"cap": "Cap", "rescale": "Rescale", "conf": "Rescale", "loop": "Loop"},
    **{"forward-backward": "ForwardBackward", "flow": "FlowMatching"},
}
WAYS = {
    "gidd": Way(
        gidd,
        {"rounds": int, "k": int, "temperature": float},
        ("steps",),
        ("ancestral",),
        random=True,
    ),
    "remdm": Way(
        remdm,
        {
            "plan": str,
            **dict.fromkeys(("eta", "t_on", "t_off", "alpha_on", "amount", "power"), float),
        },
        ("steps", *CHOICE),
        ("ancestral",),
        words=tuple((plan, ("plan", plan)) for plan in PLANS),
    ),
    "p2": Way(
        p2,
        {"eta": float, "planner": str, "score": named("confidence", "random")},
        ("steps", "threshold", *CHOICE),
        ("confidence",),
        words=(("random", ("score", "random")),),
    ),
    "wino": Way(
        wino,
        {"accept": float, "keep": float, "exact": yes},
        CHOICE,
        ("confidence",),
        words=(("exact", ("exact", True)),),
    ),
    "edit": Way(
        edit,
        {"tau": float, "rounds": int, "budget": int},
        ("steps", "threshold", *CHOICE),
        ("confidence",),
    ),
    "did": Way(
        did,
        {"size": int, "share": float, "stages": int, "steps": int},
        ("steps", *CHOICE),
        ("random",),
    ),
    "dcd": Way(dcd, {"span": int, "masks": int}, ("threshold", *CHOICE), ("confidence",)),
}


def parsed(text: str) -> tuple[str, dict[str, Any]]:
    """A name and its options. A number alone is that many rounds of gidd."""
    if text.isdigit():
        text = f"gidd:rounds={text}"
    name, _, rest = text.partition(":")
    if name not in WAYS:
        raise BadInput(f"--correct {name}: choose one of {', '.join(WAYS)}")
    way, found = WAYS[name], {}
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        if part in dict(way.words):
            key, value = dict(way.words)[part]
            found[key] = value
            continue
        if key not in way.options or not equals:
            words = ", ".join([*way.options, *(word for word, _ in way.words)])
            raise BadInput(f"--correct {name}:{part}: its options are {words}")
        try:
            found[key] = way.options[key](value)
        except (ValueError, KeyError):
            raise BadInput(f"--correct {name}:{part}: no value for {key}") from None
    return name, found


def correcting(model: Any, text: str, order: str | None, asked: Callable[[dict], Asked]) -> Any:
    """The sampler. BadInput where the model or the order is not one for it."""
    name, options = parsed(text)
    way = WAYS[name]
    if getattr(model, "dual", False):
        raise BadInput(
            f"--correct {name}: what this model writes is read by its frozen network at once, and "
            "kept; choose --threshold, or --order left, which verifies"
        )
    if way.random == model.process.absorbing:
        others = ", ".join(each for each, one in WAYS.items() if one.random != way.random)
        noise = "masked noise alone" if model.process.absorbing else "noise with random tokens"
        raise BadInput(f"--correct {name} is not for {noise}: choose {others}")
    if order not in (None, *way.orders):
        raise BadInput(f"--correct {name} goes with --order {' or '.join(way.orders)}")
    return way.build(asked(options))
