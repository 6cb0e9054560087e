"""BERT against its formulas, and its published layout against ours."""

import json
import math

import pytest
import tokenizers
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers

from redraft.data.loader import texts_as_rows
from redraft.data.text import Document
from redraft.data.tokenizer import Bytes, Chars, Tokenizer
from redraft.describe import read_json
from redraft.errors import BadInput
from redraft.loading import open_pretrained
from redraft.mask import BlockCausal, Documents, Full
from redraft.model.bert import BertConfig
from redraft.model.formats.bert import begun
from redraft.recipe.find import find
from redraft.recipe.start import start

V, L = 19, 10
CONFIG = BertConfig(V, 16, 2, 2, 24, max_len=12, norm_eps=0.1)
X = torch.randint(V, (2, L), generator=torch.Generator().manual_seed(0))
T = torch.tensor([[0.3], [0.8]])


def loud(config):
    model, rng = config.build(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=rng) * 0.3 + (weight.ndim == 1) * 0.5)
    return model.eval()


def close(got, want):
    torch.testing.assert_close(got, want, atol=2e-5, rtol=2e-5)


def norm(x, layer):
    centred = x - x.mean(-1, keepdim=True)
    scale = (centred.square().mean(-1, keepdim=True) + 0.1).sqrt()
    return centred / scale * layer.weight + layer.bias


def gelu(x):
    return x / 2 * (1 + torch.erf(x / math.sqrt(2)))


def linear(x, layer):
    return x @ layer.weight.T + layer.bias


def written_out(model, x, allowed, told=0.0, kinds=None):
    """One row of logits, head by head."""
    kinds = torch.zeros(len(x), dtype=torch.long) if kinds is None else kinds
    h = model.embedding.weight[x] + model.position.weight[: len(x)] + model.kind.weight[kinds]
    h = norm(h, model.embedding_norm)
    for layer in model.layers:
        h, a, heads = h + told, layer.attention, []
        for part in (slice(0, 8), slice(8, 16)):
            q, k, v = (linear(h, each)[:, part] for each in (a.q, a.k, a.v))
            score = (q @ k.T / math.sqrt(8)).masked_fill(~allowed, -torch.inf)
            heads.append(score.softmax(-1) @ v)
        h = norm(h + linear(torch.cat(heads, -1), a.out), layer.attention_norm)
        h = norm(h + linear(gelu(linear(h, layer.up)), layer.down), layer.mlp_norm)
    h = norm(gelu(linear(h, model.transform)), model.transform_norm)
    return h @ model.embedding.weight.T + model.unembedding.bias


@pytest.mark.parametrize("mask", [Full(), BlockCausal(1), BlockCausal(4)])
@torch.no_grad()
def test_a_bert_is_what_its_paper_says(mask):
    model = loud(CONFIG)
    got, allowed = model(X, mask=mask), mask.dense(2, L, L)
    for i in range(2):
        close(got[i], written_out(model, X[i], allowed[i]))
    assert not model.timed and torch.equal(model(X, T, mask=mask), got)
    kinds = (torch.arange(L) > 4).long()
    typed = model(X, mask=mask, types=kinds.expand(2, L))
    close(typed[0], written_out(model, X[0], allowed[0], kinds=kinds))
    doc = torch.where(torch.arange(L) < 6, 0, -1).expand(2, L)
    close(model(X, mask=mask & Documents(doc))[:, :6], model(X[:, :6], mask=mask))


@torch.no_grad()
def test_a_clock_is_added_to_the_input_of_every_layer():
    config = BertConfig(V, 16, 2, 2, 24, max_len=12, norm_eps=0.1, timed=True)
    model, everything = loud(config), torch.ones(L, L, dtype=torch.bool)
    got = model(X, T, mask=Full())
    rate = 10000.0 ** (-torch.arange(128) / 128)
    for i in range(2):
        angle = T[i] * 1000 * rate
        told = linear(torch.cat([angle.cos(), angle.sin()]), model.clock.hand)
        close(got[i], written_out(model, X[i], everything, told))
    fresh = config.build()
    close(fresh(X, T, mask=Full()), fresh(X, 1 - T, mask=Full()))
    with pytest.raises(BadInput, match="none was given"):
        model(X, mask=Full())


