"""Diffusion language models: trained, sampled, evaluated, correct by test."""

__version__ = "0.1.0"
__all__ = ["__version__", "generate", "load"]


def load(path, dtype=None):
    """A model (`loading.Pretrained`): a checkpoint, a run, or a folder in Hugging Face's layout.

    `dtype`: one to convert the weights to; None keeps theirs.

    Raises BadInput, in one line that names the file, for anything that cannot be loaded.
    """
    from redraft.loading import open_pretrained

    return open_pretrained(path, dtype)


def generate(path, prompt: str = "", **options) -> list[str]:
    """Texts by the model in a folder: `load(path).generate(prompt, ...)`."""
    return load(path).generate(prompt, **options)
