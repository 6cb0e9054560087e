import html
import json
import math
import os
import random
import re
import shutil
import stat
import subprocess
from html.parser import HTMLParser
from importlib import resources

import pytest

from redraft.eval import report as page
from redraft.eval.report import Curve, Infill, Movie, Report, Sample, Score, write
from redraft.view import Frame, Piece, settle, visible

HOSTILE = (
    "\n</script><script>document.title='owned'</script> <img src=x onerror=alert(1)> <!--data--> "
    "\"double\" 'single' &amp; \u2028\u2029 \ud800 \x00\x1b[31m \u202e ${`x`} 🤖 é " + "W" * 400
)


def film(text, steps, seed=0, reopen=0.05):
    """Frames of a text that appears in random order; now and then a part disappears again."""
    rng = random.Random(seed)
    was, out = [False] * len(text), []
    for k in range(steps + 1):
        share = k / steps
        now = [rng.random() < share or (w and rng.random() > reopen) for w in was]
        now = [True] * len(text) if k == steps else now
        states = ["old" if w else "new" for w in was]
        pieces = [
            Piece(c if n else "▒", s if n else "masked")
            for c, n, s in zip(text, now, states, strict=True)
        ]
        out.append(Frame((Piece("Given: ", "given"), *pieces), k, steps, sum(now) / len(text)))
        was = now
    return tuple(out)


def full(**changes):
    parts = {
        "title": "Title " + HOSTILE,
        "summary": (("bpb " + HOSTILE, HOSTILE), ("Steps", 3000)),
        "scores": (
            Score("Diffusion", 2.1043, 2.081, 2.128, "note " + HOSTILE, bound=True),
            Score("Baseline " + HOSTILE, 4.7557),
        ),
        "curve": (
            Curve("train " + HOSTILE, tuple((i, i * 0.5, 3 - i / 500) for i in range(1001))),
            Curve("held-out", ((0, 0.0, 3.5), (500, 250.0, math.nan), (1000, 500.0, 1.5))),
        ),
        "by_t": ((0.0, 0.5, 0.75, 1000), (0.5, 1.0, 2.25, 2000)),
        "samples": (Sample(HOSTILE, HOSTILE, {"entropy": 3.25, HOSTILE: 7, "rep-4": math.nan}),),
        "infills": (Infill("a ▒ c", (Piece("a ", "given"), Piece("<b>", "new"))),),
        "movies": (Movie(HOSTILE, film("Shall I compare <b>thee</b> to 🤖?", 12)),),
        "details": (("lr", 3e-4), (HOSTILE, HOSTILE)),
    }
    return Report(**(parts | changes))


