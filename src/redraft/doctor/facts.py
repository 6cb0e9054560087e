"""What a checkpoint says of itself, as lines for people."""

from typing import Any

from redraft.doctor.chart import Chart
from redraft.eval.doctor.report import Facts
from redraft.eval.doctor.tokens import text_of

MANY = 10_000  # from which on numbers are rounded too


def facts(chart: Chart) -> Facts:
    """What kind of model it is."""
    total, tables, active = chart.counts()
    kinds = ", ".join(f"{kind} ({100 * n / max(1, total):.0f} %)" for kind, n in shares(chart))
    used = f", {number(active)} used by a token" if active != total else ""
    return (
        ("kept as", chart.layout),
        ("architecture", f"{chart.family}: {shape(chart.config)}"),
        ("parameters", f"{number(total)}, {number(tables)} of them in embeddings and head{used}"),
        ("numbers", kinds),
        ("context", f"{chart.length} tokens"),
        ("writes", writes(chart)),
        *trained(chart),
    )


def shares(chart: Chart) -> list[tuple[str, int]]:
    """Kinds of numbers that make up a percent at least."""
    found = chart.dtypes()
    whole = sum(found.values())
    return [(kind, n) for kind, n in found.items() if n >= 0.005 * whole]


def number(n: int) -> str:
    """A count that can be read at a glance."""
    for size, word in ((10**9, "B"), (10**6, "M")):
        if n >= size:
            return f"{n:,} ({n / size:.1f} {word})"
    return f"{n:,}"


def shape(config: Any) -> str:
    """The size of a network."""
    depth, width = getattr(config, "depth", None), getattr(config, "width", None)
    heads, fewer = getattr(config, "n_heads", None), getattr(config, "n_kv_heads", None)
    parts = [f"{depth} layers of {width}", f"{heads} heads"]
    if fewer not in (None, heads):
        parts.append(f"{fewer} key-value heads")
    if (experts := getattr(config, "experts", None)) is not None:
        parts.append(f"{experts.active} of {experts.number} experts")
    if getattr(config, "tied", False):
        parts.append("the head is the embedding")
    return ", ".join(parts)


def writes(chart: Chart) -> str:
    """In which order it writes, and what its rows speak of."""
    offset = "row i speaks of token i+1" if chart.kind.shifted else "row i speaks of token i"
    if chart.kind.causal:
        return f"from left to right; {offset}"
    if chart.kind.block is not None:
        return f"block after block, of {chart.kind.block} tokens; {offset}"
    return f"everywhere at once; {offset}"


def trained(chart: Chart) -> Facts:
    """Its noise and its objective, where redraft knows."""
    if chart.own is None:
        return ()
    process, objective = chart.own.process, chart.own.trained
    return (("process", brief(process)), ("objective", brief(objective)))


def brief(x: Any) -> str:
    """The name of a component, and its plain settings."""
    plain = {
        key: value
        for key, value in vars(x).items()
        if isinstance(value, int | float | bool) and key not in ("vocab_size", "mask_id")
    }
    words = ", ".join(
        key if value is True else f"{key} {value:g}"
        for key, value in plain.items()
        if value is not False
    )
    return type(x).__name__ + (f" ({words})" if words else "")


def tokens(chart: Chart) -> Facts:
    """Vocabulary, special tokens, and what they are used for."""
    kind, inner = chart.kind, chart.inner
    size = max(inner.get_vocab(with_added_tokens=True).values(), default=-1) + 1
    named = [
        (name, getattr(kind, f"{name}_id"))
        for name in ("mask", "eos", "bos", "pad")
        if name != "mask" or chart.masks
    ]
    return (
        ("vocabulary", f"{size} tokens for {chart.rows} rows of the network"),
        ("tokenizer", f"{type(inner.model).__name__}, {cutter(inner)}"),
        *((name, special(inner, value)) for name, value in named),
        ("padding", padding(chart)),
        ("chat", "no template" if chart.template is None else "a template of its own"),
    )


def cutter(inner: Any) -> str:
    """How text is cut before tokens are looked up."""
    if inner.pre_tokenizer is None:
        return "whole texts"
    return f"cut by {type(inner.pre_tokenizer).__name__}"


def special(inner: Any, token: int | None) -> str:
    """An id and how it is written."""
    if token is None:
        return "none"
    text = text_of(inner, token)
    return f"{token}" if text is None else f"{token} {text}"


def padding(chart: Chart) -> str:
    """What stands behind a text that is shorter than its row, and what ends it."""
    kind = chart.kind
    if kind.eos_id is None:
        return "nothing ends a text"
    if kind.pad_id is None or kind.pad_id < 0:
        return "a text ends with eos; no token for padding"
    if kind.pad_id == kind.eos_id:
        return "padded with eos, so the end of a text is learned and counts"
    return "a text ends with eos; padding is a token of its own"
