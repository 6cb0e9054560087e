"""The models of a comparison: recipes with the same text, network and budget."""

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from redraft.errors import BadInput
from redraft.loading import open_pretrained
from redraft.pretrained import Pretrained
from redraft.recipe.base import Run
from redraft.recipe.find import find, shipped, user_recipe
from redraft.recipe.start import start
from redraft.train.log import read

RECIPES = (
    "ar", "mdlm", "mdlm_dit", "block", "diffusionbert", "udlm", "gidd", "sedd",
    "sedd graph=uniform", "d3pm kernel=absorbing", "d3pm", "flow",
    "flow velocity=true", "diffusion_lm", "bits", "d3pm kernel=neighbours positions=4",
)  # fmt: skip
SCORER = "ar"  # of generative perplexity; it is trained even if it is not compared


@dataclass(frozen=True)
class Candidate:
    """A recipe with its settings, such as "sedd graph=uniform"."""

    name: str  # as the user wrote it

    @property
    def words(self) -> list[str]:
        """Recipe and settings."""
        words = self.name.split()
        if not words:
            raise BadInput("an empty name of a recipe; write NAME or 'NAME key=value'")
        return words

    @property
    def folder(self) -> str:
        """The same as the name of a folder."""
        return re.sub(r"[^\w.=+-]+", "-", " ".join(self.words)).strip("-.")

    def run(self, common: Sequence[str]) -> Run:
        """Its run: of the common settings, those that the recipe has; its own come last."""
        what, *own = self.words
        recipe = user_recipe(Path(what)) if what.endswith(".py") else shipped(what)
        known = inspect.signature(recipe).parameters
        shared = [word for word in common if word.partition("=")[0] in known]
        return find(what, [*shared, *own])  # the last of two wins


@dataclass(frozen=True, eq=False)
class Trained:
    """A candidate that was trained."""

    name: str
    run: Run
    model: Pretrained
    folder: Path

    @property
    def spent(self) -> dict:
        """Steps, tokens and seconds of training."""
        *_, last = read(self.folder / "metrics.jsonl")
        return {key: last[key] for key in ("step", "tokens", "seconds")}


def train(
    names: Sequence[str],
    common: Sequence[str],
    out: Path,
    watch: Callable,
    stop: Callable[[], bool] = lambda: False,
) -> list[Trained]:
    """Train one after the other, or go on where an earlier call was stopped.

    All runs are made, and so checked, before the first is trained. Whoever is asked to stop
    leaves the list short.
    """
    candidates = [Candidate(name) for name in dict.fromkeys([*names, SCORER])]
    doubles = len(candidates) - len({each.folder for each in candidates})
    if doubles:
        raise BadInput("two recipes of the list would be trained in the same folder")
    runs = [each.run(common) for each in candidates]
    contents = {run.data.corpus().content for run in runs}
    if len(contents) > 1:
        raise BadInput("the recipes are for different text or tokenizers; compare them on one")
    found = []
    for each, run in zip(candidates, runs, strict=True):
        folder = out / "runs" / each.folder
        told = watch(start(run, folder, (folder / "run.json").exists(), stop), run, folder)
        if stop() or (told is not None and told.progress < 1):
            return found
        found.append(Trained(each.name, run, open_pretrained(folder), folder))
    return found
