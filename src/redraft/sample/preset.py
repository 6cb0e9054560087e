"""How other projects write, under their names and with their defaults: one value each."""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from enum import StrEnum
from typing import Any

from redraft.cache.policy import Delayed, Dual, Never, Policy, Prefix, Watched
from redraft.errors import BadInput
from redraft.sample.adjust import Adjust, Credit
from redraft.sample.mending import edited, planned, remasked, verified
from redraft.sample.order import Filtered, Score, confidence, neg_entropy, random
from redraft.sample.pick import Chance, Falling, Parts, Pick, Scheduled, Shares, Steps, Threshold
from redraft.sample.safe import EntropyBound, Factor, Levels, Near, Stable
from redraft.sample.unmask import Draw, Unmask
from redraft.sample.window import Windows


class Exactness(StrEnum):
    """How a preset compares with the project that it is named after."""

    exact = "exact"  # its tokens and passes are recomputed from the same weights
    cached = "exact given the cache"  # the same; but its cache makes other tokens than none does
    approximate = "approximate"  # its formulas, not compared with numbers of its own


@dataclass(frozen=True)
class Preset:
    """A whole rule. Models that write in blocks use their own block and their exact cache."""

    name: str
    about: str
    score: Score
    pick: Pick  # its number of steps and its window are filled in by `way`
    size: int | None = None  # tokens of a block; None: all that is to be written
    steps: int | None = None  # in all; None: one a token
    draw: Draw = Draw(0.0)
    policy: Policy = Never()
    guidance: float = 1.0  # w + 1 of what others call cfg_scale
    adjust: tuple[Adjust, ...] = ()
    leads: bool = False  # the last token of a block says the first of the next
    mend: Callable[..., Any] | None = None  # makes a rule of it that takes back what it wrote
    exactness: Exactness = Exactness.exact

    def way(self, tokens: int, block: int | None = None, process: Any = None) -> Windows:
        """The way of writing so many tokens, for a model that has `block` of its own or none.

        Rules that mask tokens again are told the process, whose mask it is.
        """
        size = min(tokens, block or self.size or tokens)
        n = max(1, math.ceil((self.steps or tokens) / math.ceil(tokens / size)))
        pick = filled(self.pick, {"n": n} | ({"size": size} if self.whole else {}))
        inner = Unmask(self.score, pick, self.draw, self.adjust)
        sampler = inner if self.mend is None else self.mend(inner, process)
        return Windows(sampler, size, self.policy, self.guidance, leads=self.leads)

    @property
    def whole(self) -> bool:
        """Whether the pick counts the positions of its window."""
        return isinstance(self.pick, Shares)


def filled(value: Any, known: dict[str, Any]) -> Any:
    """A pick with some of its fields set, and those of the pick inside it."""
    mine = {f.name for f in fields(value)} if is_dataclass(value) else set()
    new = {name: each for name, each in known.items() if name in mine}
    if "pick" in mine:
        new["pick"] = filled(value.pick, known)
    return replace(value, **new) if new else value


def holds(value: Any, name: str) -> bool:
    """Whether a pick, or the pick inside it, has a field."""
    return is_dataclass(value) and (
        any(f.name == name for f in fields(value)) or holds(getattr(value, "pick", None), name)
    )


def changed(preset: Preset, given: dict[str, Any]) -> Preset:
    """The preset with some of its options replaced; None leaves one as it is.

    Options: steps, threshold, temperature, top-k, top-p, block, cache, guidance, order.
    """
    given = {name: value for name, value in given.items() if value is not None}
    if "steps" in given and not holds(preset.pick, "n"):
        raise BadInput(f"--preset {preset.name} takes as many steps as it needs: no --steps")
    if "threshold" in given and not holds(preset.pick, "tau"):
        raise BadInput(f"--preset {preset.name} has no --threshold")
    if "threshold" in given:
        preset = replace(preset, pick=filled(preset.pick, {"tau": given["threshold"]}))
    names = {"steps": "steps", "block": "size", "cache": "policy", "guidance": "guidance"}
    names |= {"order": "score"}
    preset = replace(preset, **{names[each]: given[each] for each in names if each in given})
    drawn = {"temperature": "temperature", "top-k": "top_k", "top-p": "top_p"}
    new = {drawn[each]: given[each] for each in drawn if each in given}
    score = replace(preset.score, **new) if isinstance(preset.score, Filtered) else preset.score
    return replace(preset, draw=replace(preset.draw, **new), score=score)


