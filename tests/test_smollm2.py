"""The real base model, where it has been fetched already: nothing here asks the network."""

import pytest
import torch
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize

import redraft
from redraft.data.chat import Turn
from redraft.mask import BlockCausal
from redraft.model.formats.gguf_file import open_gguf
from redraft.names import NAMES, cache, installed, whole

NAME = "smollm2-135m-instruct"
BASE = NAMES[NAME]
PLACES = (*installed(BASE), cache() / f"{BASE.package}-{BASE.version}" / BASE.file)
FILE = next((place for place in PLACES if whole(place, BASE)), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(FILE is None, reason=f"redraft.load('{NAME}') has not fetched it"),
]


def test_it_knows_the_capital_of_france():
    model = redraft.load(NAME)
    network, chat = model.model.model, model.voice.chat
    asked = [Turn("user", "What is the capital of France?")]
    tokens = torch.tensor([chat.prompt(asked)])
    assert (tokens[0, :4].tolist(), tokens.shape[1]) == ([1, 9690, 198, 2683], 37)
    with torch.no_grad():
        for _ in range(12):
            logits = network(tokens, mask=BlockCausal(1))[:, -1:]
            tokens = torch.cat([tokens, logits.argmax(-1)], 1)
    assert "Paris" in model.tokenizer.decode(tokens[0, 37:].tolist())


def test_its_tensors_are_the_library_s():
    file = open_gguf(FILE)
    assert {entry.kind for entry in file.entries.values()} == {"F32", "Q4_1", "Q8_0"}
    for name in ["token_embd.weight", "output_norm.weight", "blk.7.attn_q.weight"]:
        entry = file.entries[name]
        rows = file.data[entry.start : entry.start + entry.size].reshape(entry.shape[0], -1)
        wanted = dequantize(rows, GGMLQuantizationType[entry.kind]).reshape(entry.shape)
        assert torch.equal(file.get(name), torch.from_numpy(wanted.copy()))


def test_any_text_comes_back():
    tokenizer = redraft.load(NAME, torch.bfloat16).tokenizer
    for text in ("in 1984, I'LL don't", "naïve 😀 ١٢½\u200b中文\r\n\t ", "<|im_start|>user"):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text and min(ids) > 16
    assert len(tokenizer.encode("1984")) == 4
