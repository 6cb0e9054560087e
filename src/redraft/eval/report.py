"""One self-contained page about a run: it opens from disk, loads nothing and sends nothing."""

import html
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

from redraft import __version__
from redraft.files import write_text
from redraft.view import CELLS, Frame, Piece, edits, settle, visible

Number = int | float
Pairs = tuple[tuple[str, object], ...]
Points = tuple[tuple[Number, Number, Number], ...]  # step, seconds, value
Level = tuple[Number, Number, Number, int]  # t from, t to, nats per hidden token, tokens

MOST_POINTS = 1000  # of a curve; more cannot be told apart at the width of a page


@dataclass(frozen=True)
class Score:
    """One bar: bits per byte with its 95% interval; a bound is marked as one."""

    name: str
    bpb: float
    low: float | None = None
    high: float | None = None
    note: str = ""
    bound: bool = False


@dataclass(frozen=True)
class Curve:
    """One line of the learning curves."""

    name: str
    points: Points


@dataclass(frozen=True)
class Sample:
    """One text that the model wrote."""

    text: str
    note: str = ""
    stats: Mapping[str, Number | str] = field(default_factory=dict)


@dataclass(frozen=True)
class Infill:
    """A template and what became of it; what was not given is highlighted."""

    template: str
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class Movie:
    """A canvas on its way from noise to text."""

    title: str
    frames: tuple[Frame, ...]


@dataclass(frozen=True)
class Report:
    """All that the page shows; an empty part leaves its section out."""

    title: str
    summary: Pairs = ()
    scores: tuple[Score, ...] = ()
    curve: tuple[Curve, ...] = ()
    unit: str = "bits per byte"  # of the curves
    by_t: tuple[Level, ...] = ()
    samples: tuple[Sample, ...] = ()
    infills: tuple[Infill, ...] = ()
    movies: tuple[Movie, ...] = ()
    details: Pairs = ()


def write(report: Report, path: str | os.PathLike[str]) -> None:
    """Write the page; a reader finds the old file or the whole new one, never a part."""
    write_text(Path(path), page(report))


def page(report: Report) -> str:
    """The template with its slots filled, each once: no text of a run is ever a slot."""
    template = (resources.files("redraft.eval") / "report.html").read_text("utf-8")
    slots = {
        "title": safe(report.title),
        "summary": summary(report.summary),
        "scores": scores(report.scores),
        "charts": charts(report),
        "movies": movies(report.movies),
        "infills": infills(report.infills),
        "samples": samples(report.samples),
        "details": details(report.details),
        "version": safe(__version__),
        "data": embed(data(report)),
    }
    return re.sub(r"<!--(\w+)-->", lambda slot: slots[slot[1]], template)


def safe(value: object) -> str:
    """Text that is only text in HTML, quoted attributes included."""
    return html.escape(visible(str(value)))


def number(x: Number | str | None) -> str:
    """A rounded number, where there is one."""
    if x is None or (isinstance(x, float) and not math.isfinite(x)):
        return "n/a"
    return f"{x:.3f}" if isinstance(x, float) else safe(x)


def section(name: str, title: str, body: str, hint: str = "") -> str:
    """A titled part of the page, or nothing around nothing."""
    lead = f'<p class="hint">{hint}</p>' if hint else ""
    return f'<section id="{name}"><h2>{title}</h2>{lead}{body}</section>' if body else ""


def summary(pairs: Pairs) -> str:
    """The few numbers at the top."""
    tiles = (f"<div><dt>{safe(k)}</dt><dd>{safe(v)}</dd></div>" for k, v in pairs)
    return f'<dl class="tiles">{"".join(tiles)}</dl>' if pairs else ""


def scores(rows: tuple[Score, ...]) -> str:
    """Bars from zero with 95% whiskers, in a table that needs no script."""
    known = [x for s in rows for x in (s.bpb, s.high) if x is not None and math.isfinite(x)]
    top = max([*known, 0.0]) * 1.02 or 1.0
    body = "".join(score(row, top) for row in rows)
    head = "<tr><th>Model<th>Bits per byte<th>95% interval<th><span class=off>Bar</span></tr>"
    table = f'<table class="scores"><thead>{head}</thead><tbody>{body}</tbody></table>'
    hint = "Less is better. ≤ marks an upper bound: the true value is at most that."
    return section("scores", "Bits per byte on held-out text", table if rows else "", hint)


def score(row: Score, top: float) -> str:
    """One row of the table of scores."""
    ends = (row.low, row.high)
    known = None not in ends
    at, low, high = (100 * x / top if x and math.isfinite(x) else 0 for x in (row.bpb, *ends))
    interval = f"{number(row.low)} to {number(row.high)}" if known else ""
    bar = f'<span class="fill" style="width:{at:.2f}%"></span>'
    if known:
        bar += f'<span class="whisker" style="left:{low:.2f}%;width:{high - low:.2f}%"></span>'
    value = ("≤ " if row.bound else "") + number(row.bpb)
    return (
        f'<tr><th scope="row">{safe(row.name)}<small>{safe(row.note)}</small></th>'
        f'<td class="value">{value}</td>'
        f'<td class="range">{interval}</td>'
        f'<td class="track" aria-hidden="true"><div>{bar}</div></td></tr>'
    )


