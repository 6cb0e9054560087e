"""What a run takes from an earlier one: its vectors of tokens, or the flow that it straightens."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from redraft.data.corpus import Corpus
from redraft.errors import BadInput
from redraft.loading import open_pretrained
from redraft.objective.embedding import Regression, TokenLoss
from redraft.objective.reflow import Reflow
from redraft.pretrained import Pretrained
from redraft.process.gaussian import Gaussian
from redraft.process.path import Straight
from redraft.sample import solver
from redraft.sample.rules import DPM
from redraft.types import Objective


@dataclass(frozen=True)
class Flow:
    """A trained flow whose noise and text are learned as pairs, from its weights on: reflow.

    Pairs are made for every batch, never stored: each is a function of the seed and the row, so
    a run resumes exactly, and no two steps see the same. That costs `steps` network calls.
    """

    folder: str  # of a checkpoint
    steps: int = 16  # of DPM-Solver++(2M), from noise to text

    def begin(self, model: nn.Module) -> None:
        """Put in the flow's weights."""
        model.load_state_dict(open_pretrained(self.folder).model.state_dict())

    def objectives(
        self, learned: Objective, measure: Objective, device: torch.device
    ) -> tuple[Objective, Objective]:
        """What is learned and what is watched: both on pairs, as text itself is not its aim."""
        flow = open_pretrained(self.folder)
        sampler = solver.Solver(flow.process, DPM(), self.steps)
        model = flow.model.to(device).requires_grad_(False)
        paired = Reflow(learned, partial(solver.ends, sampler, model, flow.mask))
        return paired, paired


@dataclass(frozen=True)
class Vectors:
    """A trained run whose vectors of tokens this one has, and does not move."""

    folder: str  # of a checkpoint

    def begin(self, model: nn.Module) -> None:
        """Put them in."""
        with torch.no_grad():
            table: Any = model.table
            table.weight.copy_(vectors(open_pretrained(self.folder)))

    def objectives(
        self, learned: Objective, measure: Objective, device: torch.device
    ) -> tuple[Objective, Objective]:
        """As they are."""
        return learned, measure


def vectors(model: Pretrained) -> Tensor:
    """One vector a token: a model of vectors' own, or what a network's embedding has learned."""
    if isinstance(model.process, Gaussian):
        return model.process.codebook.vectors(model.model).detach().float()
    inner: Any = getattr(model.model, "inner", model.model)
    embedding = getattr(inner, "embedding", None)
    if not isinstance(embedding, nn.Embedding):
        raise BadInput(f"{model.path}: this network has no embedding to take vectors from")
    return embedding.weight.detach().float()


def flow(folder: str) -> Pretrained:
    """A trained rectified flow. Raises BadInput for any other run."""
    model = open_pretrained(folder)
    straight = isinstance(getattr(model.process, "path", None), Straight)
    if not straight or not isinstance(model.trained, Regression | TokenLoss):
        raise BadInput(f"reflow={folder}: no rectified flow; train one with `redraft train flow`")
    return model


def same_words(folder: str, corpus: Corpus) -> None:
    """BadInput unless a run has the tokenizer of a corpus."""
    one, two = Path(folder) / "tokenizer.json", corpus.folder / "tokenizer.json"
    if one.read_bytes() != two.read_bytes():
        raise BadInput(
            f"{folder}: another tokenizer than that of this run's text; give both the same text "
            "and vocabulary"
        )
