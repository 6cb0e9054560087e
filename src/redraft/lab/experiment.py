"""The experiment `redraft lab ter`: languages, networks, curves, and a table of steps needed."""

from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from redraft.errors import BadInput
from redraft.lab import trained
from redraft.lab.curves import Measure, Row, exact, needed, perplexity, save, sweep
from redraft.lab.language import Language
from redraft.lab.plots import figure
from redraft.lab.rates import sequence_error_rate, token_error_rate
from redraft.progress import bar, watch


def run(
    smooth: Language,
    strict: Language,
    lengths: Sequence[int],
    steps: Sequence[int],
    samples: int,
    seconds: float,
    out: Path,
    seed: int,
) -> None:
    """Token errors of a language without zeros, sequence errors of one with zeros, into `out`.

    `seconds` is the training time of each network; with 0 there is only the exact denoiser.
    """
    figure()  # says at once if there is nothing to draw with
    try:
        out.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise BadInput(f"{out}: a file, and the results need a folder") from None

    def train(language: Language, folder: Path):
        if not seconds:
            return []
        return trained.train(language, lengths, seconds, folder, seed, watch)

    ter = measured("ter", smooth, token_error_rate, train(smooth, out / "smooth"))
    ser = measured("ser", strict, sequence_error_rate, train(strict, out / "strict"))
    rows = swept((ter, ser), lengths, steps, samples, seed)
    save(rows, out)
    Console().print(table(rows, lengths))
    print(f"{out}: results.jsonl, results.csv, ter.png, ser.png")


def measured(name: str, language: Language, rate: Callable, models: Sequence) -> Measure:
    """What is counted, by whom: the language is written in the tokens of the networks, if any."""
    vocab = language.emit.shape[1]
    process = models[0].process if models else trained.plain(vocab)
    mask_id = models[0].tokenizer.mask_id if models else vocab
    ids = trained.ids(models[0].tokenizer, vocab) if models else list(range(vocab))
    language = language.over(ids, process.vocab_size)
    writers = (exact(language, process, mask_id), *trained.writers(models, language))
    perfect = perplexity(language) if name == "ter" else lambda length: 0.0
    return Measure(name, language, rate, writers, perfect)


def swept(
    measures: Sequence[Measure],
    lengths: Sequence[int],
    steps: Sequence[int],
    samples: int,
    seed: int,
) -> list[Row]:
    """All rows, with a progress bar by how long each takes."""
    rows: list[Row] = []
    with bar() as progress:
        cost = sum(len(m.writers) * each**2 for m in measures for each in lengths)
        task = progress.add_task("sampling", total=cost, note="")
        for measure in measures:
            for length in lengths:
                points = sum(1 if w.causal else len(steps) for w in measure.writers)
                for row in sweep(measure, [length], steps, samples, seed):
                    rows.append(row)
                    note = f"{row.measure} {row.writer}, length {length}, {row.steps} steps"
                    part = len(measure.writers) * length**2 / points
                    progress.update(task, advance=part, note=note)
    return rows


def table(rows: Sequence[Row], lengths: Sequence[int]) -> Table:
    """How many steps each writer needed, by length."""
    shown = Table("writer", "length", "steps for TER", "steps for SER", "TER floor")
    for name in dict.fromkeys(row.writer for row in rows):
        for length in lengths:
            need = [needed(rows, measure, name, length) for measure in ("ter", "ser")]
            words = ["not reached" if n is None else str(n) for n in need]
            floor = next(r.floor for r in rows if (r.measure, r.length) == ("ter", length))
            shown.add_row(name, str(length), *words, f"{floor:.3f}")
    shown.caption = "TER within 5 % of its floor; SER at most 10 % above the writer's own"
    return shown