@torch.no_grad()
def test_the_decoder_is_the_embedding_and_there_are_so_many_positions():
    model = CONFIG.build()
    assert model.unembedding.weight is model.embedding.weight
    with pytest.raises(BadInput, match="rows of 13, but the network has 12 positions"):
        model(torch.zeros(1, 13, dtype=torch.long), mask=Full())
    with pytest.raises(BadInput, match="heads of equal size"):
        BertConfig(V, 16, 2, 3, 24, 12)


THEIRS = {
    "vocab_size": V,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 12,
    "layer_norm_eps": 0.1,
    "model_type": "bert",
}


def published(model, prefix="bert.", head=True):
    """Weights under the names that Hugging Face gives them, written down by hand."""
    found = {}

    def put(theirs, ours):
        found.update({f"{theirs}.{kind}": p.detach() for kind, p in ours.named_parameters()})

    put(f"{prefix}embeddings.word_embeddings", model.embedding)
    put(f"{prefix}embeddings.position_embeddings", model.position)
    put(f"{prefix}embeddings.token_type_embeddings", model.kind)
    put(f"{prefix}embeddings.LayerNorm", model.embedding_norm)
    for i, layer in enumerate(model.layers):
        at = f"{prefix}encoder.layer.{i}"
        put(f"{at}.attention.self.query", layer.attention.q)
        put(f"{at}.attention.self.key", layer.attention.k)
        put(f"{at}.attention.self.value", layer.attention.v)
        put(f"{at}.attention.output.dense", layer.attention.out)
        put(f"{at}.attention.output.LayerNorm", layer.attention_norm)
        put(f"{at}.intermediate.dense", layer.up)
        put(f"{at}.output.dense", layer.down)
        put(f"{at}.output.LayerNorm", layer.mlp_norm)
    if head:
        put("cls.predictions.transform.dense", model.transform)
        put("cls.predictions.transform.LayerNorm", model.transform_norm)
        found["cls.predictions.bias"] = model.unembedding.bias.detach()
    return found


def write(folder, weights, **changes):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(THEIRS | changes))
    save_file({name: w.clone() for name, w in weights.items()}, folder / "model.safetensors")


@pytest.mark.parametrize("prefix", ["bert.", ""])
@pytest.mark.parametrize("head", [True, False])
def test_the_published_layout_is_read(tmp_path, prefix, head):
    model = loud(CONFIG)
    extra = {
        f"{prefix}pooler.dense.weight": torch.ones(2),
        f"{prefix}embeddings.position_ids": torch.arange(12),
    }
    if head:
        extra["cls.predictions.decoder.weight"] = model.embedding.weight.detach()
    write(tmp_path, published(model, prefix, head) | extra)
    config, weights = begun(tmp_path)
    assert config == CONFIG and not begun(tmp_path, timed=True)[0] == config
    mine = dict(model.named_parameters())
    inside = {n for n in mine if head or not n.startswith(("transform", "unembedding"))}
    assert weights.keys() == inside
    assert all(torch.equal(weights[name], mine[name]) for name in inside)


def test_the_first_releases_called_gains_gamma(tmp_path):
    model = loud(CONFIG)
    weights = published(model)
    weights["bert.embeddings.LayerNorm.gamma"] = weights.pop("bert.embeddings.LayerNorm.weight")
    weights["bert.embeddings.LayerNorm.beta"] = weights.pop("bert.embeddings.LayerNorm.bias")
    write(tmp_path, weights)
    assert torch.equal(begun(tmp_path)[1]["embedding_norm.weight"], model.embedding_norm.weight)


@pytest.mark.parametrize(
    ("weights", "config", "message"),
    [
        ({"bert.encoder.layer.0.surprise.weight": 1}, {}, "unknown bert.encoder.layer.0.surprise"),
        (
            {"bert.encoder.layer.2.output.dense.bias": 16},
            {},
            "unknown bert.encoder.layer.2.output.dense.bias",
        ),
        (
            {"bert.encoder.layer.0.output.dense.bias": 17},
            {},
            r"layer.0.output.dense.bias is \[17\]",
        ),
        ({"cls.predictions.bias": None}, {}, "lacks cls.predictions.bias"),
        ({}, {"hidden_act": "relu"}, "hidden_act is 'relu', and only 'gelu'"),
        ({}, {"position_embedding_type": "relative_key"}, "only 'absolute'"),
        ({}, {"model_type": "roberta"}, "'roberta', and only 'bert'"),
        ({}, {"tie_word_embeddings": False}, "decoder that is not the embedding"),
        ({}, {"hidden_size": None}, "hidden_size must be a whole number"),
    ],
)
def test_what_is_no_bert_is_refused_by_name(tmp_path, weights, config, message):
    found = published(CONFIG.build())
    for name, size in weights.items():
        found.pop(name, None)
        if size is not None:
            found[name] = torch.zeros(size)
    write(tmp_path, found, **config)
    with pytest.raises(BadInput, match=message):
        begun(tmp_path)


