"""The examination: what is told is read, what can be measured is measured."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from redraft.data.tokenizer import MASKS, Tokenizer, named
from redraft.doctor.chart import Chart, open_chart
from redraft.doctor.facts import facts, tokens
from redraft.doctor.probes import inside, probed
from redraft.doctor.sample import TEXT
from redraft.errors import BadInput
from redraft.eval.doctor import numbers
from redraft.eval.doctor import tokens as tokenizers
from redraft.eval.doctor.finding import Finding
from redraft.eval.doctor.report import Report
from redraft.eval.doctor.template import template
from redraft.loading import open_pretrained
from redraft.pretrained import Pretrained

LARGE = 2 * 10**9  # parameters, from which on weights keep the numbers of their file


def examine(path: str | Path, text: str = TEXT) -> Report:
    """Everything about a checkpoint. Raises BadInput for one that cannot be read."""
    chart = open_chart(Path(path))
    found = tuple(chain(told(chart), fitting(chart, text)))
    report = Report(str(path), facts(chart), tokens(chart), found)
    try:
        small = chart.counts()[0] < LARGE
        model = open_pretrained(path, torch.float32 if small else None)
    except BadInput as error:
        look = numbers.look(chart.tensors())
        report = add(report, *weighed(chart, look))
        if report.sound:
            raise
        return replace(report, silent=f"it cannot be loaded: {error}")
    look = numbers.look(renamed(chart, model))
    report = add(report, *weighed(chart, look))
    if look.broken:
        return replace(report, silent="it has numbers that are not finite")
    try:
        return probed(chart, model, report, look.fresh, text)
    except (IndexError, RuntimeError) as error:
        if report.sound:
            raise
        return replace(report, silent=f"it cannot be run so ({error})")


def add(report: Report, *more: Finding) -> Report:
    """The report with more findings."""
    return replace(report, findings=(*report.findings, *more))


def told(chart: Chart) -> Iterator[Finding]:
    """What is wrong with what it says of itself. What follows from a fault is not told twice."""
    kind, inner, where = chart.kind, chart.inner, named_by(chart)
    fit = [*tokenizers.fit(inner, chart.rows, kind.mask_id), *agreed(chart)]
    specials = (kind.mask_id if chart.masks else None, kind.eos_id, kind.bos_id, kind.pad_id)
    ids = tokenizers.Ids(*specials, chart.rows, chart.masks, where)
    yield from fit or tokenizers.ids(ids, inner)
    yield from numbers.context(chart.config, where)


def named_by(chart: Chart) -> str:
    """Where its configuration stands."""
    return "its header" if chart.layout.startswith("GGUF") else "config.json"


def agreed(chart: Chart) -> Iterator[Finding]:
    """Whether the parts of a checkpoint of redraft speak of the same vocabulary."""
    if chart.own is None:
        return
    process, shape = chart.own.process, chart.own.shape
    mask, ours = named(chart.inner, MASKS), chart.kind.mask_id
    usable = ours is not None and 0 <= ours < chart.rows
    if process.vocab_size != shape.vocab_size:
        yield Finding(
            f"the noise knows {process.vocab_size} tokens, the network {shape.vocab_size}",
            "config.json",
            "one of the two was changed by hand: put back the number it was trained with",
        )
    elif usable and mask is not None and mask not in (ours, chart.rows):
        yield Finding(
            f"the noise uses token {ours} for [MASK], the tokenizer has "
            f"{chart.inner.id_to_token(mask)} at {mask}",
            "config.json and tokenizer.json",
            "put back the tokenizer.json it was trained with, or the mask_id",
        )


def fitting(chart: Chart, text: str) -> Iterator[Finding]:
    """Whether the tokenizer keeps texts, and its chat template can be read."""
    yield from tokenizers.round_trip(chart.inner, text)
    kind = chart.kind
    ids = [-1 if i is None else i for i in (kind.mask_id, kind.eos_id)]
    try:
        tokenizer = Tokenizer(chart.inner, *ids)
    except BadInput as error:
        yield Finding(str(error), "tokenizer.json", "mark it as special and not normalized")
        return
    if chart.template is not None:
        bos, eos = (tokenizers.text_of(chart.inner, i) or "" for i in (kind.bos_id, kind.eos_id))
        yield from template(chart.template, tokenizer, bos, eos, "its chat template")


def renamed(chart: Chart, model: Pretrained) -> Iterator[tuple[str, Tensor]]:
    """The parameters as they were loaded, by the names of the file."""
    for name, parameter in inside(model.model).named_parameters():
        theirs = next((names for ours, names in chart.table.items() if ours == name), (name,))
        yield theirs[0], parameter


def weighed(chart: Chart, look: numbers.Numbers) -> Iterator[Finding]:
    """What is wrong with the numbers."""
    where = Path(getattr(chart.source, "where", chart.path)).name
    yield from numbers.weights(look, where)
    table = chart.find("embedding.weight")
    if table is None or look.broken or "embedding" in " ".join(look.zero):
        return
    if chart.masks:
        yield from numbers.mask_row(table, chart.kind.mask_id, where)
    told = chart.raw.get("tie_word_embeddings", chart.raw.get("weight_tying"))
    if chart.own is None and isinstance(told, bool):
        yield from numbers.heads(told, table, head_of(chart), f"config.json and {where}")


HEADS = ("lm_head.weight", "ff_out.weight", "decoder.weight")


def head_of(chart: Chart) -> Tensor | None:
    """The head that the file has, used or not."""
    if (found := chart.find("unembedding.weight")) is not None and not tied(chart):
        return found
    names = [name for name in chart.source.names() if name.endswith(HEADS) and "." in name]
    outer = [name for name in names if not any(part.isdigit() for part in name.split("."))]
    return chart.source.get(outer[0]) if outer else None


def tied(chart: Chart) -> bool:
    """Whether the network uses its embedding as its head."""
    return bool(getattr(chart.config, "tied", False))
