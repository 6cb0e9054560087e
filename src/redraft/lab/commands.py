"""`redraft lab ...`: parse, call, print. Heavy imports wait inside the commands."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Experiments that compare methods.", no_args_is_help=True)
LAB, COMPARE = Path("runs/lab"), Path("runs/compare")


class Kind(StrEnum):
    """Kinds of formal languages."""

    ngram = "ngram"
    hmm = "hmm"


@app.command()
def ter(
    language: Annotated[Kind, typer.Option(help="what kind of language")] = Kind.ngram,
    order: Annotated[int, typer.Option(min=2, help="n of the n-gram")] = 2,
    states: Annotated[int, typer.Option(min=1, help="of the hmm")] = 8,
    vocab: Annotated[int, typer.Option(min=2, help="symbols")] = 8,
    lengths: Annotated[str, typer.Option(help="with commas")] = "32,64,128",
    steps: Annotated[str, typer.Option(help="with commas")] = "1,2,4,8,16,32,64,128,256,512",
    samples: Annotated[int, typer.Option(min=2, help="for each point")] = 1000,
    seconds: Annotated[float, typer.Option(min=0, help="for each of 4 networks; 0: none")] = 20.0,
    out: Annotated[Path, typer.Option(help="where results go")] = LAB,
    seed: Annotated[int, typer.Option(help="of tables, training and samples")] = 0,
) -> None:
    """Token and sequence error rate over steps and lengths: exact denoiser and trained ones."""
    from redraft.lab import experiment
    from redraft.lab.language import random_hmm, random_ngram

    def make(zeros: float):
        if language is Kind.ngram:
            return random_ngram(vocab, order, seed, zeros)
        return random_hmm(vocab, states, seed, zeros)

    many = numbers("lengths", lengths), numbers("steps", steps)
    experiment.run(make(0.0), make(0.5), *many, samples, seconds, out, seed)


def numbers(name: str, text: str) -> list[int]:
    """Positive integers with commas between them, in order."""
    from redraft.errors import BadInput

    try:
        found = sorted({int(part) for part in text.split(",")})
    except ValueError:
        found = []
    if not found or found[0] < 1:
        raise BadInput(f"--{name} {text}: write positive whole numbers with commas between them")
    return found
