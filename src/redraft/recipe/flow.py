"""A rectified flow between noise and vectors of tokens, learned by cross-entropy.

redraft train flow                     # Shakespeare, three minutes
redraft train flow velocity=true       # squared error of the velocity, on random vectors
redraft train flow codebook=runs/diffusion_lm velocity=true
redraft train flow reflow=runs/flow --out runs/straighter
redraft generate runs/flow --solver heun --steps 64
"""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from redraft.data.source import Text
from redraft.errors import BadInput
from redraft.loading import open_pretrained, resolve
from redraft.model.latent import LatentConfig
from redraft.objective.embedding import Regression, TokenLoss
from redraft.process.codebook import Learned, Random
from redraft.process.gaussian import Gaussian
from redraft.process.path import Straight
from redraft.process.prediction import Tokens, Velocity
from redraft.recipe.base import Run
from redraft.recipe.earlier import Flow, Vectors, flow, vectors
from redraft.recipe.parts import SMALL_DIT, plan, quick, tokens


def recipe(
    text: str = "shakespeare",
    tokenizer: str = "bpe",
    vocab: int = 8192,
    width: int = 256,
    depth: int = 4,
    length: int = 256,
    seconds: float = 180.0,
    steps: int | None = None,
    rows: int = 16,
    micro: int = 16,
    size: int = 64,
    noise: float = 1.0,
    velocity: bool = False,
    codebook: str | None = None,
    reflow: str | None = None,
    ode: int = 16,
    feedback: bool = True,
    lr: float = 0.01,
    table_lr: float = 0.004,
    ema: float | None = None,
    precision: str = "auto",
    recompute: bool = False,
    compile: bool = False,
    tensorboard: bool = False,
    seed: int = 0,
) -> Run:
    """The straight path (Liu et al. 2022) to vectors of length sqrt(size), as CDCD has them.

    `codebook` is a run whose vectors are taken and left as they are. `reflow` is a trained flow
    to be straightened: the network, the noise and the length are then its own, and the text says
    only where documents begin; `ode` is how many steps lead its noise to text.
    """
    data = Text(text, tokens(tokenizer, vocab))
    words = data.corpus().tokenizer
    said: dict[str, Any] = {"width": width, "depth": depth, "size": size, "length": length}
    said |= {"noise": noise, "velocity": velocity, "codebook": codebook, "feedback": feedback}
    if reflow is not None:
        model, objective, length, earlier = straightened(reflow, ode, said)
    else:
        agreed({"ode": ode}, {}, "needs reflow=RUN")
        model, objective, earlier = begun(words, **said)
    return Run(
        name="flow",
        data=data,
        length=length,
        model=model,
        objective=objective,
        plan=plan(
            steps,
            seconds,
            rows=rows,
            micro=micro,
            **quick(lr, table_lr),
            ema=ema,
            precision=precision,
            recompute=recompute,
            compile=compile,
            tensorboard=tensorboard,
        ),
        seed=seed,
        earlier=earlier,
    )


def agreed(said: Mapping[str, Any], own: Mapping[str, Any], why: str) -> None:
    """BadInput for a setting that nothing would read, unless it says what is so anyway."""
    usual = inspect.signature(recipe).parameters
    for name, value in said.items():
        if value not in (usual[name].default, own.get(name)):
            raise BadInput(f"{name}={value} {why}")


def straightened(folder: str, ode: int, said: Mapping[str, Any]) -> tuple[Any, Any, int, Flow]:
    """The network, the objective and the length of a trained flow, to learn from its own pairs."""
    first = flow(folder)
    shape, learned = cast(Any, first.model).config, cast(Any, first.trained)
    own = {"width": shape.width, "depth": shape.depth, "size": shape.size, "length": first.length}
    own |= {"noise": learned.process.path.noise, "feedback": learned.process.feedback}
    own |= {"velocity": isinstance(learned, Regression)}
    agreed(said, own, "does not go with reflow=, whose flow says otherwise")
    return shape, first.trained, first.length, Flow(str(first.path), ode)


def begun(
    words: Any,
    width: int,
    depth: int,
    size: int,
    length: int,
    noise: float,
    velocity: bool,
    codebook: str | None,
    feedback: bool,
) -> tuple[LatentConfig, Regression | TokenLoss, Vectors | None]:
    """A fresh network, what it learns, and the run whose vectors it has, if any."""
    earlier = None
    if codebook is not None:
        earlier = Vectors(str(resolve(Path(codebook))))
        own = vectors(open_pretrained(earlier.folder)).shape[1]
        agreed({"size": size}, {"size": own}, f"does not go with codebook=, of vectors of {own}")
        size = own
    V, held = words.vocab_size, not velocity or earlier is not None
    model = LatentConfig(
        V,
        size,
        size if velocity else V,
        width,
        depth,
        max(1, width // 64),
        length,
        learned=held,
        frozen=earlier is not None,
        **SMALL_DIT,
    )
    book = Learned(size, normalised=True) if held else Random(V, size)
    answer = Velocity() if velocity else Tokens(evidence=True)
    noised = Gaussian(V, words.mask_id, book, Straight(noise), answer, feedback=feedback)
    return model, Regression(noised) if velocity else TokenLoss(noised), earlier
