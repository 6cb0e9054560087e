"""Score entropy: the network gives the ratios of neighbouring texts (SEDD, Lou et al. 2024).

redraft train sedd                        # masked noise, log-linear schedule
redraft train sedd graph=uniform          # random tokens, geometric schedule
redraft generate runs/sedd --order tweedie --steps 128
"""

from redraft.data.source import Text
from redraft.errors import BadInput
from redraft.objective.nelbo import GeneralNELBO
from redraft.process.mixing import Mixing
from redraft.process.reading import Score
from redraft.recipe.base import Run
from redraft.recipe.parts import plan, quick, small_dit, tokens
from redraft.schedule import Geometric, LogLinear


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
    graph: str = "absorb",
    lr: float = 0.01,
    table_lr: float = 0.004,
    ema: float | None = None,
    precision: str = "auto",
    recompute: bool = False,
    compile: bool = False,
    tensorboard: bool = False,
    seed: int = 0,
) -> Run:
    """Score entropy (SEDD); graph: absorb (masks) or uniform (random tokens)."""
    data = Text(text, tokens(tokenizer, vocab))
    words = data.corpus().tokenizer
    process = noised(graph, words.vocab_size, words.mask_id)
    return Run(
        name="sedd",
        data=data,
        length=length,
        model=small_dit(words.vocab_size, width, depth, length),
        objective=GeneralNELBO(process),
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


def noised(graph: str, vocab_size: int, mask_id: int) -> Mixing:
    """The graph of single-token changes, by the word of the command line."""
    if graph == "absorb":
        return Mixing(vocab_size, mask_id, 0.0, LogLinear(), Score(scaled=True))
    if graph == "uniform":  # what is noise at t = 0 is missing from the bound: 1e-5 of the tokens
        return Mixing(vocab_size, mask_id, 1.0, Geometric(1e-5), Score())
    raise BadInput(f"graph={graph!r}: choose absorb or uniform")