class Outline(HTMLParser):
    """What a browser would find: every tag, every attribute, the text of each kind of tag."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.texts, self.last = [], [], {}, ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.last = tag

    def handle_data(self, data):
        self.texts.setdefault(self.last, []).append(data)


def embedded(text):
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])


def test_page_is_one_document_that_loads_nothing():
    text = page.page(full())
    found = Outline(text)
    assert found.tags.count("script") == 2 and "img" not in found.tags and "b" in found.tags
    assert not any(name.startswith("on") for name, _ in found.attributes)
    links = [value for name, value in found.attributes if name in ("src", "href")]
    assert links == ["data:,"]
    assert text.replace("http://www.w3.org/2000/svg", "").count("http:") == 0
    assert "https:" not in text and "@import" not in text and "url(" not in text
    policy = (
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
    )
    assert policy in dict(found.attributes)["content"] or policy in text
    assert not re.search(r"<!--\w+-->", text)


def test_script_inserts_text_only():
    template = (resources.files("redraft.eval") / "report.html").read_text()
    for danger in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert danger not in template
    for network in ("fetch(", "XMLHttpRequest", "import(", "sendBeacon"):
        assert network not in template


def test_static_parts_can_be_read_without_script():
    found = Outline(page.page(full()))
    cells = " ".join(found.texts["td"])
    assert "≤ 2.104" in cells and "2.081 to 2.128" in cells and "4.756" in cells
    assert "0.00 to 0.50" in cells and "2,000" in cells
    shown = "".join(found.texts["pre"])
    assert "</script><script>document.title='owned'</script>" in shown and "W" * 400 in shown
    assert "\x1b" not in shown and "\u202e" not in shown
    assert "3.250" in found.texts["b"] and "n/a" in found.texts["b"]


def test_infills_tell_what_was_filled_from_what_was_given():
    body = page.infills(full().infills)
    assert '<span class="new">&lt;b&gt;</span>' in body and '<span class="given">a </span>' in body


def test_bars_are_drawn_to_scale():
    body = page.scores((Score("a", 1.0, 0.5, 2.0), Score("b", 0.5)))
    assert re.findall(r"fill\" style=\"width:([\d.]+)", body) == ["49.02", "24.51"]
    assert re.findall(r"left:([\d.]+)%;width:([\d.]+)", body) == [("24.51", "73.53")]
    assert "n/a" in page.scores((Score("broken", math.nan, math.nan, math.inf),))


def test_empty_parts_leave_out_their_sections():
    found = Outline(page.page(Report("Nothing yet")))
    assert not {"section", "table", "figure", "dl", "h2"} & set(found.tags)
    assert embedded(page.page(Report("x", movies=(Movie("no frames", ()),))))["movies"] == []


def test_numbers_in_the_data_are_json():
    data = embedded(page.page(full()))
    assert data["curve"][1]["points"][1] == [500, 250.0, None]
    assert data["levels"] == [[0.0, 0.5, 0.75, 1000], [0.5, 1.0, 2.25, 2000]]
    assert data["curve"][0]["name"] == "train " + visible(HOSTILE)


def test_embedded_text_cannot_end_the_script():
    raw = page.embed({"a": HOSTILE, "b": "<!--<script>"})
    assert "<" not in raw and raw.isascii()
    assert json.loads(raw) == {"a": visible(HOSTILE), "b": "<!--<script>"}


def test_long_curves_are_thinned_but_keep_their_end():
    points = tuple((i, float(i), 1.0) for i in range(12_345))
    kept = page.thin(points)
    assert 500 < len(kept) <= page.MOST_POINTS and kept[-1] == points[-1]
    assert page.thin(points[:7]) == points[:7] and page.thin(()) == ()


def unfold(movie):
    """What the script does."""

    def age(runs):
        out = []
        for run in runs:
            older = "o" + run[1:] if run[0] == "n" else run
            if out and older[0] == "o" == out[-1][0]:
                out[-1] += older[1:]
            else:
                out.append(older)
        return out

    shown = [movie["first"]]
    for edits in movie["edits"]:
        runs = age(shown[-1])
        for at, drop, put in edits:
            runs[at : at + drop] = put
        shown.append(runs)
    return shown


@pytest.mark.parametrize("seed", range(5))
def test_folded_movies_unfold_to_every_frame(seed):
    frames = film("In the beginning, 🤖 was the word." * 3, 9, seed, reopen=0.3)
    assert unfold(page.fold(Movie("m", frames))) == [settle(f.pieces) for f in frames]


def test_movies_stay_small():
    text = "".join(random.Random(0).choices("etaoin shrdlu\né", k=1024))
    size = len(page.page(Report("x", movies=(Movie("m", film(text, 64)),) * 6)))
    assert size < 1_000_000


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_write_replaces_the_whole_file_or_nothing(tmp_path, monkeypatch, broken):
    path = tmp_path / "report.html"
    path.write_text("old")
    write(full(), path)
    assert path.read_text("utf-8") == page.page(full())
    assert os.listdir(tmp_path) == ["report.html"]
    assert stat.S_IMODE(path.stat().st_mode) & 0o400

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(page.os, broken, fail)
    with pytest.raises(OSError, match="disk full"):
        write(Report("other"), path)
    assert path.read_text("utf-8") == page.page(full())
    assert os.listdir(tmp_path) == ["report.html"]


CHROMIUM = shutil.which("chromium")
browser = pytest.mark.skipif(not CHROMIUM, reason="no chromium on the path to open the page with")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update --virtual-time-budget=20000"
).split()


def opened(tmp_path, text, act="", *flags):
    """The page as the browser holds it after its scripts, and `act`, have run."""
    # Errors of scripts and refusals of the policy would otherwise pass unseen.
    watch = """<script>for (const kind of ["error", "securitypolicyviolation"])
        addEventListener(kind, (e) => document.documentElement.setAttribute(
          "data-" + kind, e.message || e.blockedURI), true);</script>"""
    file = tmp_path / "page.html"
    file.write_text(
        text.replace("<title>", watch + "<title>").replace(
            "</body>", f"<script>{act}</script></body>"
        ),
        "utf-8",
    )
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", *flags, "--dump-dom"]
    run = subprocess.run([*command, file.as_uri()], capture_output=True, timeout=90, check=True)
    dom = run.stdout.decode()
    assert "data-error" not in dom.split(">")[1] and "data-security" not in dom.split(">")[1], dom[
        :500
    ]
    return dom


def stages(dom):
    """The plain text of every movie's stage."""
    found = re.findall(r'<pre class="stage"[^>]*>(.*?)</pre>', dom, re.S)
    return [html.unescape(re.sub("<[^>]+>", "", one)) for one in found]


