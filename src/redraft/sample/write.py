"""Left to right, a token a pass, for many texts at once: no work on what has ended.

A network of next tokens keeps keys and values of all that stands behind it. All rows end at one
position of the store, wherever they began; when a row has ended, the next text takes its place.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from redraft.cache.aligned import Aligned
from redraft.cache.store import Dense
from redraft.errors import BadInput
from redraft.mask import BlockCausal, Since
from redraft.sample.unmask import Draw
from redraft.types import Denoiser, Rng

LOOK = 8  # tokens between two looks at whether a text goes in circles


@dataclass(frozen=True)
class Request:
    """A text that is to go on. What it gets depends on its seed, not on its neighbours."""

    ids: tuple[int, ...]  # what stands there; at least one token
    limit: int  # tokens to write at most
    ends: frozenset[int] = frozenset()  # tokens that end it
    draw: Draw = Draw(0.0)
    seed: int = 0
    about: Any = None  # whatever the asker wants to know it by
    stop: Callable[[Sequence[int]], bool] | None = None  # asked now and then about what is written


@dataclass(frozen=True)
class Written:
    """What was written for a request, with the token that ended it."""

    request: Request
    ids: tuple[int, ...]
    ended: bool  # by one of the tokens that end it
    stopped: bool = False  # by `stop`


@dataclass
class Row:
    """One place in the batch."""

    request: Request
    size: int  # positions that are stored
    coming: list[int]  # tokens that are to be read next; then it writes
    written: list[int] = field(default_factory=list)

    @property
    def whole(self) -> list[int]:
        """All tokens so far."""
        return [*self.request.ids, *self.written]

    def take(self, token: int) -> Written | None:
        """Write a token; what was written if that was the last."""
        request = self.request
        self.written.append(token)
        ended, count = token in request.ends, len(self.written)
        asked = request.stop is not None and count % LOOK == 0
        stopped = asked and not ended and request.stop(self.written)  # type: ignore[misc]
        if ended or stopped or count >= request.limit:
            return Written(request, tuple(self.written), ended, stopped)
        self.coming = [token]
        return None


class Writer:
    """The batch: up to `rows` texts of at most `context` tokens.

    `shared` are tokens that many requests begin with: they are read once. `banned` tokens are
    never written.
    """

    def __init__(
        self,
        model: Denoiser,
        rows: int,
        context: int,
        shared: Sequence[int] = (),
        banned: Sequence[int] = (),
    ):
        self.model, self.context, self.most = model, context, rows
        self.shared, self.banned = list(shared), list(banned)
        self.rows: list[Row | None] = [None] * rows
        self.store = Aligned(rows, context)
        self.prefix: Dense | None = None
        self.passes = 0

    @torch.inference_mode()
    def write(
        self,
        requests: Iterable[Request],
        follow: Callable[[Written], Request | None] = lambda done: None,
    ) -> Iterator[Written]:
        """Texts as they end. `follow` may ask for another at once, which goes on in the same row.

        If that begins with all the row holds, nothing is read twice.
        """
        queue = iter(requests)
        waiting: list[Request] = []
        more = True
        while True:
            free = [i for i, row in enumerate(self.rows) if row is None]
            while more and len(waiting) < len(free):
                request = next(queue, None)
                more = request is not None
                if request is not None:
                    waiting.append(self.checked(request))
            if waiting and self.worth(len(free), more):
                self.enter(free, waiting[: len(free)])
                waiting = waiting[len(free) :]
            if not more and not waiting:
                self.shrink()
            if not any(self.rows):
                return
            for i, done in self.step():
                yield done
                self.rows[i] = None
                if (next_one := follow(done)) is not None:
                    self.rows[i] = self.continued(i, done, self.checked(next_one), waiting)

    def worth(self, free: int, more: bool) -> bool:
        """Whether to read the waiting texts now: a few at once cost little more than one."""
        return free >= max(1, len(self.rows) // 16) or not more

    def checked(self, request: Request) -> Request:
        """BadInput for what there is no room for."""
        if not request.ids or request.limit < 1:
            raise BadInput("a text to go on with needs a token, and at least one to write")
        if len(request.ids) + request.limit > self.context:
            raise BadInput(
                f"{request.limit} new tokens after {len(request.ids)}: "
                f"the context holds {self.context}"
            )
        return request

    def continued(
        self, i: int, done: Written, request: Request, waiting: list[Request]
    ) -> Row | None:
        """The row of a text that goes on from another, or None if it has to wait to be read."""
        held = [*done.request.ids, *done.ids[:-1]]  # the last was written and not read
        if len(request.ids) > len(held) and list(request.ids[: len(held)]) == held:
            return Row(request, len(held), list(request.ids[len(held) :]))
        waiting.insert(0, request)
        return None

    def enter(self, free: list[int], requests: list[Request]) -> None:
        """Read the beginnings of texts, all but the last token, and give each a row."""
        places = free[: len(requests)]
        sizes = torch.tensor([len(request.ids) - 1 for request in requests])
        for i, request in zip(places, requests, strict=True):
            self.rows[i] = Row(request, len(request.ids) - 1, [request.ids[-1]])
        if (read := [j for j in range(len(places)) if sizes[j] > 0]) != []:
            many = [requests[j].ids[:-1] for j in read]
            at = torch.tensor([places[j] for j in read])
            for begin, chosen in self.grouped(many):
                store = self.read([many[j] for j in chosen], begin)
                self.store.place(at[chosen], store, sizes[read][chosen])

    def grouped(self, many: list[tuple[int, ...]]) -> Iterator[tuple[int, list[int]]]:
        """Texts that begin with what is shared, and the others: tokens that they share, which."""
        n = len(self.shared)
        begins = [len(ids) > n > 0 and list(ids[:n]) == self.shared for ids in many]
        for shared in (True, False):
            if chosen := [j for j, each in enumerate(begins) if each is shared]:
                yield n if shared else 0, chosen

    def read(self, many: list[tuple[int, ...]], begin: int) -> Dense:
        """Keys and values of texts, of which `begin` tokens are those that are shared."""
        store = Dense() if not begin else self.beginning().rows(torch.zeros(len(many)).long())
        longest = max(map(len, many))
        # Padding stands behind: causally, nobody sees it.
        x = torch.tensor([[*ids, *[ids[-1]] * (longest - len(ids))] for ids in many])[:, begin:]
        x = x.to(self.device)
        self.model.features(x, None, mask=BlockCausal(1), kv=store)
        store.commit(x.shape[1])
        return store

    def beginning(self) -> Dense:
        """Keys and values of what is shared."""
        if self.prefix is None:
            self.prefix = Dense()
            x = torch.tensor([self.shared], device=self.device)
            self.model.features(x, None, mask=BlockCausal(1), kv=self.prefix)
            self.prefix.commit(len(self.shared))
        return self.prefix

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return self.model.head_parameters()[0].device

    def shrink(self) -> None:
        """With nobody waiting, go on without the empty rows once they are many."""
        full = [i for i, row in enumerate(self.rows) if row is not None]
        if full and len(full) <= 3 * len(self.rows) // 4:
            self.store.rows(torch.tensor(full))
            self.rows = [self.rows[i] for i in full]

    def step(self) -> list[tuple[int, Written]]:
        """One token of every row: read what is to come, and write where nothing is."""
        x = torch.tensor([[0 if row is None else row.coming[0]] for row in self.rows])
        sizes = torch.tensor([0 if row is None else row.size for row in self.rows])
        self.store.first = self.store.end - int(sizes.max())
        seen = Since((int(sizes.max()) - sizes).to(self.device))
        x, at = x.to(self.device), sizes[:, None].to(self.device)
        h = self.model.features(x, None, mask=seen, at=at, kv=self.store)
        self.store.commit(1)
        self.passes += 1
        for row in self.rows:
            if row is not None:
                row.size += 1
                row.coming.pop(0)
        writing = {i: row for i, row in enumerate(self.rows) if row and not row.coming}
        if not writing:
            return []
        found = self.chosen(self.model.head(h[list(writing), 0]), list(writing.values()))
        taken = ((i, row.take(t)) for (i, row), t in zip(writing.items(), found, strict=True))
        return [(i, done) for i, done in taken if done is not None]

    def chosen(self, logits: Float[Tensor, "n V"], rows: list[Row]) -> list[int]:
        """The next token of some rows."""
        if self.banned:
            logits[:, self.banned] = -torch.inf
        tokens = logits.argmax(-1)
        groups: dict[Draw, list[int]] = {}
        for j, row in enumerate(rows):
            if (draw := row.request.draw).temperature:
                groups.setdefault(draw, []).append(j)
        for draw, which in groups.items():
            u = self.uniform([rows[j] for j in which])
            tokens[which] = draw.at(logits[which].float(), u.to(logits.device))
        return tokens.tolist()

    def uniform(self, rows: list[Row]) -> Float[Tensor, " n"]:
        """A number from [0, 1) for each row, by its seed and its place in the text."""
        places: Int[Tensor, " n"] = torch.tensor([len(row.written) for row in rows])
        rng = Rng.seeds(*(row.request.seed for row in rows)).fold("token").fold(places)
        return rng.uniform(places[:, None]).squeeze(-1)
