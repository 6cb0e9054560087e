"""`redraft doctor` on small trained models: sound ones are sound, and every fault is found."""

import json
import sys
from functools import cache

import pytest
import torch
from safetensors.torch import load_file, save_file

from redraft.adapt.shift import NextTokenConfig, ShiftedConfig
from redraft.cli import main
from redraft.data.tokenizer import Chars
from redraft.describe import describe
from redraft.doctor.examine import examine
from redraft.model.dit import DitConfig
from redraft.model.formats import find, llada, llama
from redraft.model.formats.family import Kind
from redraft.model.formats.hf import theirs
from redraft.model.llama import LlamaConfig
from redraft.model.moe import Experts
from redraft.objective.ar import CrossEntropy
from redraft.objective.block import BlockAnyOrder, BlockNELBO
from redraft.objective.nelbo import NELBO, AnyOrder, GeneralNELBO
from redraft.process.mixing import Mixing
from redraft.train.optim import AdamW, set_lr
from redraft.train.parallel import Precision
from redraft.train.step import train_step
from redraft.types import Batch, Rng
from redraft.weights import write_weights

V, MASK, EOS, L, ROWS = 6, 4, 5, 24, 16
FULL = Precision(torch.float32, "")
LLAMA = LlamaConfig(V, 32, 1, 2, 2, 64, L)
PROCESS = Mixing(V, MASK)
KINDS = {
    "ar": (NextTokenConfig(LLAMA, EOS), CrossEntropy(PROCESS), 30),
    "masked": (LLAMA, AnyOrder(PROCESS), 70),
    "shifted": (ShiftedConfig(LLAMA), AnyOrder(PROCESS), 70),
    "block": (LLAMA, BlockAnyOrder(PROCESS, 4), 50),
    "shifted block": (ShiftedConfig(LLAMA), BlockAnyOrder(PROCESS, 4), 50),
    "copying": (LLAMA, CrossEntropy(PROCESS), 30),  # scored on what it is shown
}
ALIGNED = {"ar": 1, "masked": 0, "shifted": 1, "block": 0, "shifted block": 1}
PICTURES = {"ar": "causal", "block": "block-causal, blocks of 4", "masked": "full"}


def sentences(step, rows=ROWS):
    """Each letter is the one before it plus 1 (mod 4), except that one in ten is drawn anew."""
    index = torch.arange(step * rows, (step + 1) * rows)
    rng, like = Rng.of(0, index), torch.empty(rows, L)
    x = (rng.fold("letter").uniform(like) * 4).long()
    follow = rng.fold("follow").uniform(like) < 0.9
    for i in range(1, L):
        x[:, i] = torch.where(follow[:, i], (x[:, i - 1] + 1) % 4, x[:, i])
    return Batch(x, torch.ones_like(x, dtype=torch.bool), torch.zeros_like(x), index, rows)


TEXT = "".join("abcd"[i] for i in sentences(9999, 20).tokens.flatten())


@cache
def learned(name):
    """The weights of a model that has learned some of the language."""
    config, objective, steps = KINDS[name]
    torch.manual_seed(0)
    model = config.build()
    optims = AdamW(0.01).build(model)
    for step in range(steps):
        set_lr(optims, min(1.0, step / 10))
        train_step(model, objective, optims, sentences(step).split(ROWS), 0, 1.0, FULL)
    return {name: p.detach() for name, p in model.named_parameters()}


def filled(config, weights):
    """A network with these weights, whatever it is wrapped in."""
    model = config.build()
    prefix = "model." if isinstance(config, NextTokenConfig | ShiftedConfig) else ""
    bare = {name.removeprefix("model."): p for name, p in weights.items()}
    model.load_state_dict({prefix + name: p.clone() for name, p in bare.items()})
    return model


def ours(folder, name, config=None, objective=None, **changes):
    """A checkpoint of redraft with the weights of `name`, said to be something else perhaps."""
    config, objective = config or KINDS[name][0], objective or KINDS[name][1]
    weights = learned(name) if name in KINDS else dict(config.build().named_parameters())
    folder.mkdir()
    write_weights(filled(config, weights), folder / "model.safetensors")
    told = {
        "format": 1,
        "model": describe(config),
        "process": describe(objective.process),
        "mask": describe(objective.mask),
        "objective": describe(objective),
        "length": L,
    }
    (folder / "config.json").write_text(json.dumps(told | changes))
    Chars().build(iter(["abcd"])).save(folder / "tokenizer.json")
    return folder


