"""Traces: what was written down is what happened, a cut file is read to its cut, the page plays."""

import html as markup
import io
import json
import random as chances
import re
from dataclasses import replace
from importlib import resources
from itertools import chain

import pytest
import torch
from rich.console import Console

from redraft.adapt.meter import Meter, Metered
from redraft.data.tokenizer import Bpe, Bytes, Chars, Tokenizer
from redraft.errors import BadInput
from redraft.sample.block import Front, generate_blocks
from redraft.sample.note import SURE, Noted
from redraft.sample.order import confidence, random
from redraft.sample.pick import Threshold, TopK
from redraft.sample.predict import bind, blank, generate
from redraft.sample.tally import Tally
from redraft.sample.unmask import Draw, Unmask
from redraft.trace.page import page
from redraft.trace.read import read
from redraft.trace.record import Recorder, opened, sealed, told
from redraft.trace.show import account, movie, play
from redraft.trace.words import Spelled, Words
from redraft.types import Rng
from redraft.view import visible
from tests.test_cli import redo, refused, work  # noqa: F401
from tests.test_report import STILL, Outline, browser, embedded
from tests.test_report import opened as shown_by
from tests.test_stop import END, MASK, PROCESS, Wanted, until

BYTES = Bytes().build(iter(()))
TEXT = "Ah, é 🤖\n<b>!"
WANT = [*TEXT.encode(), END]


class Reopening(Unmask):
    """Every third step the first token that was written is hidden, once; others are rewritten."""

    keeps = False

    def step(self, canvas, logp, rng):
        after = super().step(canvas, logp, rng)
        done = (canvas.window & ~after.noisy).nonzero()
        if len(done) > 2 and int(canvas.step[0]) in (3, 5):
            tokens, noisy = after.tokens.clone(), after.noisy.clone()
            row, at = done[0].tolist()
            tokens[row, at], noisy[row, at] = MASK, True
            row, at = done[1].tolist()
            tokens[row, at] = 63
            after = replace(after, tokens=tokens, noisy=noisy)
        return after


SAMPLERS = [
    Unmask(confidence, Threshold(0.5)),
    Unmask(random, TopK(1), Draw(1.0)),
    Reopening(random, TopK(1), Draw(1.0)),
]
every_sampler = pytest.mark.parametrize("sampler", SAMPLERS)


def recorded(path, sampler=SAMPLERS[1], block=None, prompt="A", want=WANT, **about):
    """A trace in a file, the canvases that it is of, and the answers."""
    rows = [[*prompt.encode(), *[None] * (len(want) - len(prompt) + 3)]] * 2
    canvas, meter, how = blank(rows, MASK, END), Meter(), until()
    tally, model = Tally(how, meter), Metered(Wanted(want, loud=15.0), meter)
    noted, rng, close = Noted(sampler), Rng.seeds(0, 1), how.closing(canvas)
    if block is None:
        canvases = generate(bind(model, PROCESS), canvas, noted, rng, close)
    else:
        front = Front(model, PROCESS, block, 99, cached=False)
        canvases = generate_blocks(front, canvas, noted, rng, close)
    with opened(path) as file:
        recorder = Recorder(file, BYTES, meter)
        recorder.begin(model="toy", prompt=prompt, sampler=told(sampler), seed=0, **about)
        seen = list(recorder.watch(tally.watch(chain([canvas], canvases))))
        answers = tally.answers()
        recorder.end(
            [
                {"text": a.text, "finish_reason": a.finish_reason, "tokens": a.tokens}
                for a in answers
            ]
        )
    return seen, answers, meter


