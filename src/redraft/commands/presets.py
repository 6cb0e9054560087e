"""`redraft presets`, and the options of writing as other projects do."""

import json
from enum import StrEnum
from typing import Annotated, Any

import typer

from redraft.choose import refuse


class CacheName(StrEnum):
    """The names of policies, known before torch is loaded."""

    no = "no"
    prefix = "prefix"
    dual = "dual"
    delayed = "delayed"


PresetOption = Annotated[
    str | None, typer.Option("--preset", help="as another project writes: `redraft presets`")
]
Block = Annotated[
    int | None,
    typer.Option(min=1, help="tokens of a block; of --grow: to append at a time or to begin with"),
]
Cache = Annotated[
    CacheName | None,
    typer.Option("--cache", help="what is remembered of a row within a block; default: nothing"),
]
Drift = Annotated[
    float | None,
    typer.Option(min=0.0, help="run all again when what is remembered has changed by more"),
]
PromptWeight = Annotated[
    float | None, typer.Option(min=0.0, help="how much the prompt counts; 1: as it is, more: more")
]


def modes(preset, block, cache, drift, prompt_weight, language) -> dict[str, Any]:
    """What was given, by the names of the command line; None where nothing was."""
    more = {"preset": preset, "block": block, "cache": cache and cache.value, "drift": drift}
    more |= {"prompt-weight": prompt_weight}
    if language is not None:
        refuse("--regex, --schema or --grammar", more, *more)
    return more


def presets(
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object a line")] = False,
) -> None:
    """How other projects write, by name: order, how many at once, defaults, exactness."""
    from rich.console import Console
    from rich.table import Table

    from redraft.describe import describe
    from redraft.sample.preset import PRESETS, shown

    if as_json:
        for each in PRESETS:
            print(json.dumps(describe(each)))
        return
    table = Table("name", "what", "order, how many", "block", "T", "compared", box=None)
    for each in PRESETS:
        rule = f"{shown(each.score)}, {shown(each.pick)}"
        size = "all" if each.size is None else str(each.size)
        cells = each.name, each.about, rule, size, f"{each.draw.temperature:g}"
        table.add_row(*cells, each.exactness.value)
    Console().print(table)
