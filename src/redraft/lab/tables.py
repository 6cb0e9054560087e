"""A comparison as Markdown."""

import math
from collections.abc import Sequence

from redraft.view import visible

EXCERPT = 280  # characters of a sample that are shown


def markdown(entries: Sequence[dict], reference: dict) -> str:
    """The table of models, their frontiers, and two samples of each."""
    parts = [scores(entries, reference), "## Frontier\n", grid(entries), "## Samples\n"]
    parts += [excerpts(entry) for entry in entries]
    return "\n".join(parts)


def scores(entries: Sequence[dict], reference: dict) -> str:
    """One line a model, in the order that was asked for, and held-out text below."""
    head = (
        "model", "bits per byte", "95 % interval", "kind", "tokens trained", "seconds",
        "entropy", "distinct-2", "generative perplexity", "its 95 % interval",
    )  # fmt: skip
    body = [score(entry) for entry in entries]
    texts = [number(reference["entropy"]), "", *perplexity(reference["generative"])]
    return table(head, [*body, ["held-out text", "", "", "", "", "", *texts]])


def score(entry: dict) -> list[str]:
    """One model."""
    found, texts = entry["likelihood"], entry["samples"]
    sign = "" if found["kind"] == "exact" else "≤ "
    return [
        entry["name"],
        f"{sign}{found['bpb']:.3f}",
        interval(found["low"], found["high"]),
        found["kind"],
        f"{entry['tokens']:,}",
        f"{entry['seconds']:.0f}",
        number(texts["entropy"]),
        number(texts["distinct_2"]),
        *perplexity(texts["generative"]),
    ]


def grid(entries: Sequence[dict]) -> str:
    """One line a model and number of steps, one column a temperature: perplexity / entropy."""
    found = [(entry["name"], point) for entry in entries for point in entry["frontier"]]
    heats = sorted({point["temperature"] for _, point in found})
    cells: dict[tuple[str, str], dict[float, str]] = {}
    for name, point in found:
        steps = "one a token" if point["steps"] is None else str(point["steps"])
        cells.setdefault((name, steps), {})[point["temperature"]] = cell(point)
    head = ("model", "steps", *(f"temperature {heat:g}" for heat in heats))
    rows = [[*key, *(row.get(heat, "") for heat in heats)] for key, row in cells.items()]
    return "Generative perplexity / entropy of a sample in nats.\n\n" + table(head, rows)


def cell(point: dict) -> str:
    """One point of the frontier."""
    if "refused" in point or point["generative"] is None:
        return "n/a"
    return f"{point['generative']['perplexity']:.1f} / {point['entropy']:.2f}"


def lines(entries: Sequence[dict]) -> dict[str, list[tuple[float, float]]]:
    """(entropy, perplexity) of every model and number of steps, along the temperatures."""
    found: dict[str, list[tuple[float, float]]] = {}
    for entry in entries:
        for point in entry["frontier"]:
            if "refused" not in point and point["generative"] is not None:
                steps = "" if point["steps"] is None else f", {point['steps']} steps"
                at = point["entropy"], point["generative"]["perplexity"]
                found.setdefault(entry["name"] + steps, []).append(at)
    return found


def excerpts(entry: dict) -> str:
    """The beginnings of two samples, as they are."""
    texts = [visible(text[:EXCERPT]) for text in entry["samples"]["texts"]]
    quoted = ["\n".join("    " + line for line in text.split("\n")) for text in texts]
    return f"### {entry['name']}\n\n" + "\n\n    ---\n\n".join(quoted) + "\n"


def perplexity(found: dict | None) -> tuple[str, str]:
    """Two cells: the value and its interval."""
    if found is None:
        return "n/a", ""
    ends = (found["low"], found["high"])
    return f"{found['perplexity']:.1f}", "" if None in ends else interval(
        *map(math.exp, ends), digits=1
    )


def interval(low: float | None, high: float | None, digits: int = 3) -> str:
    """Two ends, if there are any."""
    return "" if low is None or high is None else f"{low:.{digits}f} to {high:.{digits}f}"


def number(x: float | None) -> str:
    """A rounded number, where there is one."""
    return "n/a" if x is None else f"{x:.3f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    body = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(c.replace("|", "\\|") for c in row) + " |\n" for row in body)
