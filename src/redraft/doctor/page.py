"""The report as a page in the terminal."""

from collections.abc import Iterator

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from redraft.eval.doctor.alignment import said
from redraft.eval.doctor.leak import Leaks
from redraft.eval.doctor.report import Facts, Report, Sight

BLOCKS = {"##": "█", "#.": "▀", ".#": "▄", "..": " "}


def show(report: Report, console: Console | None = None) -> None:
    """Print it."""
    console = Console() if console is None else console
    plain = "utf" not in console.encoding.lower()
    for part in parts(report, plain):
        console.print(part)
    for line in verdict(report):  # whole where somebody may search for it
        console.print(line, soft_wrap=not console.is_terminal)


def parts(report: Report, plain: bool) -> Iterator[RenderableType]:
    """The page, from top to bottom."""
    yield Text(report.path, style="bold")
    yield table(report.facts)
    yield heading("tokens")
    yield table(report.tokens)
    if report.loss is not None or report.sight is not None:
        yield heading("measured")
        yield table(tuple(measured(report)))
    if report.sight is not None:
        yield picture(report.sight, plain)
    if report.silent is not None:
        yield Text.assemble(("not measured: ", "bold"), report.silent)


def heading(text: str) -> Text:
    """Above a part."""
    return Text(f"\n{text}", style="bold")


def table(facts: Facts) -> Table:
    """Names and values in two columns."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="cyan", no_wrap=True, min_width=12)
    grid.add_column(overflow="fold")
    for name, value in facts:
        grid.add_row(Text(name), Text(value))
    return grid


def measured(report: Report) -> Iterator[tuple[str, str]]:
    """What the probes found."""
    if (loss := report.loss) is not None:
        sign = "" if loss.exact else "<= "
        yield (
            "loss",
            f"{sign}{loss.nats:.2f} nats a token on {loss.tokens} tokens; at initialisation, "
            f"and for any guess, {loss.uniform:.2f}",
        )
    if (found := report.alignment) is not None:
        agrees = "" if found.offset != report.offset else ", as it is told"
        why = "" if found.offset is not None else f" (told: {said(report.offset)})"
        yield "alignment", f"{said(found.offset)}{agrees}{why}: nats for token {found.told}"
    if report.sight is not None:
        told = "" if report.sight.told == report.sight.name else f"; told: {report.sight.told}"
        yield "attention", f"{report.sight.name}{told}"
    if report.leaks is not None:
        yield "leaks", leaks(report.leaks)
    if report.peak:
        yield "activations", f"up to {report.peak:.3g}"


def leaks(found: Leaks) -> str:
    """In words."""
    parts = [
        f"{len(each)} {name}"
        for name, each in (
            ("rows see their own token", found.own),
            ("pairs look ahead", found.later),
            ("pairs see what is hidden", found.hidden),
        )
        if each
    ]
    parts += ["clean text sees noise"] if found.noise else []
    return "; ".join(parts) or f"none, of {found.scored} scored rows"


def picture(sight: Sight, plain: bool) -> RenderableType:
    """Who reacts to whom: rows of the network downwards, tokens to the right."""
    lines = sight.rows if plain else halves(sight.rows)
    left, right = ("", "") if plain else ("▕", "▏")
    body = [Text(f"  {left}{line}{right}") for line in lines]
    return Group(Text("  rows downwards, and the tokens they react to", style="dim"), *body)


def halves(rows: tuple[str, ...]) -> list[str]:
    """Two rows in one line."""
    rows += ("." * len(rows[0]),) if len(rows) % 2 else ()
    pairs = zip(rows[::2], rows[1::2], strict=True)
    return ["".join(BLOCKS[a + b] for a, b in zip(*pair, strict=True)) for pair in pairs]


def verdict(report: Report) -> Iterator[Text]:
    """The findings, or that there are none."""
    yield Text("")
    for each in report.findings:
        mark, style = ("wrong", "bold red") if each.wrong else ("note", "bold yellow")
        yield Text.assemble((f"{mark}: ", style), each.line)
    if report.sound:
        yield Text("sound: nothing wrong was found", style="bold green")
