"""The command line: parse, call, print. Heavy imports wait inside the commands."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from redraft.commands.chat import chat
from redraft.commands.convert import convert
from redraft.commands.data import app as data
from redraft.commands.doctor import doctor
from redraft.commands.evaluate import evaluate
from redraft.commands.presets import presets
from redraft.commands.replay import replay
from redraft.commands.write import generate, infill
from redraft.errors import BadInput, Diverged
from redraft.lab.commands import app as lab

app = typer.Typer(
    help="Diffusion language models: train, sample, infill and evaluate them.",
    no_args_is_help=True,
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(data, name="data")
app.add_typer(lab, name="lab")
app.command()(generate)
app.command()(infill)
app.command()(replay)
app.command()(presets)
app.command()(chat)
app.command()(doctor)
app.command()(convert)
app.command(name="eval")(evaluate)


@app.callback()
def top(
    version: Annotated[bool, typer.Option("--version", help="print the version and stop")] = False,
) -> None:
    """Diffusion language models: train, sample, infill and evaluate them."""
    if version:
        from redraft import __version__

        print(__version__)
        raise typer.Exit


RUNS = Path("runs")


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="a name (`redraft list`), a .py or a run.json")],
    settings: Annotated[list[str] | None, typer.Argument(help="key=value ...")] = None,
    out: Annotated[Path | None, typer.Option(help="default: runs/RECIPE")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="continue the run in --out")] = False,
    show: Annotated[bool, typer.Option("--print", help="print the run as JSON and stop")] = False,
) -> None:
    """Train a recipe; Ctrl-C saves and stops, --resume goes on."""
    from redraft.describe import describe
    from redraft.progress import prepared, stoppable, watch
    from redraft.recipe.find import find
    from redraft.recipe.start import start

    record = (RUNS / Path(recipe).stem if out is None else out) / "run.json"
    with prepared():
        if resume and not settings and not recipe.endswith(".json") and record.exists():
            run = find(str(record))  # as it was begun, whatever the settings were
        else:
            run = find(recipe, settings or [])
    if show:
        print(json.dumps(describe(run), indent=2))
        return
    out = RUNS / (run.name if recipe.endswith(".json") else Path(recipe).stem) if not out else out
    with stoppable() as stop:
        told = watch(start(run, out, resume, stop), run, out)
    if told is not None and told.progress < 1:
        go_on = f"redraft train {recipe} --resume --out {out}"
        print(f"stopped at step {told.state.step}; go on with `{go_on}`")


@app.command()
def clip(
    run: Annotated[Path, typer.Argument(help="folder of a run of block diffusion")],
    rows: Annotated[int, typer.Option(min=1, help="held-out rows to look at")] = 256,
    draws: Annotated[int, typer.Option(min=1, help="draws of the noise for each row")] = 4,
    show: Annotated[int, typer.Option("--num", "-n", min=1, help="how many ranges")] = 5,
    seed: Annotated[int, typer.Option(help="of the noise")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object a line")] = False,
) -> None:
    """The ranges of mask rates in which a block model would train with the least variance."""
    from dataclasses import asdict

    from redraft.loading import open_pretrained
    from redraft.progress import clips
    from redraft.recipe.find import find

    found = clips(open_pretrained(run), find(str(run / "run.json")), rows, draws, seed)[:show]
    for each in found:
        if as_json:
            print(json.dumps(asdict(each)))
        else:
            print(f"low={each.low:.2f} high={each.high:.2f}  variance {each.variance:.4f}")


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="folder of a run")],
    out: Annotated[Path | None, typer.Option(help="default: RUN/report.html")] = None,
) -> None:
    """Write one self-contained page about a run."""
    from redraft.reporting import report_on

    path = run / "report.html" if out is None else out
    report_on(run, path)
    print(path)


@app.command(name="list")
def listing() -> None:
    """The recipes, with their settings."""
    import ast

    folder = Path(__file__).parent / "recipe"
    for path in sorted(folder.glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and node.name == "recipe":
                print(f"{path.stem}: {(ast.get_docstring(node) or '').splitlines()[0]}")
                for arg, default in zip(node.args.args, node.args.defaults, strict=True):
                    kind = ast.unparse(arg.annotation) if arg.annotation else ""
                    print(f"    {arg.arg}: {kind} = {ast.unparse(default)}")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="where runs and report go")] = RUNS / "demo",
    seconds: Annotated[float, typer.Option(min=1, help="of training, for each model")] = 180.0,
    text: Annotated[str, typer.Option(help="shakespeare, stdlib, or files")] = "shakespeare",
) -> None:
    """Real text in; a trained, evaluated and sampled diffusion language model out."""
    from redraft.demo import run
    from redraft.progress import stoppable

    run(out, seconds, text, stoppable)


def main() -> None:
    """Run a command; what the user can mend is one line and exit code 2."""
    # How long OpenMP's threads spin before they sleep. torch's default is many milliseconds, so
    # one other busy process slowed training nearly six-fold (docs/benchmarks.md).
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    try:
        sys.exit(app(standalone_mode=False))
    except BadInput as error:
        fail(str(error), 2)
    except KeyboardInterrupt:
        fail("interrupted", 130)
    except BrokenPipeError:  # the reader of our output has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Diverged as error:
        fail(f"training diverged: {error}; checkpoints saved before are kept", 1)
    except OSError as error:
        fail(f"{error.filename or ''}: {error.strerror or error}".lstrip(": "), 2)
    except Exception as error:
        usage = getattr(error, "format_message", None)  # a word that the command does not know
        if usage is None:
            raise
        fail(usage(), getattr(error, "exit_code", 2))


def fail(message: str, code: int) -> None:
    """One line on stderr, then the exit code."""
    print(f"redraft: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)