@every_sampler
@pytest.mark.parametrize("block", [None, 4])
def test_a_trace_tells_every_canvas(tmp_path, sampler, block):
    seen, answers, meter = recorded(tmp_path / "t", sampler, block)
    trace = read(tmp_path / "t")
    assert len(trace.steps) == len(seen) and trace.end is not None
    for row in range(2):
        found = list(trace.canvases(row))
        for one, two in zip(seen, found, strict=True):
            for name in ("tokens", "noisy", "window"):
                assert torch.equal(getattr(one, name)[row : row + 1], getattr(two, name))
            said = one.memo.get(SURE, torch.full(one.tokens.shape, torch.nan).double())
            closed = ~one.noisy[row] & one.window[row] & said[row].isnan()
            assert ((two.memo[SURE][0].exp() - said[row].exp()).abs()[~closed] < 1e-4).sum() == (
                ~said[row].isnan()
            ).sum()
        text = list(movie(trace, row))[-1].text
        assert text == answers[row].text == trace.end[row]["text"]
        assert text == TEXT or isinstance(sampler, Reopening)
    counts = [sum(getattr(s, n) for s in trace.steps) for n in ("passes", "positions", "cached")]
    assert counts == list(meter.counts)
    kinds = {kind for step in trace.steps for row in step.changes.values() for kind in row}
    assert kinds >= ({"commit", "remask", "edit"} if isinstance(sampler, Reopening) else {"commit"})


def test_a_cut_file_is_read_to_its_cut(tmp_path):
    recorded(tmp_path / "t")
    data, whole = (tmp_path / "t").read_bytes(), read(tmp_path / "t")
    lines = data.count(b"\n")
    cuts = [
        *range(0, len(data), 97),
        *(m.end() + d for m in re.finditer(b"\n", data) for d in (-1, 0)),
    ]
    for cut in sorted(set(cuts)):
        (tmp_path / "cut").write_bytes(data[:cut])
        full = data[:cut].count(b"\n")
        if full < 2:
            with pytest.raises(BadInput, match=r"cut|not a trace"):
                read(tmp_path / "cut")
            continue
        part = read(tmp_path / "cut")
        assert len(part.steps) == min(full - 1, len(whole.steps))
        assert (part.end is None) == (full < lines)
        for one, two in zip(part.steps, whole.steps, strict=False):
            assert all(
                torch.equal(a.tokens, b.tokens) for a, b in zip(one.rows, two.rows, strict=True)
            )
        if part.end is None:
            assert account(part, 0).startswith("cut before its end")


def test_a_changed_file_is_refused(tmp_path):
    recorded(tmp_path / "t")
    data = (tmp_path / "t").read_bytes()
    lines = data.splitlines(keepends=True)
    dice = chances.Random(0)
    bad = [lines[:2] + lines[3:], [*lines[:2], lines[3], lines[2], *lines[4:]], [*lines, lines[-1]]]
    for _ in range(60):
        at = dice.randrange(len(data) - 1)
        if data[at : at + 1] != b"\n":
            bad.append([data[:at], bytes([data[at] ^ (1 << dice.randrange(7))]), data[at + 1 :]])
    for parts in bad:
        (tmp_path / "bad").write_bytes(b"".join(parts))
        with pytest.raises(BadInput, match=r"bad"):
            read(tmp_path / "bad")
    (tmp_path / "bad").write_bytes(b"".join(lines[:2] + lines[3:]))
    with pytest.raises(BadInput, match=r"line 3: changed since"):
        read(tmp_path / "bad")


HEAD = {"format": "redraft-trace", "trace": 1, "eos": END, "mask": MASK}
BEGUN = {"ms": 0, "passes": 0, "positions": 0, "cached": 0}
ROW = {"tokens": [65, 256], "noisy": "01", "own": "01"}


