"""`redraft convert`: parse, call, print. Heavy imports wait inside the command."""

from pathlib import Path
from typing import Annotated

import typer


def convert(
    source: Annotated[
        str, typer.Argument(help="a run, a Hugging Face folder, a .gguf file, or a name")
    ],
    out: Annotated[Path, typer.Argument(help="a folder, or a file for --to gguf; not there yet")],
    to: Annotated[str, typer.Option(help="hf, gguf, redraft or peft")],
    dtype: Annotated[
        str | None, typer.Option(help="F32, F16, BF16, or Q8_0 for gguf; default: as it is")
    ] = None,
    shard: Annotated[float, typer.Option(min=0.001, help="for hf: MB of a file, at most")] = 5000,
) -> None:
    """Write a checkpoint in another layout.

    hf: config.json, safetensors, tokenizer.json and chat template. gguf: a file that llama.cpp
    reads; diffusion models as `dream` or `llada`. redraft: a checkpoint that runs can begin from.
    peft: the adapters of a dual-stream model as PEFT keeps them, which can be loaded here too.
    """
    from redraft.convert import Layout, Numbers, convert, of

    numbers = None if dtype is None else of(Numbers, dtype.upper(), "--dtype")
    convert(source, out, of(Layout, to.lower(), "--to"), numbers, int(shard * 1e6))
    print(out)