def charts(report: Report) -> str:
    """Places for the two charts, which the script draws, and the numbers of the second."""
    chart = '<div class="chart" id="{}"><noscript>This chart needs JavaScript.</noscript></div>'
    rows = "".join(
        f"<tr><td>{a:.2f} to {b:.2f}<td>{number(nats)}<td>{count:,}</tr>"
        for a, b, nats, count in report.by_t
    )
    head = "<tr><th>Noise level<th>Nats<th>Tokens</tr>"
    levels = f"{chart.format('levels')}{folded('The numbers', rows, head)}" if rows else ""
    hint = "How hard a hidden token is to guess when a share t of the text is hidden."
    curve = chart.format("curve") if report.curve else ""
    first = section("learning", f"Learning: {safe(report.unit)}", curve)
    return first + section("noise", "Loss by noise level", levels, hint)


def folded(title: str, rows: str, head: str = "") -> str:
    """A table to open."""
    table = f"<table><thead>{head}</thead><tbody>{rows}</tbody></table>"
    return f"<details><summary>{title}</summary>{table}</details>"


LEGEND = f"""\
<span class="given">given</span> <span class="masked">{CELLS["masked"]} undecided</span>
<span class="new">decided at this step</span> <span class="old">decided earlier</span>"""


def movies(shown: tuple[Movie, ...]) -> str:
    """Each movie stands still on its last frame until the script takes over."""
    figures = "".join(
        f'<figure class="movie"><figcaption>{safe(movie.title)}</figcaption>'
        f'<pre class="stage">{colour(movie.frames[-1].pieces)}</pre></figure>'
        for movie in shown
        if movie.frames
    )
    body = f'<p class="legend">{LEGEND}</p>{figures}' if figures else ""
    return section("movies", "How a text is written", body)


def infills(shown: tuple[Infill, ...]) -> str:
    """Templates with their gaps filled."""
    body = "".join(
        f'<article><p class="hint">Template</p><pre class="template">\n{safe(one.template)}</pre>'
        f'<p class="hint">Filled</p><pre>{colour(one.pieces)}</pre></article>'
        for one in shown
    )
    return section("infills", "Gaps filled in", body)


def colour(pieces: tuple[Piece, ...]) -> str:
    """Pieces as elements named by their state."""
    return "".join(f'<span class="{piece.state}">{safe(piece.text)}</span>' for piece in pieces)


def samples(shown: tuple[Sample, ...]) -> str:
    """The texts as they are; HTML drops a line end that begins a <pre>, so one is given to it."""
    body = "".join(
        f'<article><header><span>{safe(one.note)}</span><span class="stats">'
        + "".join(f"<span>{safe(k)} <b>{number(v)}</b></span>" for k, v in one.stats.items())
        + f'</span></header><pre tabindex="0">\n{safe(one.text)}</pre></article>'
        for one in shown
    )
    return section("samples", "Samples", f'<div class="grid">{body}</div>' if body else "")


def details(pairs: Pairs) -> str:
    """The settings of the run, folded away."""
    rows = "".join(f'<tr><th scope="row">{safe(k)}<td>{safe(v)}</tr>' for k, v in pairs)
    return section("details", "Details", folded("Settings of the run", rows) if rows else "")


def data(report: Report) -> dict:
    """What the script draws."""
    return {
        "unit": report.unit,
        "curve": [{"name": one.name, "points": thin(one.points)} for one in report.curve],
        "levels": report.by_t,
        "movies": [fold(movie) for movie in report.movies if movie.frames],
    }


def thin(points: Points) -> Points:
    """At most about MOST_POINTS of the points, the last one among them."""
    stride = -(-len(points) // MOST_POINTS) or 1
    return points[::-1][::stride][::-1]


def embed(value: object) -> str:
    """JSON that is safe inside a script element."""
    # In ASCII, so U+2028 is an escape; "</script>" and "<!--" need a "<".
    return json.dumps(plain(value), allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def plain(x: object) -> object:
    """The value with short numbers and harmless text; a number that JSON lacks becomes null."""
    if isinstance(x, dict):
        return {k: plain(v) for k, v in x.items()}
    if isinstance(x, list | tuple):
        return [plain(v) for v in x]
    if isinstance(x, float):
        return float(f"{x:.6g}") if math.isfinite(x) else None
    return visible(x) if isinstance(x, str) else x


def fold(movie: Movie) -> dict:
    """The first frame, and for every later one only where it differs from the one before."""
    shown = [settle(frame.pieces) for frame in movie.frames]
    aged = [settle(frame.pieces, one_step_on=True) for frame in movie.frames]
    return {
        "title": movie.title,
        "steps": [frame.step for frame in movie.frames],
        "total": movie.frames[-1].total or movie.frames[-1].step,
        "decided": [frame.decided for frame in movie.frames],
        "first": shown[0],
        "edits": [edits(a, b) for a, b in zip(aged, shown[1:], strict=False)],
    }
