"""`redraft chat`: parse, call, print. Heavy imports wait inside the command."""

import sys
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from redraft.choose import Order, options
from redraft.errors import BadInput

HELP = "/reset forgets what was said, /quit ends, /help says this"


def chat(
    checkpoint: Annotated[
        str, typer.Argument(help="a run, a Hugging Face folder, a .gguf file, or a name")
    ],
    system: Annotated[str | None, typer.Option(help="a system message")] = None,
    length: Annotated[int, typer.Option(min=1, help="tokens of an answer at most")] = 256,
    order: Annotated[Order | None, typer.Option(help="which position first")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="network calls an answer")] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0.0, help="0 is greedy, and usual for autoregressive models")
    ] = None,
    top_k: Annotated[int | None, typer.Option(min=1)] = None,
    top_p: Annotated[float | None, typer.Option(min=0.0, max=1.0)] = None,
    threshold: Annotated[
        float | None, typer.Option(min=0.0, help="write all positions scored at least this")
    ] = None,
    seed: Annotated[int, typer.Option(help="answer i is drawn with seed + i")] = 0,
    live: Annotated[bool, typer.Option(help="watch an answer being written")] = True,
) -> None:
    """Talk with a model in the terminal, or line by line from standard input."""
    from redraft.dialogue import Dialogue
    from redraft.loading import open_pretrained
    from redraft.pretrained import WRITING

    model = open_pretrained(checkpoint)
    if model.template is None:
        print("no chat template in this checkpoint: ChatML is used", file=sys.stderr)
    given = options(temperature, top_k, top_p, steps, threshold)
    talk = Dialogue(model, length, system, way(model, order, given, length, WRITING), seed)
    for line in heard():
        if line.startswith("/"):
            if line == "/quit":
                return
            if line == "/reset":
                talk.reset()
            print("(all forgotten)" if line == "/reset" else HELP, file=sys.stderr)
        elif line.strip():
            exchange(talk, line, live)


def way(model: Any, order: Order | None, given: dict, length: int, usual: Any) -> Any:
    """The sampler that is asked for, or None for the model's own.

    An autoregressive model answers with its likeliest tokens unless it is told otherwise: at the
    temperature that suits stories small chat models leave the question, and its language.
    """
    from redraft.choose import sampler_of
    from redraft.pretrained import FILLING

    if order is None and all(value is None for value in given.values()):
        return sampler_of(model, length, None, Order.left, FILLING, given) if model.causal else None
    return sampler_of(model, length, order, Order.random, usual, given)


def exchange(talk: Any, line: str, live: bool) -> None:
    """One question and its answer; words that do not fit cost one line and nothing else."""
    try:
        ids, gone = talk.hear(line)
    except BadInput as error:
        print(f"redraft: {error}", file=sys.stderr)
        return
    if gone:
        print(f"(the oldest {gone} turns are forgotten: the context is full)", file=sys.stderr)
    canvases = talk.answer(ids)
    if live and sys.stdout.isatty():
        watched(talk, canvases)
    else:
        for _ in canvases:
            pass
        print(talk.turns[-1].content, flush=True)


def watched(talk: Any, canvases: Any) -> None:
    """An answer that appears: word by word, or all over a canvas that fills."""
    from rich.console import Console

    from redraft.view import frames, visible
    from redraft.view import live as play

    if not talk.model.causal:
        play(frames(canvases, talk.model.tokenizer), Console(), "")
        return
    shown = ""
    for canvas in canvases:
        text = visible(talk.text(canvas))
        if text.startswith(shown) and not text.endswith("\ufffd"):  # half of a letter waits
            print(text[len(shown) :], end="", flush=True)
            shown = text
    print()


def heard() -> Iterator[str]:
    """What the user says, line by line, to its end."""
    if not sys.stdin.isatty():
        yield from (line.rstrip("\n") for line in sys.stdin)
        return
    print(HELP, file=sys.stderr)
    while True:
        try:
            yield input("> ")
        except EOFError:
            print()
            return
