"""`redraft data ...`: parse, call, print. Heavy imports wait inside the commands."""

import sys
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Data to train on.", no_args_is_help=True)


@app.command()
def distill(
    model: Annotated[str, typer.Argument(help="an autoregressive checkpoint")],
    out: Annotated[Path, typer.Option(help="a .jsonl file; the same command again goes on")],
    num: Annotated[int, typer.Option("--num", "-n", min=1, help="conversations to keep")] = 1000,
    rows: Annotated[int, typer.Option(min=1, help="written at a time")] = 48,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="of a prompt, at most")] = 96,
    answer_tokens: Annotated[int, typer.Option(min=1, help="of an answer, at most")] = 256,
    heat: Annotated[float, typer.Option(min=0.01, help="temperature of prompts")] = 1.0,
    top_p: Annotated[float, typer.Option(min=0.0, max=1.0, help="of prompts")] = 0.9,
    temperature: Annotated[float, typer.Option(min=0.0, help="of answers; 0: greedy")] = 0.0,
    system: Annotated[
        list[str] | None, typer.Option(help="a system message; of several each in its turn")
    ] = None,
    topics: Annotated[
        Path | None, typer.Option(help="file with a topic a line, to ask about in turn")
    ] = None,
    seed: Annotated[int, typer.Option(help="of all draws")] = 0,
) -> None:
    """Let a chat model write prompts and answers, as data to adapt it with.

    One JSON object a line: prompt, answer, ids (tokens with the chat template), start (where the
    answer begins in them), seed. Prompts that were asked before and answers that go in circles
    are left out. Ctrl-C stops; the same command goes on.
    """
    from redraft.magpie import Settings, lines_of
    from redraft.progress import stoppable
    from redraft.sample.unmask import Draw

    settings = Settings(
        num,
        rows,
        prompt_tokens,
        answer_tokens,
        Draw(heat, top_p=top_p),
        Draw(temperature),
        tuple(system or ()),
        () if topics is None else lines_of(topics),
        seed=seed,
    )
    with stoppable() as stop:
        counts = followed(model, out, settings, stop)
    print(counts.line())
    if counts.kept < num:
        print(f"stopped; the same command goes on with {out}")


@app.command()
def puzzles(
    out: Annotated[Path, typer.Option(help="a .jsonl file")],
    kinds: Annotated[
        list[str] | None,
        typer.Argument(help="add, multiply, chain, countdown, sudoku; add:5 says a size"),
    ] = None,
    num: Annotated[int, typer.Option("--num", "-n", min=1, help="of each kind in turn")] = 1000,
    test: Annotated[
        bool, typer.Option("--test", help="problems that no file to train on has")
    ] = False,
    seed: Annotated[int, typer.Option(help="of all draws")] = 0,
) -> None:
    """Draw problems whose answers can be checked, as data to train on or to test with.

    One JSON object a line: prompt, answer, kind, key (what makes it the same problem). A hash of
    the key says which problems are for tests, so files of any seeds share none.
    """
    from redraft.puzzle.find import write

    counts = Counter(each.kind for each in write(out, kinds or [], num, test, seed))
    told = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    print(f"{out}: {told}, to {'test with' if test else 'train on'}")


def followed(model: str, out: Path, settings, stop):
    """Write with a progress bar, or with a line now and then where there is no terminal."""
    import time

    import torch
    from rich.console import Console

    from redraft.loading import open_pretrained
    from redraft.magpie import Author, distill
    from redraft.progress import EVERY, bar
    from redraft.train.parallel import precision

    pretrained = open_pretrained(model)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    numbers = precision("auto", device)
    network = pretrained.writer.to(device, numbers.dtype)
    author = Author(network, pretrained.voice.chat, settings, pretrained.length)
    console, spoken = Console(stderr=True), time.monotonic()
    console.print(f"{model} writes {settings.num} conversations into {out}, {numbers.why}")
    if pretrained.voice.template is None:
        console.print("it has no chat template; ChatML is used")
    with bar() as progress:
        task = progress.add_task("distill", total=settings.num, note="")

        def told(counts) -> None:
            nonlocal spoken
            progress.update(task, completed=counts.kept, note=counts.line())
            if not console.is_terminal and time.monotonic() - spoken > EVERY:
                spoken = time.monotonic()
                print(counts.line(), file=sys.stderr)

        return distill(author, out, model, stop, told)
