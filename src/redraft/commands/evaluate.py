"""`redraft eval`: parse, call, print. Heavy imports wait inside the command."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from redraft.choose import Likelihood, Order, likelihood_of, options
from redraft.commands.write import Estimate, Guidance, Heat, Label, SolverOption, Tolerance
from redraft.errors import BadInput

Checkpoint = Annotated[Path, typer.Argument(help="folder of a checkpoint or of a run")]
TextOption = Annotated[list[str] | None, typer.Option(help="file, glob or folder; may be repeated")]
Draws = Annotated[int, typer.Option(min=1, help="draws of the noise for each row")]
Rows = Annotated[int | None, typer.Option(min=1, help="look at so many rows only, spread evenly")]
Field = Annotated[str, typer.Option(help="of .jsonl and .parquet")]
Kind = Annotated[
    Likelihood, typer.Option("--likelihood", help="of vectors: also ode; of L2D: also first")
]
Steps = Annotated[
    int | None, typer.Option(min=1, help="of the ODE, default 32; of an attempt at a task")
]
Task = Annotated[
    str | None,
    typer.Option(help="humaneval, puzzles, a .jsonl of them, or kinds such as add:4,chain"),
]
Problems = Annotated[Path | None, typer.Option(help="HumanEval.jsonl.gz, or a .jsonl of puzzles")]
Execute = Annotated[
    bool, typer.Option("--execute", help="run the model's code, in a sandbox, to judge it")
]
Samples = Annotated[int, typer.Option(min=1, help="attempts at each problem")]
Length = Annotated[
    int | None, typer.Option(min=1, help="tokens of an attempt; default: what an answer takes")
]
Limit = Annotated[int | None, typer.Option(min=1, help="so many problems only")]
Chat = Annotated[bool, typer.Option("--chat", help="ask in the model's chat template")]
Out = Annotated[Path | None, typer.Option(help="a .jsonl file for the attempts")]
OrderOption = Annotated[Order | None, typer.Option(help="which position is written first")]
Temperature = Annotated[
    float | None, typer.Option(min=0.0, help="of an attempt; default: 0, greedy")
]
TopP = Annotated[float | None, typer.Option(min=0.0, max=1.0)]
Threshold = Annotated[
    float | None, typer.Option(min=0.0, help="write all positions scored at least this")
]
Seed = Annotated[int, typer.Option(help="of the noise")]
Json = Annotated[bool, typer.Option("--json", help="one JSON object a line")]


def evaluate(
    checkpoint: Checkpoint,
    text: TextOption = None,
    draws: Draws = 8,
    rows: Rows = None,
    field: Field = "text",
    kind: Kind = Likelihood.bound,
    steps: Steps = None,
    task: Task = None,
    problems: Problems = None,
    execute: Execute = False,
    samples: Samples = 1,
    length: Length = None,
    limit: Limit = None,
    chat: Chat = False,
    out: Out = None,
    order: OrderOption = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    threshold: Threshold = None,
    solver: SolverOption = None,
    estimate: Estimate = None,
    heat: Heat = None,
    tolerance: Tolerance = None,
    label: Label = None,
    guidance: Guidance = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Bits per byte on a text, with a 95 % interval; or how much is right at a --task.

    Code of a model is never run without --execute.
    """
    if (task is None) == (not text):
        raise BadInput("give either --text, to be measured on, or --task")
    if task is None:
        tasks_own = {"problems": problems, "limit": limit, "out": out, "order": order}
        tasks_own |= {"temperature": temperature, "top-p": top_p, "threshold": threshold}
        tasks_own |= {"execute": execute or None, "chat": chat or None, "length": length}
        tasks_own |= {"solver": solver, "estimate": estimate, "heat": heat, "label": label}
        tasks_own |= {"tolerance": tolerance, "guidance": guidance}
        unread(tasks_own, "--task")
        return likelihood(checkpoint, text or [], draws, rows, field, kind, steps, seed, as_json)
    from redraft.choose import sampler_of, solver_of
    from redraft.commands import task as tasks
    from redraft.pretrained import FILLING

    unread({"rows": rows}, "--text")
    given = options(temperature, None, top_p, steps, threshold)

    vectors = {"solver": solver, "estimate": estimate, "heat": heat, "tolerance": tolerance}
    told = {"label": label, "guidance": guidance}

    def way(model: Any, length: int) -> Any:
        found = solver_of(model, order, vectors | {"clamp": None, "churn": None}, given)
        if not model.refines:
            unread(told, "a model that refines tokens (L2D)")
        more = (order, Order.confidence, FILLING, given, vectors | told)
        return found or sampler_of(model, length, *more)

    tasks.task(
        str(checkpoint),
        task,
        problems,
        execute,
        samples,
        length,
        limit,
        chat,
        out,
        way,
        seed,
        as_json,
    )
    return None


def unread(given: dict[str, Any], needed: str) -> None:
    """BadInput for an option that says something without the one that it belongs to."""
    for name, value in given.items():
        if value is not None:
            raise BadInput(f"--{name} goes with {needed}")


def likelihood(
    checkpoint: Path,
    text: list[str],
    draws: int,
    rows: int | None,
    field: str,
    kind: Likelihood,
    steps: int | None,
    seed: int,
    as_json: bool,
) -> None:
    """Print bits per byte."""
    from redraft.loading import open_pretrained
    from redraft.progress import measured

    model = open_pretrained(checkpoint)
    objective = likelihood_of(model, kind, steps)
    found = measured(model, text, field, rows, draws, seed, objective)
    if as_json:
        about = {
            "checkpoint": str(model.path),
            "bound": not objective.exact,
            "likelihood": kind.value,
        }
        print(json.dumps(asdict(found) | about))
        return
    sign = "" if objective.exact else "<= "
    interval = "no interval from one row"
    if found.low is not None:
        interval = f"95 % interval [{found.low:.4f}, {found.high:.4f}]"
    print(
        f"{sign}{found.bpb:.4f} bits per byte, {interval}\n"
        f"{found.bytes} bytes, {found.tokens} tokens, {found.units} {found.unit}"
        + ("" if objective.exact else f", {draws} draws a row")
    )
    if kind is Likelihood.first:
        print("of the frozen network alone, which is what one step a token draws from")
    if kind is Likelihood.ode:
        print(
            f"by the probability-flow ODE in {objective.steps} steps, and dequantised vectors: a "
            "bound, but for the error of the steps"
        )
    if found.unknown:
        print(
            f"note: {found.unknown} of the tokens are unknown to the tokenizer; what they stood "
            "for is lost, so this is no bound for the text itself"
        )
    if not model.tokenizer.faithful:
        print("note: this tokenizer changes texts; the bits are of what it keeps")
