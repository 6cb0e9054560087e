"""The tokenizer inside a GGUF file as a `tokenizers.Tokenizer`."""

from collections.abc import Mapping
from typing import Any

from redraft.errors import BadInput

NORMAL, UNKNOWN, CONTROL, ADDED, UNUSED, BYTE = range(1, 7)  # kinds of tokens
# Where text is cut before pairs of bytes are merged; "" is GPT-2's rule, which the library has.
QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BAILING = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
SPLITS = {
    "gpt-2": "",
    "qwen2": QWEN,
    "llama-bpe": QWEN.replace(r"|\p{N}|", r"|\p{N}{1,3}|"),
    "llada-moe": BAILING,
}
ALIKE = {  # other names of the same rules
    "phi-2": "gpt-2",
    "olmo": "gpt-2",
    "deepseek-r1-qwen": "qwen2",
    "stablelm2": "qwen2",
    "llama3": "llama-bpe",
    "llama-v3": "llama-bpe",
    "bailingmoe": "llada-moe",
    "bailingmoe2": "llada-moe",
    "starcoder": "smollm",
    "refact": "smollm",
    "command-r": "smollm",
}
NORMAL_FORMS = ("qwen2",)  # those that compose accents first


def tokenizer_of(meta: Mapping[str, Any]) -> Any:
    """A `tokenizers.Tokenizer` that gives every token its own id. BadInput for other kinds."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    if (kind := meta.get("tokenizer.ggml.model")) != "gpt2":
        raise BadInput(f"its tokenizer is {kind!r}; only byte-level 'gpt2' can be read")
    pre = meta.get("tokenizer.ggml.pre", "gpt-2")
    pre = ALIKE.get(pre, pre)
    tokens, merges = meta["tokenizer.ggml.tokens"], meta.get("tokenizer.ggml.merges", [])
    kinds = meta.get("tokenizer.ggml.token_type", [NORMAL] * len(tokens))
    used = [i for i, each in zip(range(len(tokens)), kinds, strict=True) if each != UNUSED]
    vocab = {tokens[i]: i for i in used}
    if len(vocab) < len(used):
        raise BadInput("its tokenizer has a token twice")
    pairs = [tuple(merge.split(" ")) for merge in merges]
    inner = Tokenizer(models.BPE(vocab, pairs, ignore_merges=pre == "llama-bpe"))
    inner.pre_tokenizer = cutting(pre, meta.get("tokenizer.ggml.add_space_prefix", False))
    inner.decoder = decoders.ByteLevel()
    if pre in NORMAL_FORMS:
        inner.normalizer = normalizers.NFC()
    add_marks(inner, tokens, kinds)
    return inner


def cutting(pre: str, prefix: bool) -> Any:
    """How text is cut into the pieces that pairs are merged in."""
    from tokenizers import Regex
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence, Split

    if pre == "smollm":
        return Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=prefix)])
    if pre not in SPLITS:
        known = ", ".join(sorted({*SPLITS, *ALIKE, "smollm"}))
        raise BadInput(f"tokenizer.ggml.pre is {pre!r}, which is none of {known}")
    if not SPLITS[pre]:
        return ByteLevel(add_prefix_space=prefix)
    split = Split(Regex(SPLITS[pre]), "isolated")
    return Sequence([split, ByteLevel(add_prefix_space=prefix, use_regex=False)])


def add_marks(inner: Any, tokens: list[str], kinds: list[int]) -> None:
    """Make whole tokens of what is no piece of text: `<|im_start|>` and its kind."""
    from tokenizers import AddedToken

    for token, kind in zip(tokens, kinds, strict=True):
        if kind in (UNKNOWN, CONTROL):
            inner.add_special_tokens([AddedToken(token, special=True, normalized=False)])
        elif kind == ADDED:
            inner.add_tokens([AddedToken(token, special=False, normalized=False)])
