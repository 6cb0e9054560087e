"""Diffusion in T steps over any transition matrix: D3PM (Austin et al. 2021).

redraft train d3pm                                       # uniform noise
redraft train d3pm kernel=absorbing                      # [MASK], with lam = 0.01
redraft train d3pm kernel=neighbours tokenizer=chars     # tokens become tokens used alike
redraft train d3pm kernel=gaussian tokenizer=bytes       # tokens become tokens near by number
redraft train d3pm kernel=reflected                      # the same for large vocabularies
"""

import torch

from redraft.data.corpus import Corpus
from redraft.data.neighbours import READ, frequencies, nearest, vectors
from redraft.data.source import Text
from redraft.errors import BadInput
from redraft.objective.variational import Variational
from redraft.process.discrete import Discrete
from redraft.process.graph import Neighbours, pack
from redraft.process.information import informed
from redraft.process.kernel import Gaussian, Reflected
from redraft.process.matrix import Matrix
from redraft.process.mixing import Mixing
from redraft.process.reading import Others
from redraft.recipe.base import Run
from redraft.recipe.parts import plan, quick, small_dit, tokens
from redraft.schedule import CosineMDLM


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
    kernel: str = "uniform",
    T: int = 1000,
    lam: float | None = None,
    k: int | None = None,
    leap: float | None = None,
    positions: int | None = None,
    lr: float = 0.01,
    table_lr: float = 0.004,
    ema: float | None = None,
    precision: str = "auto",
    recompute: bool = False,
    compile: bool = False,
    tensorboard: bool = False,
    seed: int = 0,
) -> Run:
    """D3PM with the network of `mdlm_dit`.

    kernel=neighbours has k of them (5) and a rate of leaps to anywhere (0.05); positions limits
    how many tokens of a row are scored.
    """
    data = Text(text, tokens(tokenizer, vocab))
    corpus = data.corpus()
    words = corpus.tokenizer
    process = noise(kernel, corpus, T, k, leap)
    lam = (0.01 if process.absorbing else 0.0) if lam is None else lam
    return Run(
        name="d3pm",
        data=data,
        length=length,
        model=small_dit(words.vocab_size, width, depth, length),
        objective=Variational(process, T, lam, positions),
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
    )


def noise(kernel: str, corpus: Corpus, T: int, k: int | None, leap: float | None) -> Discrete:
    """A process by the word a command line uses."""
    V, mask_id = corpus.tokenizer.vocab_size, corpus.tokenizer.mask_id
    if kernel != "neighbours" and (k is not None or leap is not None):
        raise BadInput(f"kernel={kernel} has no k and no leap; kernel=neighbours has")
    if kernel == "absorbing":
        return Mixing(V, mask_id)
    if kernel == "uniform":
        return Mixing(V, mask_id, 1.0, CosineMDLM(), Others())
    if kernel == "gaussian":
        return Matrix(V, mask_id, Gaussian(V - 1, T))
    if kernel == "reflected":
        return Matrix(V, mask_id, reflected(corpus, T))
    if kernel == "neighbours":
        graph = neighbours(corpus, T, 5 if k is None else k, 0.05 if leap is None else leap)
        return Matrix(V, mask_id, graph)
    raise BadInput(
        f"kernel={kernel!r}: choose absorbing, uniform, gaussian, reflected or neighbours"
    )


def reflected(corpus: Corpus, T: int) -> Reflected:
    """Tokens near by number, with the schedule by mutual information."""
    states = corpus.tokenizer.vocab_size - 1
    share = torch.from_numpy(frequencies(stream(corpus), states))
    return informed(Reflected(states, (0.0, 1.0), T), share)


def neighbours(corpus: Corpus, T: int, k: int, leap: float) -> Neighbours:
    """Tokens used alike, with the schedule by mutual information."""
    states = corpus.tokenizer.vocab_size - 1
    if not 1 <= k < states:
        raise BadInput(f"k={k}: choose from 1 to {states - 1} neighbours")
    seen = stream(corpus)
    near = torch.from_numpy(nearest(vectors(seen, states), k))
    share = torch.from_numpy(frequencies(seen, states))
    return informed(Neighbours(states, (0.0, 1.0), T, leap, pack(near)), share)


def stream(corpus: Corpus):
    """The first tokens of the text, numbered without [MASK]."""
    seen = corpus.tokens("train")[:READ].astype("int64")
    return seen - (seen > corpus.tokenizer.mask_id)
