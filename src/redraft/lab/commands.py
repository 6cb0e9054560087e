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
    # Hidden states forgive: with half of an hmm's tables 0, most sequences are still possible.
    strict = make(0.5 if language is Kind.ngram else 0.75)
    experiment.run(make(0.0), strict, *many, samples, seconds, out, seed)


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


@app.command()
def compare(
    recipes: Annotated[
        list[str] | None, typer.Argument(help="NAME or 'NAME key=value ...'; default: all")
    ] = None,
    text: Annotated[str, typer.Option(help="shakespeare, stdlib, or files")] = "shakespeare",
    steps: Annotated[int, typer.Option(min=1, help="of training, for each model")] = 1000,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="key=value for every recipe that has the key")
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="of held-out text")] = 256,
    draws: Annotated[int, typer.Option(min=1, help="of the noise for each row")] = 8,
    samples: Annotated[int, typer.Option(min=1, help="texts of each model")] = 64,
    few: Annotated[int, typer.Option(min=1, help="texts for a point of the frontier")] = 32,
    temperatures: Annotated[str, typer.Option(help="of the frontier")] = "0.7,0.8,0.9,1.0",
    sampling: Annotated[str, typer.Option(help="steps of the frontier")] = "16,64,256",
    frontier: Annotated[
        list[str] | None, typer.Option(help="a recipe of the list; default: every one")
    ] = None,
    seed: Annotated[int, typer.Option(help="of training and samples")] = 0,
    out: Annotated[Path, typer.Option(help="where runs and tables go")] = COMPARE,
) -> None:
    """Train recipes alike, and compare likelihoods, samples and generative frontiers.

    Ctrl-C saves and stops; the same words again go on. What was trained or measured is kept.
    """
    from redraft.lab import compare as comparison
    from redraft.lab.candidates import RECIPES
    from redraft.progress import stoppable, watch

    common = [f"text={text}", f"steps={steps}", f"seed={seed}", *(setting or ())]
    heats, counts = positive("temperatures", temperatures), numbers("sampling", sampling)
    settings = comparison.Settings(rows, draws, samples, few, heats, tuple(counts), seed)
    with stoppable() as stop:
        done = comparison.compare(recipes or RECIPES, common, out, settings, frontier, watch, stop)
    if done is None:
        print(f"stopped; the same command goes on in {out}")
        return
    print((out / "table.md").read_text(encoding="utf-8"))
    print(f"{out}: compare.json, table.md, frontier.png")


def positive(name: str, text: str) -> tuple[float, ...]:
    """Numbers above 0 with commas between them, in order."""
    from redraft.errors import BadInput

    try:
        found = tuple(sorted({float(part) for part in text.split(",")}))
    except ValueError:
        found = ()
    if not found or not 0 < found[0] <= found[-1] < float("inf"):
        raise BadInput(f"--{name} {text}: write numbers above 0 with commas between them")
    return found
