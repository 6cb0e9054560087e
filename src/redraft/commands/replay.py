"""`redraft replay`: parse, call, print. Heavy imports wait inside the command."""

from pathlib import Path
from typing import Annotated

import typer


def replay(
    trace: Annotated[Path, typer.Argument(help="written by `redraft generate --trace FILE`")],
    other: Annotated[Path | None, typer.Argument(help="another, to show beside it")] = None,
    row: Annotated[int, typer.Option(min=0, help="which text of several")] = 0,
    html: Annotated[Path | None, typer.Option(help="write a page instead of showing it")] = None,
    fps: Annotated[float, typer.Option(min=0.1, help="steps a second in the terminal")] = 24.0,
) -> None:
    """Show how a text was written, step by step: in the terminal, or as one page of HTML."""
    from rich.console import Console

    from redraft.trace.page import write
    from redraft.trace.read import read
    from redraft.trace.show import play

    traces = [read(path) for path in (trace, other) if path is not None]
    for each in traces:
        each.canvases(row)  # raises BadInput for a row that is not there
    if html is None:
        play(traces, row, Console(), fps)
        return
    write(traces, row, html)
    print(html)