@pytest.mark.parametrize(
    "bodies",
    [
        [{"format": "other"}],
        [HEAD | {"trace": 2}],
        [HEAD],
        [HEAD, {"end": []}],
        [HEAD, BEGUN],
        [HEAD, BEGUN | {"rows": [ROW | {"noisy": "0"}]}],
        [HEAD, BEGUN | {"rows": [ROW | {"own": "0x"}]}],
        [HEAD, BEGUN | {"rows": [ROW | {"tokens": "ab"}]}],
        [HEAD, BEGUN | {"rows": [ROW], "words": {"65": "zz"}}],
        [HEAD, BEGUN | {"rows": [ROW]}, BEGUN | {"rows": {"1": {}}}],
        [HEAD, BEGUN | {"rows": [ROW]}, BEGUN | {"rows": {"0": {"commit": [[-1, 3, None]]}}}],
        [HEAD, BEGUN | {"rows": [ROW]}, BEGUN | {"rows": {"0": {"commit": [[2, 3, None]]}}}],
        [HEAD, BEGUN | {"rows": [ROW]}, BEGUN | {"rows": {"0": {"commit": [[1, "x", 0.5]]}}}],
        [HEAD, BEGUN | {"rows": [ROW]}, BEGUN | {"rows": {"0": {"commit": 5}}}],
        [HEAD, BEGUN | {"rows": [ROW]}, BEGUN | {"rows": {"0": {"own": "010"}}}],
        [HEAD, BEGUN | {"rows": [ROW]}, {"end": [1]}],
        [HEAD, BEGUN | {"rows": [ROW]}, {"end": [{}]}, BEGUN | {"rows": {}}],
    ],
)
def test_nonsense_with_good_seals_is_refused_too(tmp_path, bodies):
    seal = text = ""
    for body in bodies:
        line, seal = sealed(body, seal)
        text += line
    (tmp_path / "t").write_text(text)
    with pytest.raises(BadInput, match="t"):
        read(tmp_path / "t")


def test_a_row_may_change_its_length(tmp_path):
    meter = Meter()
    one, two = blank([[65, None]], MASK, END), blank([[65, None, None, 66]], MASK, END)
    with opened(tmp_path / "t") as file:
        recorder = Recorder(file, BYTES, meter)
        recorder.begin(seed=0)
        list(recorder.watch([one, two]))
    trace = read(tmp_path / "t")
    assert trace.steps[1].rows[0].tokens.tolist() == two.tokens.tolist()
    assert [frame.text for frame in movie(trace)] == ["A▒", "A▒▒B"]