WORDS = ["[PAD]", "the", "[UNK]", "[CLS]", "to", "[MASK]", "be", "##t", "or", "[SEP]", "not"]
WORDS += ["t", "o", "b", "e", "a", ",", "##e", "##o"]


def word_pieces():
    """A small tokenizer like that of bert-base-uncased."""
    model = models.WordPiece({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]")
    inner = tokenizers.Tokenizer(model)
    inner.normalizer = normalizers.BertNormalizer(lowercase=True)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    special = [w for w in WORDS if w[0] == "["]
    inner.add_special_tokens([AddedToken(w, normalized=False, special=True) for w in special])
    return inner


def test_text_is_no_special_token_of_word_pieces_but_may_be_unknown():
    ours = Tokenizer(word_pieces())
    assert (ours.mask_id, ours.eos_id, ours.unknown_id, ours.vocab_size) == (5, 9, 2, V)
    ids = ours.encode("TO be, [MASK] zebra [SEP]")
    assert not {0, 3, 5, 9} & set(ids) and 2 in ids
    assert ours.decode(ours.encode("TO  be")) == "to be"
    assert not ours.faithful
    assert Bytes().build(iter(())).faithful and Chars().build(iter(["ab"])).faithful
    assert Bytes().build(iter(())).unknown_id is None
    held = texts_as_rows([Document("a", "to zebra be"), Document("b", "☃ to")], ours, 8)
    assert held.unknown == 2 and held.bytes.tolist() == [11, 6]


def test_a_run_begins_from_given_weights_and_its_checkpoint_needs_them_no_more(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    given, text = tmp_path / "given", "to be, or not to be, the tot\n"
    model = loud(CONFIG)
    write(given, published(model, head=False))
    word_pieces().save(str(given / "tokenizer.json"))
    for i in range(3):
        (tmp_path / f"{i}.txt").write_text(text * (i + 5))
    settings = ["text=0.txt,1.txt,2.txt", f"init={given}", "length=8", "rows=2", "lr=1e-9"]
    run = find("diffusionbert", [*settings, "steps=1", "precision=fp32"])
    *_, told = start(run, tmp_path / "out")
    for file in given.iterdir():
        file.unlink()
    loaded = open_pretrained(told.saved)
    close(loaded.model.layers[1].up.weight, model.layers[1].up.weight)
    assert loaded.model.transform.weight.std() < 0.05  # had no head: fresh
    assert "given" not in json.dumps(read_json(told.saved / "config.json"))
    assert len(loaded.generate(length=3)) == 1
    assert loaded.objective.process == run.objective.process


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["measure=size"], "choose frequency or information"),
        (["width=64"], "width= does not go with init="),
        (["vocab=300"], "vocab= does not go with init="),
        (["lam=0.9"], "keeps every token's chance falling"),
    ],
)
def test_settings_that_cannot_be_are_refused(tmp_path, monkeypatch, settings, message):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "given", published(CONFIG.build()))
    word_pieces().save("given/tokenizer.json")
    (tmp_path / "a.txt").write_text("to be, or not to be\n" * 9)
    with pytest.raises(BadInput, match=message):
        find("diffusionbert", ["text=a.txt", "init=given", *settings])


def test_a_vocabulary_that_is_not_the_networks_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "given", published(CONFIG.build()))
    inner = word_pieces()
    inner.add_tokens(["more"])
    inner.save("given/tokenizer.json")
    (tmp_path / "a.txt").write_text("to be, or not to be\n" * 9)
    with pytest.raises(BadInput, match=r"the network has 19 tokens, its tokenizer\.json 20"):
        find("diffusionbert", ["text=a.txt", "init=given"])
