"""Curves as pictures. matplotlib is asked for only here, and only when something is drawn."""

import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from redraft.errors import BadInput


def figure(columns: int = 1):
    """An empty figure and its axes, without any screen."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise BadInput("drawing curves needs pip install 'redraft[plot]'") from None
    made = Figure(figsize=(5.5 * columns, 4.2), layout="constrained")
    return made, made.subplots(1, columns, squeeze=False)[0]


def store(made, path: Path) -> None:
    """A picture that is there whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        made.savefig(part, format="png", dpi=150, metadata={"Software": None})
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def panels(rows: Sequence, measure: str, label: str, path: Path) -> None:
    """One panel a writer, one line a length, over steps; a causal writer is a dot."""
    mine = [row for row in rows if row.measure == measure]
    names = list(dict.fromkeys(row.writer for row in mine))
    lengths = sorted({row.length for row in mine})
    made, axes = figure(len(names))
    for axis, name in zip(axes, names, strict=True):
        for i, length in enumerate(lengths):
            line = [row for row in mine if (row.writer, row.length) == (name, length)]
            at, value = [row.steps for row in line], [row.value for row in line]
            color = f"C{i}"
            axis.plot(at, value, "o-", color=color, label=f"length {length}", markersize=4)
            low, high = [row.low for row in line], [row.high for row in line]
            if len(line) > 1:
                axis.fill_between(at, low, high, color=color, alpha=0.2, linewidth=0)
            axis.axhline(line[0].floor, color=color, linestyle=":", linewidth=1)
        axis.set_xscale("log", base=2)
        axis.set(title=name, xlabel="steps", ylabel=label)
    axes[0].legend()
    store(made, path)


Point = tuple[float, float]


def frontier(lines: dict[str, list[Point]], path: Path, text: Point | None = None) -> None:
    """Generative perplexity against entropy: one line a model, one point a temperature.

    The star is `text` that nobody generated.
    """
    made, (axis,) = figure()
    made.set_size_inches(8, 5.5)
    for i, (name, points) in enumerate(lines.items()):
        style = ("o-", "s--", "^:")[i // 10 % 3]
        axis.plot(*zip(*points, strict=True), style, label=name, markersize=4 + (len(points) == 1))
    if text is not None:
        axis.plot(*text, "k*", label="held-out text", markersize=12)
    axis.set_yscale("log")
    axis.set(xlabel="unigram entropy of a sample (nats)", ylabel="generative perplexity")
    if lines:
        axis.legend(fontsize="small", bbox_to_anchor=(1.02, 1), loc="upper left")
    store(made, path)