def metaspace():
    from tokenizers import Tokenizer as Inner
    from tokenizers import decoders, models, pre_tokenizers

    vocab = {"[UNK]": 0, "▁the": 1, "▁cat": 2, "s": 3, "▁": 4, "a": 5, "<0xC3>": 6, "<0xA9>": 7}
    inner = Inner(models.BPE(vocab=vocab, merges=[], byte_fallback=True, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return Tokenizer(inner), [1, 2, 3, 4, 5, 6, 7, 1]


def wordpiece():
    from tokenizers import Tokenizer as Inner
    from tokenizers import decoders, models, pre_tokenizers

    vocab = {"[UNK]": 0, "the": 1, "cat": 2, "##s": 3, "é": 4, "##é": 5}
    inner = Inner(models.WordPiece(vocab, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.decoder = decoders.WordPiece(cleanup=False)
    return Tokenizer(inner), [1, 2, 3, 4, 5, 1]


def merged():
    tokenizer = Bpe(300).build(iter(["the cat; naïve café 🤖 " * 9]))
    return tokenizer, tokenizer.encode("the naïve 🤖 café;\n\t the cat")


def characters():
    tokenizer = Chars().build(iter(["the naïve 🤖"]))
    return tokenizer, tokenizer.encode("then ï 🤖")


@pytest.mark.parametrize("build", [metaspace, wordpiece, merged, characters])
def test_tokens_are_spelled_as_their_tokenizer_reads_them(build):
    tokenizer, ids = build()
    spelling = Spelled(tokenizer)
    every = {i: spelling.bytes(i) for i in (*ids, tokenizer.mask_id, tokenizer.eos_id)}
    words = Words(tokenizer.eos_id, every, spelling.spaced)
    for end in range(len(ids) + 1):
        assert words.decode(ids[:end]) == tokenizer.decode(ids[:end]), ids[:end]
    assert words.decode([tokenizer.mask_id, *ids, tokenizer.eos_id]) == tokenizer.decode(ids)


def test_two_traces_beside_each_other_off_a_terminal_and_on_one(tmp_path, monkeypatch):
    recorded(tmp_path / "a")
    recorded(tmp_path / "b", SAMPLERS[0])
    traces, file = [read(tmp_path / name) for name in "ab"], io.StringIO()
    play(traces, 1, Console(file=file))
    assert file.getvalue().count("Ah, é 🤖\n<b>!\n") == 2 and "seed 1" in file.getvalue()
    file, naps = io.StringIO(), []
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("redraft.trace.show.time.sleep", naps.append)
    play(traces, 0, Console(file=file, force_terminal=True, width=90, color_system=None), fps=50.0)
    assert len(naps) == max(len(trace.steps) for trace in traces) and naps[0] == 0.02
    assert "100% decided" in file.getvalue() and "eos after" in file.getvalue()


HOSTILE = (
    "</script><script>document.title='owned'</script><img src=x onerror=alert(1)> \u202e\x1b[31m"
)


@pytest.fixture
def hostile(tmp_path):
    recorded(tmp_path / "a", SAMPLERS[1], prompt="A", name=HOSTILE, template=HOSTILE)
    recorded(tmp_path / "b", SAMPLERS[0], block=4)
    return [read(tmp_path / name) for name in "ab"]


def test_the_page_loads_nothing_and_inserts_text_only(hostile):
    text = page(hostile, 0)
    found = Outline(text)
    assert found.tags.count("script") == 2 and "img" not in found.tags and "b" not in found.tags
    assert not any(name.startswith("on") for name, _ in found.attributes)
    assert [v for n, v in found.attributes if n in ("src", "href")] == ["data:,"]
    assert text.replace("http://www.w3.org/2000/svg", "").count("http") == text.count("http-equiv")
    template = (resources.files("redraft.trace") / "page.html").read_text()
    dangers = "innerHTML outerHTML insertAdjacentHTML document.write eval( fetch( XMLHttpRequest"
    for danger in (*dangers.split(), "import(", "sendBeacon", "@import", "url("):
        assert danger not in template
    stages = "".join(found.texts["pre"])
    assert stages.count("Ah, é 🤖\n<b>!") == 2, "without a script the text is there"
    assert "\x1b" not in text and "\u202e" not in text


def test_the_page_holds_every_step(hostile):
    data = embedded(page(hostile, 0))["traces"]
    for told_, trace in zip(data, hostile, strict=True):
        assert len(told_["steps"]) == len(trace.steps)
        tokens = list(told_["begun"]["tokens"])
        for step in told_["steps"]:
            for kind in ("commit", "edit", "remask", "stir"):
                for at, token, *_ in step["change"].get(kind, ()):
                    tokens[at] = token
        assert tokens == trace.steps[-1].rows[0].tokens[0].tolist()
        assert ["prompt", "A"] in told_["about"]


@browser
@pytest.mark.slow
def test_browser_plays_both_and_obeys_keys(tmp_path, hostile):
    act = """
    const note = (name, value) => document.documentElement.setAttribute("data-" + name, value);
    const press = (key, on = document.body) =>
      on.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}));
    const text = () => [...document.querySelectorAll(".stage")].map((s) => s.textContent).join("|");
    const at = () => document.querySelector("output").textContent;
    const play = document.querySelector(".play");
    note("idle", play.textContent + at());
    press("Home"); note("home", at() + text().includes("h"));
    press("ArrowRight"); press("ArrowRight"); press("ArrowLeft"); note("one", at());
    press("+"); note("speed", document.querySelector("select").value);
    press("]"); note("token", document.querySelector(".token").textContent);
    press(" "); note("playing", play.textContent);
    setTimeout(() => { note("ended", play.textContent + at()); note("text", text()); }, 15000);
    """
    dom = shown_by(tmp_path, page(hostile, 0), f"{{{act}}}", STILL)  # names of its own
    last = max(len(trace.steps) for trace in hostile) - 1
    head = markup.unescape(dom[:3000])
    assert f'data-idle="Playstep {last} of {last}"' in head
    assert f'data-home="step 0 of {last}false"' in head and f'data-one="step 1 of {last}"' in head
    assert 'data-speed="2"' in head and 'data-token="A position 0: was given."' in head
    assert 'data-playing="Pause"' in head and f'data-ended="Playstep {last} of {last}"' in head
    assert 'data-text="Ah, é 🤖\n<b>!⊣|Ah, é 🤖\n<b>!⊣"' in head
    assert "owned</title>" not in dom.replace("&lt;", "<").split("</head>")[0].split("<title>")[0]


@browser
@pytest.mark.slow
def test_browser_plays_by_time_and_by_itself_where_motion_is_welcome(tmp_path, hostile):
    act = """
    const unit = document.querySelectorAll("select")[1];
    document.documentElement.setAttribute("data-idle", document.querySelector(".play").textContent);
    unit.value = "time"; unit.dispatchEvent(new Event("change"));
    document.dispatchEvent(new KeyboardEvent("keydown", {key: "End"}));
    document.documentElement.setAttribute("data-at", document.querySelector("output").textContent);
    """
    dom = shown_by(tmp_path, page(hostile, 0), f"{{{act}}}")
    assert 'data-idle="Pause"' in dom[:1000]
    assert re.search(r'data-at="(\d+) of \1 ms"', dom[:1000])


def test_the_commands_write_and_replay(redo, work):  # noqa: F811
    code, text, err = redo(
        "generate", "runs/mdlm", "--prompt", "To", "--length", "9", "--trace", "t"
    )
    assert code == 0, err
    code, again, _ = redo("replay", "t")
    assert code == 0 and again.startswith(visible(text))
    assert re.search(r"(length|eos) after \d+ tokens: \d+ steps, \d+ passes of the network", again)
    told_ = json.loads((work / "t").read_text().splitlines()[0])
    assert told_["prompt"] == "To" and told_["sampler"]["pick"]["n"] == 9 and told_["seed"] == 0
    code, filled, _ = redo(
        "infill", "runs/mdlm", "To [[3]], or [[2]] be", "--trace", "u", "-n", "2"
    )
    assert code == 0
    code, again, _ = redo("replay", "u", "--row", "1")
    last = again.rpartition("\nlength after")[0]
    assert visible(filled).endswith(f"--- 1\n{last}\n")
    code, out, _ = redo("replay", "t", "u", "--html", "page.html")
    assert (code, out) == (0, "page.html\n") and (work / "page.html").read_text().count(
        "<figure"
    ) == 2
    code, text, _ = redo("generate", "runs/ar", "--length", "4", "--trace", "v")
    lines = [json.loads(line) for line in (work / "v").read_text().splitlines()]
    changes = [line["rows"]["0"]["commit"] for line in lines[2:-1]]
    assert code == 0 and [len(each) for each in changes] == [1] * len(changes)
    assert (
        all(0 < p <= 1 for ((_, _, p),) in changes) and lines[-1]["end"][0]["text"] + "\n" == text
    )
    assert sum(line["cached"] for line in lines[2:-1]) > 0 or len(changes) < 3
    refused(redo("replay", "u", "--row", "2"), "row 2", "0 to 1")
    refused(redo("replay", "text.txt"), "text.txt", "not a trace")
    refused(redo("replay", "none"), "none")
    refused(redo("generate", "runs/mdlm", "--live", "-n", "2", "--trace", "t"), "--trace", "--num")
    refused(redo("generate", "runs/mdlm", "--trace", "text.txt/t"), "text.txt")


def test_the_reason_is_said(redo):  # noqa: F811
    _, out, err = redo("generate", "runs/mdlm", "--length", "6", "--json")
    found = json.loads(out)
    assert found["finish_reason"] in ("eos", "length") and found["forwards"] >= found["tokens"] > 0
    _, _, err = redo("generate", "runs/ar", "--length", "6", "--stop", found["text"][:1] or "x")
    assert re.search(r"(stop|eos|length) after \d+ tokens: \d+ pass(es)? of the network", err)
    refused(redo("generate", "runs/mdlm", "--stop", ""), "empty stop string")