FINAL = "Given: Shall I compare <b>thee</b> to 🤖?"
STILL = "--force-prefers-reduced-motion"
SHORT = full(scores=(), summary=(), title="x")  # the movie is in sight at once


@browser
@pytest.mark.slow
def test_browser_plays_a_movie_to_its_end(tmp_path):
    act = """
    const figure = document.querySelector(".movie"), stage = figure.querySelector(".stage");
    const seen = new Set(), slider = figure.querySelector("input");
    new MutationObserver(() => seen.add(slider.value + stage.textContent))
      .observe(stage, { childList: true });
    slider.value = 0;
    slider.dispatchEvent(new Event("input"));
    figure.setAttribute("data-first", stage.textContent);
    figure.querySelector("button").click();
    setTimeout(() => figure.setAttribute("data-seen", seen.size), 15000);
    """
    dom = opened(tmp_path, page.page(full()), act, STILL)
    assert stages(dom) == [FINAL]
    assert f'data-first="Given: {"▒" * 33}"' in dom
    assert re.search(r'data-seen="1\d"', dom)  # every frame was on the stage
    assert ">Play</button>" in dom and "step 12 of 12 · 100% decided" in dom
    assert "<title>Title" in dom and "owned</title>" not in dom


@browser
@pytest.mark.slow
def test_browser_obeys_keys_and_the_wish_for_no_motion(tmp_path):
    act = """
    const figure = document.querySelector(".movie"), stage = figure.querySelector(".stage");
    const output = figure.querySelector("output");
    const press = (key) => stage.dispatchEvent(new KeyboardEvent("keydown", {key, bubbles: true}));
    const note = (name) => figure.setAttribute("data-" + name, output.textContent);
    setTimeout(() => {
      note("idle"); press("Home"); note("home"); press("ArrowRight"); press("ArrowRight");
      note("two"); press("ArrowLeft"); note("one"); press(" ");
      figure.setAttribute("data-playing", figure.querySelector("button").textContent);
      press(" ");
      figure.setAttribute("data-paused", figure.querySelector("button").textContent);
      press("End"); press(" "); note("again"); press(" "); press("ArrowRight");
    }, 1500);
    """
    dom = opened(tmp_path, page.page(SHORT), act, STILL)
    for name, step in (("idle", 12), ("home", 0), ("two", 2), ("one", 1), ("again", 0)):
        assert f'data-{name}="step {step} of 12' in dom
    assert 'data-playing="Pause"' in dom and 'data-paused="Play"' in dom
    assert "step 1 of 12" in re.search(r"<output>.*?</output>", dom)[0]


@browser
@pytest.mark.slow
def test_browser_plays_by_itself_where_motion_is_welcome(tmp_path):
    act = """
    setTimeout(() => document.body.setAttribute("data-then",
      document.querySelector(".movie button").textContent), 1500);
    """
    dom = opened(tmp_path, page.page(SHORT), act)
    assert 'data-then="Pause"' in dom and stages(dom) == [FINAL]


@browser
@pytest.mark.slow
def test_browser_draws_charts_that_can_be_read(tmp_path):
    act = """
    document.querySelectorAll("#curve input")[1].click();
    for (const plot of document.querySelectorAll(".plot"))
      plot.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight" }));
    """
    dom = opened(tmp_path, page.page(full()), act, STILL, "--window-size=360,800")
    plots = re.findall(r'<svg class="plot".*?</svg>', dom, re.S)
    assert len(plots) == 2
    assert plots[0].count("<polyline") == 2 and "NaN" not in dom.split("<script")[0]
    assert ">minutes</text>" in plots[0] and ">-0<" not in dom
    assert plots[1].count("<rect") == 2 and 'class="bar on"' in plots[1]
    tips = re.findall(r'<div class="tip"[^>]*>(.*?)</div>', dom, re.S)
    assert "step 0" in tips[0] and "held-out 3.5000" in tips[0]
    assert tips[1] == "t 0.00 to 0.50\n0.7500 nats\n1,000 tokens"


@browser
@pytest.mark.slow
@pytest.mark.parametrize("width", [360, 1200])
def test_browser_needs_no_sideways_scrolling(tmp_path, width):
    act = """setTimeout(() => document.body.setAttribute("data-wide",
        [document.documentElement.scrollWidth, innerWidth]), 500);"""
    dom = opened(tmp_path, page.page(full()), act, STILL, f"--window-size={width},900")
    wide, inner = map(int, re.search(r'data-wide="(\d+),(\d+)"', dom).groups())
    assert wide <= inner <= max(width, 500)  # some builds open no window under 500


@browser
@pytest.mark.slow
def test_browser_shows_a_page_with_nothing_in_it(tmp_path):
    assert "Nothing yet" in opened(tmp_path, page.page(Report("Nothing yet")))
