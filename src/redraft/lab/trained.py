"""Small networks trained on a formal language, by the recipes that text is trained with.

The language's text is in documents of several lengths, one a line of JSON. It starts from its
stationary law, so every window of it, wherever a row cuts, is a sample of the language. The end
mark stands behind the last symbol and tells nothing about symbols; when a network writes exactly
L of them, the mark is forbidden and the law of the symbols stays what it was.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import torch

from redraft.data.tokenizer import Tokenizer
from redraft.errors import BadInput
from redraft.files import write_text
from redraft.lab.curves import Writer
from redraft.lab.language import Language
from redraft.lab.oracle import Only
from redraft.loading import open_pretrained
from redraft.pretrained import Pretrained
from redraft.process.mixing import Mixing
from redraft.recipe.find import find
from redraft.recipe.start import start
from redraft.types import Denoiser, Rng

SYMBOLS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
TOKENS = 1_000_000  # of the corpus
SHARE = 0.5  # of the samples that a trained network writes
SIZE = ("width=64", "depth=2", "rows=32", "micro=32")


def characters(vocab: int) -> str:
    """The characters that stand for symbols, in order."""
    if vocab > len(SYMBOLS):
        raise BadInput(f"{vocab} symbols, but there are only {len(SYMBOLS)} characters for them")
    return SYMBOLS[:vocab]


def corpus(language: Language, lengths: Sequence[int], path: Path, seed: int, tokens: int) -> None:
    """Sequences of the language as documents: as many tokens of each length."""
    letters, lines = characters(language.emit.shape[1]), []
    for length in lengths:
        index = torch.arange(max(20, tokens // len(lengths) // length))
        x = language.sample(length, Rng.of(seed, index).fold(f"corpus of {length}"))
        lines += ["".join(letters[symbol] for symbol in row) for row in x.tolist()]
    write_text(path, "".join(json.dumps({"text": line}) + "\n" for line in lines))


def ids(tokenizer: Tokenizer, vocab: int) -> list[int]:
    """The token of each symbol. A symbol that no text held has none."""
    found = [tokenizer.inner.token_to_id(letter) for letter in characters(vocab)]
    if None in found:
        raise BadInput("a symbol never occurred in the corpus; take more text or other tables")
    return found


def train(
    language: Language,
    lengths: Sequence[int],
    seconds: float,
    out: Path,
    seed: int,
    watch: Callable,
) -> list[Pretrained]:
    """A masked and an autoregressive network on the language; finished runs are kept."""
    out.mkdir(parents=True, exist_ok=True)
    text = out / "corpus.jsonl"
    if not text.exists():
        corpus(language, lengths, text, seed, TOKENS)
    data = [f"text={text}", "tokenizer=chars", f"length={max(lengths)}", f"seed={seed}"]
    models = []
    for name in ("mdlm", "ar"):
        run, folder = find(name, [*data, f"seconds={seconds}", *SIZE]), out / name
        watch(start(run, folder, (folder / "run.json").exists()), run, folder)
        models.append(open_pretrained(folder))
    return models


def writers(models: Sequence[Pretrained], language: Language) -> list[Writer]:
    """Trained networks that may write the symbols of the language only."""
    found = []
    for model in models:
        allowed = torch.full((model.process.vocab_size,), -torch.inf)
        allowed[language.symbols] = 0.0
        name = "autoregressive" if model.causal else "trained"
        only = Only(cast(Denoiser, model.model), allowed)
        mask_id = model.tokenizer.mask_id
        found.append(
            Writer(name, only, model.process, mask_id, model.mask, model.causal, samples=SHARE)
        )
    return found


def plain(vocab: int) -> Mixing:
    """Masked noise for symbols that are their own token ids, with [MASK] behind them."""
    return Mixing(vocab + 1, vocab)
