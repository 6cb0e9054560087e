"""A loaded model answers many prompts, several at a time: the way from a task to its attempts."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any

from redraft.data.chat import Turn
from redraft.eval.tasks.task import Task
from redraft.pretrained import Pretrained
from redraft.sample.unmask import Unmask
from redraft.sample.write import Request, Writer

ROWS = 32  # texts at a time
Ids = list[int]


def prompt(model: Pretrained, problem: Any, chat: bool) -> Ids:
    """The tokens of a problem, without the mark that an autoregressive model puts in front."""
    if not chat:
        return model.tokenizer.encode(problem.asked(False))
    ids = model.voice.chat.prompt([Turn("user", problem.asked(True))])
    return ids[1:] if ids[:1] == [model.lead] else ids


def room(model: Pretrained, task: Task, chat: bool) -> int:
    """Tokens of an attempt, where none are said: what the longest answer takes and its end."""
    if task.length is not None or chat:
        return task.length or 256
    return max(map(len, model.tokenizer.encode_many(task.answers()))) + 1


def completions(
    model: Pretrained,
    problems: Sequence[Any],
    samples: int,
    length: int,
    chat: bool,
    sampler: Any,
    seed: int,
    rows: int = ROWS,
) -> Iterator[tuple[int, str]]:
    """Every problem's completions as they end: which problem, and the text that belongs to it."""
    prompts = [prompt(model, problem, chat) for problem in problems for _ in range(samples)]
    seeds = range(seed, seed + len(prompts))
    for i, ids in written(model, prompts, length, sampler, seeds, rows):
        text = model.tokenizer.decode(until(ids, model.voice.chat.ends))
        yield i // samples, problems[i // samples].answered(text, chat)


def until(ids: Sequence[int], ends: Iterable[int]) -> Ids:
    """The tokens before the first that ends a text."""
    ends = set(ends)
    return list(ids[: next((i for i, token in enumerate(ids) if token in ends), len(ids))])


def written(
    model: Pretrained,
    prompts: Sequence[Ids],
    length: int,
    sampler: Any,
    seeds: Sequence[int],
    rows: int = ROWS,
) -> Iterator[tuple[int, Ids]]:
    """What a model writes behind each prompt; nothing where there is no room for it."""
    fits = [i for i, ids in enumerate(prompts) if len(ids) + length <= model.length]
    yield from ((i, []) for i in sorted(set(range(len(prompts))) - set(fits)))
    if not fits:
        return
    way = flowing if flows(model, sampler) else grouped
    yield from way(model, fits, prompts, length, sampler, seeds, rows)


def flows(model: Pretrained, sampler: Any) -> bool:
    """Whether rows of any length can be written side by side, a new one where one has ended."""
    plain = isinstance(sampler, Unmask) and model.causal
    return plain and getattr(model.model, "stores", False)


def flowing(
    model: Pretrained,
    which: Sequence[int],
    prompts: Sequence[Ids],
    length: int,
    sampler: Any,
    seeds: Sequence[int],
    rows: int,
) -> Iterator[tuple[int, Ids]]:
    """Token by token with keys and values kept, no row waiting for another."""
    lead = [] if model.lead is None else [model.lead]
    ends, mask = model.voice.chat.ends, model.tokenizer.mask_id
    known = model.writer.config.vocab_size
    requests = [
        Request((*lead, *prompts[i]), length, ends, sampler.draw, seeds[i], i) for i in which
    ]
    longest = max(len(each.ids) for each in requests)
    banned = [mask] if mask < known else []
    writer = Writer(model.writer, min(rows, len(which)), longest + length, banned=banned)
    for done in writer.write(requests):
        yield done.request.about, list(done.ids)


def grouped(
    model: Pretrained,
    which: Sequence[int],
    prompts: Sequence[Ids],
    length: int,
    sampler: Any,
    seeds: Sequence[int],
    rows: int,
) -> Iterator[tuple[int, Ids]]:
    """Canvases of prompts that are equally long, so that nothing in a row is padding."""

    def size(i: int) -> int:
        return len(prompts[i])

    for first, some in groupby(sorted(which, key=size), key=size):
        alike = list(some)
        for at in range(0, len(alike), rows):
            part = alike[at : at + rows]
            canvas = [[*prompts[i], *[None] * length] for i in part]
            *_, last = model.run(canvas, sampler, [seeds[i] for i in part])
            yield from zip(part, last.tokens[:, first:].tolist(), strict=True)
