"""The recipe smollm2_dual on tiny bases: trained, saved, loaded, written with, measured."""

import json
from dataclasses import replace

import pytest
import torch

from redraft.adapt.lora import Lora, Origin, adapters, fingerprint, save
from redraft.cli import main
from redraft.convert import Layout, Numbers, convert
from redraft.data.loader import texts_as_rows
from redraft.data.text import documents
from redraft.errors import BadInput
from redraft.eval.likelihood import likelihood
from redraft.loading import open_pretrained
from redraft.mask import BlockCausal
from redraft.objective.dual import DualBound
from redraft.recipe.find import find
from redraft.recipe.start import start
from redraft.reporting import report_on
from redraft.sample.lossless import Lossless
from redraft.weights import read_tensors

WORDS = "base=base length=32 rows=4 micro=2 size=3 copies=4 rank=2 steps=2 every=1".split()
TEXT = "All the world's a stage, and all the men.\n" * 50


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A base, data in its own words, and a run."""
    folder = tmp_path_factory.mktemp("dual")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        (folder / "text.txt").write_text(TEXT)
        ar = "text=text.txt tokenizer=bytes width=32 depth=2 length=64 steps=2".split()
        list(start(find("ar", ar), folder / "ar"))
        (folder / "base").symlink_to(folder / "ar" / "step-00000002")
        lines = [
            {
                "prompt": f"say {i}",
                "answer": "all" * i,
                "ids": [65, i, *[66 + i] * 9, 257],
                "start": 2,
            }
            for i in range(12)
        ]
        (folder / "talk.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
        run = replace(find("smollm2_dual", [*WORDS, "text=talk.jsonl"]), eval_rows=3)
        told = list(start(run, folder / "run"))
    return folder, told


@pytest.fixture
def model(made, monkeypatch):
    monkeypatch.chdir(made[0])
    return open_pretrained("run")


def test_a_checkpoint_holds_what_is_learned_and_no_more(made, model):
    folder, told = made
    assert all(t.saved for t in told)
    held = read_tensors(told[-1].saved / "model.safetensors")
    assert held.keys() == model.model.saved_parameters().keys()
    assert sum(v.numel() for v in held.values()) < sum(p.numel() for p in model.model.parameters())
    base = open_pretrained(folder / "base")
    frozen = dict(base.model.model.named_parameters())
    mine = model.model.base_weights()
    assert frozen.keys() == mine.keys() and all(torch.equal(frozen[k], mine[k]) for k in mine)


def test_what_drafts_are_worth_is_logged(made):
    lines = (made[0] / "run" / "metrics.jsonl").read_text().splitlines()
    for line in map(json.loads, lines):
        assert len(line["draft_accuracy"]) == 3 and 0 <= line["drafts_accepted"] <= 3
        assert 1 <= line["tokens_per_pass"] <= 4 and isinstance(line["sample"], str)


def test_another_base_is_refused_in_one_line(made, model):
    folder = made[0]
    other = folder / "other"
    if not other.exists():
        words = "text=text.txt tokenizer=bytes width=32 depth=2 length=64 steps=2 seed=1".split()
        list(start(find("ar", words), other))
    step = folder / "run" / "step-00000002"
    config = json.loads((step / "config.json").read_text())
    moved = folder / "moved"
    moved.mkdir(exist_ok=True)
    for name in ("model.safetensors", "tokenizer.json", "chat.json"):
        (moved / name).write_bytes((step / name).read_bytes())
    config["model"]["base"] = "other"
    (moved / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadInput, match=r"other: its weights are \w+, but this was made for"):
        open_pretrained(moved)
    config["model"]["base"] = "nowhere"
    (moved / "config.json").write_text(json.dumps(config))
    with pytest.raises(BadInput, match="nowhere"):
        open_pretrained(moved)


@torch.no_grad()
def test_it_writes_in_blocks_and_verified(model):
    assert model.block == 3 and not model.causal
    texts = model.generate("say 5", num=2, length=9)
    assert len(texts) == 2 and all(text.startswith("say 5") for text in texts)
    how = Lossless(model.tokenizer.mask_id, 3)
    *_, last = model.stream("say 5", 1, 9, how)
    ids, end = model.tokenizer.encode("say 5"), model.tokenizer.eos_id
    row = torch.tensor([ids])
    for _ in range(9):
        logits = model.model.model
        model.model.scope.first = None
        logits = model.model.head(logits.features(row, mask=BlockCausal(1)))[0, -1]
        row = torch.cat([row, logits.argmax()[None, None]], 1)
        if row[0, -1] == end:
            break
    assert last.tokens[0, : row.shape[1]].tolist() == row[0].tolist()
    with pytest.raises(BadInput, match="does not see what stands right"):
        model.infill("a [[2]] b")


def test_its_likelihood_is_the_block_bound(model, made):
    assert model.objective == DualBound(model.process, 3)
    (made[0] / "some.txt").write_text("All the men and women. " * 9)
    found = documents(["some.txt"], "text")
    held = texts_as_rows(found, model.tokenizer, 32)
    bound = likelihood(model.model, model.objective, held, draws=2)
    exact = likelihood(model.model, DualBound(model.process, 1), held, draws=1)
    assert bound.tokens == exact.tokens and bound.bpb != exact.bpb
    assert abs(bound.bpb - exact.bpb) < 2


def test_plain_text_will_do_for_data(made, monkeypatch):
    monkeypatch.chdir(made[0])
    told = list(
        start(
            find("smollm2_dual", [*WORDS, "text=text.txt", "soft=0.5", "ema=0.9"]), made[0] / "text"
        )
    )
    assert [t.state.step for t in told] == [1, 2] and told[-1].held_out is not None


@pytest.mark.parametrize("layout", [Layout.peft, Layout.redraft])
def test_it_is_written_in_other_layouts_and_is_the_same(model, tmp_path, layout):
    convert("run", tmp_path / "out", layout)
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert ("adapter_model.safetensors" in names) == (layout is Layout.peft)
    again = open_pretrained(tmp_path / "out")
    mine, theirs = model.model.saved_parameters(), again.model.saved_parameters()
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[k], theirs[k]) for k in mine)
    assert again.generate("say 5", length=6) == model.generate("say 5", length=6)
    convert("run", tmp_path / "half", layout, Numbers.BF16)
    half = open_pretrained(tmp_path / "half").model.saved_parameters()
    assert all(torch.equal(half[k], mine[k].bfloat16().float()) for k in mine)


@torch.no_grad()
def test_a_folder_of_pefts_is_its_base_adapted(made, monkeypatch, tmp_path):
    monkeypatch.chdir(made[0])
    how, base = Lora(2, 4.0, ("q", "down")), open_pretrained("base")
    network, x = base.model.model, torch.arange(9)[None]
    origin = Origin("base", fingerprint(dict(network.named_parameters())))
    plain = network(x, mask=BlockCausal(1))
    how.attach(network)
    for _, part in adapters(network):
        torch.nn.init.normal_(part.b)
    save(network, tmp_path, how, origin)
    again = open_pretrained(tmp_path)
    assert torch.equal(again.model.model(x, mask=BlockCausal(1)), network(x, mask=BlockCausal(1)))
    assert not torch.allclose(network(x, mask=BlockCausal(1)), plain) and again.causal
    save(network, tmp_path, how, Origin("", ""))
    with pytest.raises(BadInput, match="says not what base"):
        open_pretrained(tmp_path)
    save(network, tmp_path, how, Origin("base", "0123"))
    with pytest.raises(BadInput, match="an adapter for base"):
        open_pretrained(tmp_path)


def test_what_has_no_adapters_is_not_written_as_such(made, monkeypatch, tmp_path):
    monkeypatch.chdir(made[0])
    with pytest.raises(BadInput, match="for adapters"):
        convert("base", tmp_path / "out", Layout.peft)


def test_there_is_a_report_of_a_run_on_conversations(made, monkeypatch):
    monkeypatch.chdir(made[0])
    report_on(made[0] / "run", made[0] / "report.html")
    assert "held out" in (made[0] / "report.html").read_text()


def test_the_command_line_writes_both_ways(made, monkeypatch, capsys):
    monkeypatch.chdir(made[0])
    found = []
    for words in ([], ["--order", "left"], ["--threshold", "0.5"], ["--steps", "4"]):
        monkeypatch.setattr(
            "sys.argv", ["redraft", "generate", "run", "--prompt", "say 5", "--length", "6", *words]
        )
        with pytest.raises(SystemExit) as stop:
            main()
        assert not stop.value.code
        found.append(capsys.readouterr().out)
    assert all(text.startswith("say 5") for text in found)
    monkeypatch.setattr("sys.argv", "redraft generate run --order left --threshold 0.5".split())
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2 and "does not go with --threshold" in capsys.readouterr().err