def hugging(folder, name, letters="abcd", weights=None, template=None, **changes):
    """The same in Hugging Face's layout: a Llama, or a LLaDA."""
    ar = name == "ar"
    kind = Kind(ar, ar, None if ar else MASK, eos_id=EOS)
    raw = (llama if ar else llada).write(LLAMA, kind) | changes
    raw = {key: value for key, value in raw.items() if value is not None}
    model = filled(LLAMA, learned(name))
    table = find.read((llama if ar else llada).write(LLAMA, kind), ()).weights
    tensors = theirs(table, dict(model.named_parameters())) if weights is None else weights
    folder.mkdir()
    save_file({key: value.contiguous() for key, value in tensors.items()}, folder / SAFE)
    (folder / "config.json").write_text(json.dumps(raw))
    Chars().build(iter([letters])).save(folder / "tokenizer.json")
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return folder


SAFE = "model.safetensors"


def whats(report):
    """What is wrong, without where and what to do."""
    return [each.what for each in report.findings]


def only(report, *words):
    """Exactly one finding, which says this."""
    assert len(report.findings) == 1, whats(report)
    assert report.findings[0].wrong and not report.sound
    assert all(word in report.findings[0].line for word in words), report.findings[0].line


@pytest.mark.slow
@pytest.mark.parametrize("name", ALIGNED)
def test_a_sound_model_is_sound(tmp_path, name):
    report = examine(ours(tmp_path / "a", name), TEXT)
    assert report.findings == () and report.silent is None
    assert report.alignment.offset == report.offset == ALIGNED[name]
    assert report.sight.name == report.sight.told == PICTURES.get(name.split()[-1], "full")
    assert report.loss.nats < 0.7 * report.loss.uniform
    assert report.leaks.scored and not report.leaks.noise


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ar", "masked"])
def test_a_sound_folder_of_others_is_sound(tmp_path, name):
    report = examine(hugging(tmp_path / "a", name), TEXT)
    assert report.findings == () and report.silent is None
    assert report.alignment.offset == ALIGNED[name]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "config", "objective", "words"),
    [
        ("shifted", LLAMA, None, "row i speaks of token i+1, and by its configuration"),
        ("masked", ShiftedConfig(LLAMA), None, "row i speaks of token i, and by its configuration"),
        ("block", ShiftedConfig(LLAMA), None, "row i speaks of token i, and by its configuration"),
        ("shifted block", LLAMA, None, "row i speaks of token i+1, and by its configuration"),
        ("copying", *KINDS["ar"][:2], "row i repeats token i"),
        ("copying", None, None, "24 of 24 scored rows see their own token"),
        ("ar", LLAMA, AnyOrder(PROCESS), "said to be a diffusion model and acts as autoregressive"),
        ("masked", *KINDS["ar"][:2], "said to be autoregressive and acts as a diffusion model"),
    ],
)
def test_weights_that_are_used_in_another_way_than_they_learned(
    tmp_path, name, config, objective, words
):
    only(examine(ours(tmp_path / "a", name, config, objective), TEXT), words)


@pytest.mark.parametrize("config", [LLAMA, KINDS["ar"][0], ShiftedConfig(LLAMA)])
def test_a_fresh_network_is_undecided_and_knows_nothing(tmp_path, config):
    torch.manual_seed(0)  # one network in some is by chance a little better than a guess
    objective = CrossEntropy(PROCESS) if config is KINDS["ar"][0] else AnyOrder(PROCESS)
    report = examine(ours(tmp_path / "a", "fresh", config, objective), TEXT)
    only(report, "a uniform guess has 1.61", "never trained")
    assert report.alignment.offset is None


@pytest.mark.parametrize(
    ("config", "objective"),
    [
        (DitConfig(V, 16, 1, 2, L, 8), NELBO(PROCESS)),
        (DitConfig(V, 16, 1, 2, L, 8), BlockNELBO(PROCESS, 4)),
        (DitConfig(V, 16, 1, 2, L, 8), GeneralNELBO(Mixing(V, MASK, p_uniform=1.0))),
    ],
)
def test_other_networks_and_noise_are_examined(tmp_path, config, objective):
    report = examine(ours(tmp_path / "a", "fresh", config, objective), TEXT)
    assert [what for what in whats(report) if "nothing of this text" not in what] == []
    assert report.sight is not None and report.silent is None