PRESETS = (
    Preset("llada", "LLaDA: the surest, an equal share a step", confidence, Steps(1), 128),
    Preset(
        "dream",
        "Dream: the least entropy, on a falling time grid",
        Filtered(neg_entropy, 0.2, None, 0.95),
        Falling(1),
        draw=Draw(0.2, top_p=0.95),
    ),
    Preset("dream-origin", "Dream's default: any position by chance", random, Chance(1)),
    Preset(
        "fast-dllm",
        "Fast-dLLM: all that are sure, with the dual cache",
        confidence,
        Threshold(0.9),
        32,
        policy=Dual(),
        exactness=Exactness.cached,
    ),
    Preset(
        "fast-dllm-prefix",
        "Fast-dLLM: all that are sure, with the prefix cache",
        confidence,
        Threshold(0.9),
        32,
        policy=Prefix(),
        exactness=Exactness.cached,
    ),
    Preset(
        "fast-dllm-factor",
        "Fast-dLLM: as many as are sure together, with the dual cache",
        confidence,
        Factor(1.0, last=True),
        32,
        policy=Dual(),
        exactness=Exactness.cached,
    ),
    Preset(
        "fast-dllm-v2",
        "Fast-dLLM v2: all that are sure of 8, blocks led by the token before",
        confidence,
        Parts(Threshold(0.9, strict=True), 8),
        32,
        leads=True,
    ),
    Preset(
        "sdar",
        "SDAR: all that are sure, or the share of the step",
        confidence,
        Shares(4, 4, 0.85),
        4,
        draw=Draw(1.0),
    ),
    Preset(
        "llada2",
        "LLaDA2.0: all that are sure, or the share of the step",
        confidence,
        Shares(32, 32, 0.95),
        32,
    ),
    Preset(
        "llada21",
        "LLaDA2.1: all that are sure, and edits of what is written",
        confidence,
        Threshold(0.7, strict=True),
        32,
        mend=edited,
    ),
    Preset(
        "remdm",
        "ReMDM: a share a step, some of it masked again",
        random,
        Steps(1),
        draw=Draw(1.0, top_p=0.9),
        mend=remasked,
        exactness=Exactness.approximate,
    ),
    Preset(
        "p2",
        "P2: a share a step, the best of the whole text stands",
        confidence,
        Steps(1),
        draw=Draw(1.0),
        mend=planned,
        exactness=Exactness.approximate,
    ),
    Preset(
        "wino",
        "WINO: all that are sure, verified by a belief without them",
        confidence,
        Threshold(0.6, strict=True),
        mend=verified,
        exactness=Exactness.approximate,
    ),
    Preset(
        "nbdiff",
        "NBDiff: all that are sure of 4, blocks led by the token before",
        confidence,
        Parts(Threshold(0.9, strict=True), 4),
        32,
        draw=Draw(1.0, top_p=0.8),
        leads=True,
        exactness=Exactness.approximate,
    ),
    Preset(
        "diffullama",
        "DiffuLLaMA: any position by chance, 64 steps",
        random,
        Chance(1, 0.0),
        steps=64,
        draw=Draw(0.9, top_p=0.9),
    ),
    Preset("dllm-mdlm", "dLLM: the surest, by a noise schedule", confidence, Scheduled(1), 128),
    Preset("dllm-bd3lm", "dLLM in blocks, by a noise schedule", confidence, Scheduled(1), 32),
    Preset(
        "klass",
        "KLASS: all that are sure and calm",
        confidence,
        Stable(0.9, 0.01, 2),
        64,
        exactness=Exactness.approximate,
    ),
    Preset(
        "entropy-bound",
        "EB-sampler: as many as share little knowledge",
        neg_entropy,
        EntropyBound(0.1),
        32,
        exactness=Exactness.approximate,
    ),
    Preset(
        "dinfer-hierarchy",
        "dInfer: all that are sure, and the best of every gap",
        confidence,
        Levels(0.92, 0.62),
        32,
        exactness=Exactness.approximate,
    ),
    Preset(
        "dinfer-credit",
        "dInfer: all that are sure, with credit for what was likely before",
        confidence,
        Threshold(0.9),
        32,
        adjust=(Credit(),),
        exactness=Exactness.approximate,
    ),
    Preset(
        "wedlm",
        "WeDLM: all of little entropy, less the farther to the right",
        neg_entropy,
        Near(0.4, 0.02),
        16,
        exactness=Exactness.approximate,
    ),
    Preset(
        "dkv-cache",
        "dKV-Cache: the surest, with a cache that waits one step",
        confidence,
        Steps(1),
        32,
        policy=Delayed(8),
        exactness=Exactness.approximate,
    ),
)


POLICIES = {"no": Never(), "prefix": Prefix(), "dual": Dual(), "delayed": Delayed()}


def named(name: str | None, limit: float | None = None) -> Policy | None:
    """A policy by name, watched if a limit of drift is given; None where nothing was said."""
    if limit is not None and name in (None, "no"):
        raise BadInput("--drift is for a --cache: prefix, dual or delayed")
    if name is None:
        return None
    return POLICIES[name] if limit is None else Watched(POLICIES[name], limit)


def shown(value: Any) -> str:
    """A rule in short, for tables: without what `way` fills in."""
    if not is_dataclass(value):
        return getattr(value, "__name__", str(value))
    parts = [shown(getattr(value, f.name)) for f in fields(value) if f.name not in ("n", "size")]
    return f"{type(value).__name__}({', '.join(parts)})"


def preset(name: str) -> Preset:
    """A preset by its name. BadInput names the others."""
    for each in PRESETS:
        if each.name == name:
            return each
    raise BadInput(f"--preset {name}: choose {', '.join(each.name for each in PRESETS)}")
