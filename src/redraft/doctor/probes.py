"""What can only be measured: loss, alignment, attention, leaks."""

from dataclasses import replace
from typing import Any

import torch

from redraft.adapt.shift import Lagging, Shifted
from redraft.adapt.side import Side
from redraft.doctor.chart import Chart
from redraft.eval.doctor import alignment, attention, leak, loss, numbers, verdicts
from redraft.eval.doctor import tokens as tokenizers
from redraft.eval.doctor.finding import Finding
from redraft.eval.doctor.report import Report, Sight
from redraft.mask import BlockCausal, Full, Mask
from redraft.objective.classify import Classify
from redraft.pretrained import Pretrained
from redraft.process.gaussian import Gaussian
from redraft.types import Tokens

WIDTH, ROWS = 64, 8  # of the text that is looked at
FEW = 12  # tokens, below which nothing can be measured
SHOWN, MOST = 24, 64  # tokens of the picture, more where blocks are larger


def probed(chart: Chart, model: Pretrained, report: Report, fresh: bool, text: str) -> Report:
    """The report with all that was measured."""
    why = unable(model)
    if why is not None:
        return replace(report, silent=why)
    ids = tokenizers.encoded(chart.inner, text)
    ids = [i for i in ids if i < chart.rows]
    if min(len(ids), model.length) < FEW:
        return replace(report, silent="of this text it has too few tokens: give --text FILE")
    rows = loss.cut(ids, fitted(model, min(WIDTH, model.length)), ROWS)
    with numbers.Peak(model.model) as peak:
        found = loss.measure(model.first, model.model, rows, real(model))
    report = replace(report, loss=found, peak=peak.most)
    report, wrong = aligned(report, chart, model, rows, fresh)
    if model.causal or model.process.absorbing:
        leaks = leaking(model, rows)
        report = replace(report, leaks=leaks)
        wrong += verdicts.leaks(leaks)
    if report.sound and not wrong:  # else a bad loss follows from what is known
        wrong += verdicts.loss(found, fresh)
    report, sight = seen(report, chart, model, rows, fresh)
    over = numbers.overflow(chart.dtypes(), peak.most, "its layers")
    return replace(report, findings=(*report.findings, *wrong, *sight, *over))


def unable(model: Pretrained) -> str | None:
    """Why nothing can be measured of a model."""
    if isinstance(model.trained, Classify):
        return "a classifier of noisy texts: it has no loss and no attention that is probed"
    if isinstance(model.process, Gaussian):
        return "a model of vectors: its rows answer to noisy vectors, not to tokens"
    return None


def fitted(model: Pretrained, width: int) -> int:
    """A width of whole blocks, if there are blocks and room."""
    size = model.block or 1
    return max(width // size * size, min(size, model.length))


def real(model: Pretrained) -> int:
    """Tokens that a guess chooses from."""
    return model.process.vocab_size - (model.process.mask_id is not None)


def inside(model: Any) -> Any:
    """The network without what aligns its rows; the frozen one where another stands beside it."""
    return model.model if isinstance(model, Lagging | Shifted | Side) else model


def size_of(model: Pretrained) -> int | None:
    """Tokens of a block of its attention; None where everybody sees everybody."""
    return 1 if model.causal or model.dual else model.block


def half(model: Pretrained) -> float | None:
    """The time at which half of a text is noise, for a network that is told it."""
    if not getattr(model.model, "timed", True):
        return None
    return half_of(model.process)


def aligned(
    report: Report, chart: Chart, model: Pretrained, rows: Tokens, fresh: bool
) -> tuple[Report, list[Finding]]:
    """Whose token a row speaks of."""
    offset = 1 if chart.kind.shifted else 0
    first, second = canvases(model, chart, rows)
    found = judge(model, first, fresh)
    report = replace(report, alignment=found, offset=offset)
    findings = [*verdicts.alignment(found, offset, "its configuration")]
    if second is not None and not fresh and not found.copies:
        findings = [*verdicts.family(found, judge(model, second, fresh))] or findings
    return report, findings


def canvases(
    model: Pretrained, chart: Chart, rows: Tokens
) -> tuple[alignment.Canvas, alignment.Canvas | None]:
    """What it should be good at, and what a model of the other kind would be."""
    process, mask = model.process, model.process.mask_id
    known = mask is not None and mask < chart.rows
    causal = alignment.causal(rows, chart.kind.bos_id if model.causal else None)
    masked = alignment.masked(rows, mask) if known else None
    if model.causal or model.dual:
        return causal, None if model.dual else masked
    if model.block is not None:
        return alignment.blocks(rows, mask, model.block), causal
    if masked is None or not process.absorbing:
        noisy = alignment.noised(rows, process, half_of(process))
        return noisy, None
    return masked, causal


def half_of(process: Any) -> float:
    """The time at which half of a text is noise, for any process."""
    schedule = getattr(process, "schedule", None)
    return 0.5 if schedule is None else float(schedule.time(torch.tensor(0.5).double()))


def judge(model: Pretrained, canvas: alignment.Canvas, fresh: bool) -> alignment.Alignment:
    """Probe and decide."""
    nats = alignment.probe(inside(model.model), canvas, half(model), model.process.mask_id)
    return alignment.decide(canvas, nats, real(model), fresh)


def seen(
    report: Report, chart: Chart, model: Pretrained, rows: Tokens, fresh: bool
) -> tuple[Report, list[Finding]]:
    """Who sees whom."""
    size = size_of(model)
    length = min(model.length, MOST, max(SHOWN, 0 if size is None else 2 * size), rows.numel())
    row = rows.flatten()[None, :length]
    mask: Mask = Full() if size is None else BlockCausal(size)
    banned = () if model.process.mask_id is None else (model.process.mask_id,)
    found = attention.reacts(inside(model.model), row, chart.rows, mask, half(model), banned=banned)
    allowed = attention.dense(mask, length)
    sight = Sight(
        attention.named(found, allowed),
        attention.named(allowed),
        attention.picture(found),
        attention.picture(allowed),
    )
    sure = report.alignment is not None and report.alignment.offset is not None
    findings = verdicts.layout(found, allowed, fresh, "its configuration", sure)
    return replace(report, sight=sight), list(findings)


def leaking(model: Pretrained, rows: Tokens) -> leak.Leaks:
    """Whether what is scored is seen."""
    size = model.block if model.dual else size_of(model)
    length = min(model.length, MOST, max(leak.MOST, 0 if size is None else 2 * size), rows.numel())
    row = rows.flatten()[None, :length]
    if model.dual and size is not None:
        return leak.crossing(model.first, model.model, row, size)
    return leak.leaks(model.first, model.model, row, real(model), size)