def test_what_a_mixture_of_experts_uses(tmp_path):
    config = LlamaConfig(V, 16, 1, 2, 2, 16, L, experts=Experts(4, 1, 8))
    facts = dict(examine(ours(tmp_path / "a", "fresh", config, AnyOrder(PROCESS)), TEXT).facts)
    whole = sum(p.numel() for p in config.build().parameters())
    used = whole - 3 * (3 * 16 * 8)
    assert facts["parameters"] == (
        f"{whole:,}, 192 of them in embeddings and head, {used:,} used by a token"
    )


BROKEN = "{% for m in messages %}{{ m.content }}"
ENDLESS = "{% for m in messages %}{{ m.content }}{% endfor %}"
DEAF = "{% for m in messages %}<|endoftext|>{% endfor %}"
GOOD = "{% for m in messages %}{{ m.content }}<|endoftext|>{% endfor %}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("masked", {"pad_token_id": MASK}, "mask_token_id and pad_token_id are both 4"),
        ("masked", {"eos_token_id": MASK}, "mask_token_id and eos_token_id are both 4"),
        ("masked", {"mask_token_id": 77}, "mask_token_id 77 is outside the vocabulary of 6"),
        ("masked", {"mask_token_id": -1}, "mask_token_id -1 is outside the vocabulary of 6"),
        ("masked", {"mask_token_id": 3}, "mask_token_id 3 is 'd', an ordinary piece of text"),
        ("masked", {"eos_token_id": 2}, "eos_token_id 2 is 'c', an ordinary piece of text"),
        ("ar", {"eos_token_id": 6}, "eos_token_id 6 is outside the vocabulary of 6"),
        ("ar", {"pad_token_id": 9}, "pad_token_id 9 is outside the vocabulary of 6"),
        ("ar", {"bos_token_id": 0}, "bos_token_id 0 is 'a', an ordinary piece of text"),
        ("ar", {"letters": "abcdefg"}, "the tokenizer has ids up to 8, the network only 6 rows"),
        ("ar", {"rope_theta": 0.5}, "rotary base 0.5"),
        ("ar", {"rope_theta": 2.0, "max_position_embeddings": 4096}, "the slowest pair turns"),
        ("ar", {"template": BROKEN}, "the chat template is not readable"),
        ("ar", {"template": ENDLESS}, "the chat template ends no answer"),
        ("ar", {"template": DEAF}, "the chat template leaves out what the user asks"),
    ],
)
def test_a_configuration_with_a_fault(tmp_path, name, changes, words):
    only(examine(hugging(tmp_path / "a", name, **changes), TEXT), words)


@pytest.mark.slow
def test_a_template_that_renders_is_sound(tmp_path):
    assert examine(hugging(tmp_path / "a", "ar", template=GOOD), TEXT).findings == ()


def tampered(folder, change):
    """A folder whose tensors were changed."""
    tensors = load_file(folder / SAFE)
    change(tensors)
    save_file(tensors, folder / SAFE)
    return folder


def broken(tensors):
    tensors["model.layers.0.self_attn.q_proj.weight"][3, 4] = float("nan")


def infinite(tensors):
    tensors["model.norm.weight"][2] = float("inf")


def zero(tensors):
    tensors["model.layers.0.mlp.down_proj.weight"].zero_()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (broken, "model.layers.0.self_attn.q_proj.weight is not finite"),
        (infinite, "model.norm.weight is not finite"),
        (zero, "model.layers.0.mlp.down_proj.weight is zero throughout"),
    ],
)
def test_numbers_that_cannot_be(tmp_path, change, words):
    only(examine(tampered(hugging(tmp_path / "a", "ar"), change), TEXT), words)


@pytest.mark.slow
def test_a_mask_without_a_vector_of_its_own(tmp_path):
    def forget(tensors):
        tensors["embedding.weight"][MASK] = 0

    only(examine(tampered(ours(tmp_path / "a", "masked"), forget), TEXT), "mask token (4) has")


