"""A run is a value: everything needed to train, and nothing else."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from redraft.adapt.base import OnBase
from redraft.errors import BadInput
from redraft.train.loop import Plan
from redraft.types import Objective


@dataclass(frozen=True)
class Run:
    """One training run. Its objective says what the noise is and who may attend to whom."""

    name: str
    data: Any  # Text, Answers: it has corpus(), rows() and held()
    length: int  # tokens of a row: the context
    model: Any  # a network's configuration: vocab_size, max_len and build()
    objective: Objective
    plan: Plan
    seed: int = 0
    eval_rows: int = 64  # held-out rows that each evaluation during training looks at
    init: str | None = None  # folder of weights to begin from; what they lack begins fresh
    notes: Callable[..., dict] | None = None  # (run, model, corpus, held) -> what else to log
    earlier: Any = None  # the run that this one builds on, a value of recipe/earlier.py

    def check(self, corpus: Any) -> None:
        """Raises BadInput unless the run fits together and was made for this vocabulary."""
        process, tokenizer = self.objective.process, corpus.tokenizer
        told = getattr(self.objective, "attribute", None)
        known = getattr(self.model, "classes", None)
        if told is not None and known != told.classes:
            raise BadInput(f"the network knows {known} classes, the attribute has {told.classes}")
        if self.length > self.model.max_len:
            raise BadInput(f"rows of {self.length}, but the network is for {self.model.max_len}")
        same = process.vocab_size == tokenizer.vocab_size
        if isinstance(self.model, OnBase) or self.init is not None:
            # a network that stays as it is may have rows to spare
            same = process.vocab_size >= tokenizer.vocab_size
        if not same or process.mask_id != tokenizer.mask_id:
            raise BadInput(
                f"{corpus.folder}: {tokenizer.vocab_size} tokens with [MASK] {tokenizer.mask_id}, "
                f"but the run is for {process.vocab_size} with [MASK] {process.mask_id}"
            )
