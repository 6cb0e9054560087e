"""`redraft doctor`: parse, call, print. Heavy imports wait inside the command."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from redraft.errors import BadInput


def doctor(
    checkpoint: Annotated[
        str, typer.Argument(help="a run, a Hugging Face folder, a .gguf file, or a name")
    ],
    text: Annotated[
        Path | None, typer.Option(help="a text of the kind it was trained on; default: plain prose")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object")] = False,
) -> None:
    """What a checkpoint is, and whether it is sound: exit code 0, or 1 if something is wrong."""
    from redraft.doctor.examine import examine
    from redraft.doctor.sample import TEXT

    report = examine(checkpoint, TEXT if text is None else read(text))
    if as_json:
        print(json.dumps(report.json(), ensure_ascii=False))
    else:
        from redraft.doctor.page import show

        show(report)
    if not report.sound:
        sys.exit(1)


def read(path: Path) -> str:
    """A text file. Raises BadInput."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: not readable as text ({error})") from None