@pytest.mark.slow
def test_heads_that_are_not_as_it_is_said(tmp_path):
    folder = hugging(tmp_path / "a", "ar", tie_word_embeddings=True)
    found = whats(examine(folder, TEXT))
    assert found[0].startswith("the head is said to be the embedding, but the file has another")

    def lose(tensors):
        del tensors["lm_head.weight"]

    found = whats(examine(tampered(hugging(tmp_path / "b", "ar"), lose), TEXT))
    assert found[0].startswith("the network is said to have a head of its own, but the file has no")


@pytest.mark.slow
def test_half_precision_that_overflows(tmp_path):
    def grow(tensors):
        tensors["model.layers.0.mlp.down_proj.weight"] *= 3e3
        tensors["model.layers.0.mlp.up_proj.weight"] *= 3e3
        for name, value in tensors.items():
            tensors[name] = value.half()

    found = whats(examine(tampered(hugging(tmp_path / "a", "ar"), grow), TEXT))
    assert found[-1].startswith("activations of up to") and "float16" in found[-1]


@pytest.mark.slow
def test_parts_of_a_checkpoint_that_do_not_go_together(tmp_path):
    folder = ours(tmp_path / "a", "masked", objective=AnyOrder(Mixing(V, 5)))
    only(examine(folder, TEXT), "the noise uses token 5 for [MASK], the tokenizer has [MASK] at 4")
    folder = ours(tmp_path / "b", "masked")
    Chars().build(iter(["abcdef"])).save(folder / "tokenizer.json")
    report = examine(folder, TEXT)
    only(report, "the tokenizer has ids up to 7, the network only 6 rows")
    assert "cannot be loaded" in report.silent


def call(patch, capsys, *words):
    """Exit code, output and errors of a command."""
    patch.setattr(sys, "argv", ["redraft", "doctor", *map(str, words)])
    with pytest.raises(SystemExit) as stopped:
        main()
    return stopped.value.code or 0, *capsys.readouterr()


@pytest.mark.slow
def test_the_command_prints_a_page_or_an_object(tmp_path, monkeypatch, capsys):
    (tmp_path / "text").write_text(TEXT)
    sound, ill = ours(tmp_path / "a", "block"), ours(tmp_path / "b", "shifted", LLAMA)
    more = "--text", tmp_path / "text"
    code, out, _ = call(monkeypatch, capsys, sound, *more)
    assert code == 0 and "nothing wrong was found" in out and "█" in out
    code, out, _ = call(monkeypatch, capsys, ill, *more)
    assert code == 1 and "wrong: row i speaks of token i+1" in " ".join(out.split())
    code, out, _ = call(monkeypatch, capsys, ill, "--json", *more)
    found = json.loads(out)
    assert code == 1 and not found["sound"] and found["alignment"]["offset"] == 1
    assert found["findings"][0]["wrong"] and found["sight"]["rows"][0] == "#" * L


@pytest.mark.parametrize("fault", ["nothing", "truncated", "unknown", "misshapen"])
def test_what_cannot_be_read_is_one_line(tmp_path, monkeypatch, capsys, fault):
    folder = tmp_path / "a"
    if fault != "nothing":
        hugging_fresh(folder, "strange" if fault == "unknown" else "llama")
    if fault == "truncated":
        (folder / SAFE).write_bytes((folder / SAFE).read_bytes()[:-100])
    if fault == "misshapen":  # the configuration and the tokenizer are sound
        tampered(folder, widened)
    code, out, err = call(monkeypatch, capsys, folder)
    assert (code, out) == (2, "") and len(err.splitlines()) == 1, err


def widened(tensors):
    tensors["model.norm.weight"] = torch.ones(33)


def hugging_fresh(folder, kind):
    """A Llama with fresh weights."""
    raw = llama.write(LLAMA, Kind(True, True, eos_id=EOS)) | {"model_type": kind}
    table = llama.read(raw, ()).weights
    folder.mkdir()
    save_file(theirs(table, dict(LLAMA.build().named_parameters())), folder / SAFE)
    (folder / "config.json").write_text(json.dumps(raw))
    Chars().build(iter(["abcd"])).save(folder / "tokenizer.json")
