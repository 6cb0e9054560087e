"""Networks of the transformers library, for architectures that redraft has not (extra [hf])."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from redraft.errors import BadInput
from redraft.mask import Mask
from redraft.model.formats.find import types
from redraft.types import Features, Logits, Time, Tokens


@dataclass(frozen=True)
class BorrowedConfig:
    """What the rest of redraft asks of a network's configuration."""

    vocab_size: int
    max_len: int


class Borrowed(nn.Module):
    """A causal language model of theirs, under any mask. It keeps no keys and values."""

    timed = False
    stores = False

    def __init__(self, model: Any, config: BorrowedConfig):
        super().__init__()
        self.model, self.config = model, config

    def features(
        self, x: Tokens, t: Time | None = None, *, mask: Mask, at: Tokens | None = None
    ) -> Features:
        """The last hidden states, as their head reads them."""
        B, L = x.shape
        inner = self.model.base_model
        seen = mask.dense(B, L, L, str(x.device))[:, None]
        least = torch.finfo(self.model.dtype).min
        bias = torch.zeros(seen.shape, dtype=self.model.dtype, device=x.device)
        bias = bias.masked_fill(~seen, least)
        at = torch.arange(L, device=x.device).expand(B, L) if at is None else at
        return inner(x, attention_mask=bias, position_ids=at, use_cache=False)[0]

    def head(self, h: Float[Tensor, "*N D"]) -> Float[Tensor, "*N V"]:
        """Features to logits."""
        logits = self.model.get_output_embeddings()(h)
        cap = getattr(self.model.config, "final_logit_softcapping", None)
        return logits if cap is None else torch.tanh(logits / cap) * cap

    def head_parameters(self) -> list[Tensor]:
        """What `head` trains."""
        return list(self.model.get_output_embeddings().parameters())

    def forward(
        self, x: Tokens, t: Time | None = None, *, mask: Mask, at: Tokens | None = None
    ) -> Logits:
        """Row i speaks of token i + 1."""
        return self.head(self.features(x, t, mask=mask, at=at))


def available() -> bool:
    """Whether the library is installed."""
    return find_spec("transformers") is not None


def borrow(folder: Path, kind: str, dtype: torch.dtype | None = None) -> Borrowed:
    """The network of a folder of a kind. Never runs code from it, never unpickles.

    Raises BadInput for what they cannot load, and for weights that are not there, which they
    would draw at random.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise BadInput(
            f"{folder}: model_type {kind!r} is none that redraft reads: {', '.join(types())}; "
            "and transformers has no causal language model of it"
        )
    model, found = loaded(folder, dtype)
    if missing := sorted(found["missing_keys"]) + sorted(map(str, found["mismatched_keys"])):
        raise BadInput(f"{folder}: {missing[0]} is missing or of another shape")
    if model.get_output_embeddings() is None:
        raise BadInput(f"{folder}: a {type(model).__name__} has no head")
    shape = model.config.get_text_config()
    # Their layers that look no further back than a window are given the whole mask here, which
    # is the same within one window.
    limits = (getattr(shape, name, None) for name in ("max_position_embeddings", "sliding_window"))
    longest = min((limit for limit in limits if limit), default=2048)
    return Borrowed(model.eval(), BorrowedConfig(shape.vocab_size, longest)).eval()


def loaded(folder: Path, dtype: torch.dtype | None) -> tuple[Any, Mapping[str, Any]]:
    """Their network, and what they say of its weights."""
    import transformers

    try:
        return transformers.AutoModelForCausalLM.from_pretrained(
            str(folder),
            dtype="auto" if dtype is None else dtype,
            attn_implementation="eager",  # the one that takes any mask everywhere
            trust_remote_code=False,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except Exception as error:  # whatever their loading raises
        why = " ".join(str(error).split())[:300]
        raise BadInput(f"{folder}: transformers cannot load it ({why})") from None
