import io
import random
from xml.etree import ElementTree

import pytest
import torch
from rich.console import Console

from redraft import view
from redraft.types import Canvas
from redraft.view import Frame, Piece

MASK, EOS = 300, 301


class Bytes:
    mask_id, eos_id = MASK, EOS

    def decode(self, ids):
        return bytes(i for i in ids if i < 256).decode("utf-8", "replace")


def canvas(text, noisy, window=None, step=0, doc=None):
    tokens = torch.tensor([[EOS if b == ord("$") else b for b in text.encode()]])
    noisy = torch.tensor([[c == "x" for c in noisy]])
    own = torch.ones_like(noisy) if window is None else torch.tensor([[c == "w" for c in window]])
    doc = torch.zeros_like(tokens) if doc is None else torch.tensor([doc])
    return Canvas(torch.where(noisy, MASK, tokens), noisy, own, torch.tensor([step]), doc)


def shown(*canvases, **options):
    return list(view.frames(iter(canvases), Bytes(), **options))


def runs(frame):
    return [(piece.text, piece.state) for piece in frame.pieces]


def test_states_follow_the_canvas():
    first, second, third = shown(
        canvas("ab cd", "..xxx", "..www"),
        canvas("ab cd", "..x.x", "..www", step=1),
        canvas("ab cd", "....x", "..www", step=2),
        total=3,
    )
    assert runs(first) == [("ab", "given"), ("▒▒▒", "masked")]
    assert runs(second) == [("ab", "given"), ("▒", "masked"), ("c", "new"), ("▒", "masked")]
    assert runs(third) == [("ab", "given"), (" ", "new"), ("c", "old"), ("▒", "masked")]
    assert [f.step for f in (first, second, third)] == [0, 1, 2]
    assert [f.decided for f in (first, second, third)] == pytest.approx([0, 1 / 3, 2 / 3])
    assert third.total == 3 and third.text == "ab c▒"


def test_first_canvas_may_already_hold_decisions():
    assert runs(shown(canvas("abc", "x..", ".ww"))[0]) == [("▒", "masked"), ("bc", "new")]


def test_rewritten_and_reopened_tokens_are_news():
    frames = shown(canvas("ab", ".x"), canvas("cb", ".."), canvas("cb", "x."), canvas("cb", ".."))
    assert runs(frames[1]) == [("c", "edited"), ("b", "new")]
    assert runs(frames[2]) == [("░", "reopened"), ("b", "old")]
    assert runs(frames[3]) == [("c", "new"), ("b", "old")]
    assert [frame.decided for frame in frames] == [0.5, 1, 0.5, 1]


def test_a_reopened_token_is_news_once():
    still = shown(canvas("abc", "..x"), canvas("abc", "x.x"), canvas("abc", "x.x"))
    assert runs(still[1]) == [("░", "reopened"), ("b", "old"), ("▒", "masked")]
    assert runs(still[2]) == [("▒", "masked"), ("b", "old"), ("▒", "masked")]
    beside = shown(canvas("abc", "..x"), canvas("abc", ".xx"))
    assert runs(beside[1]) == [("a", "old"), ("░", "reopened"), ("▒", "masked")]
    assert shown(canvas("a$b", "..."), canvas("a$b", ".x."))[1].text == "a░b"  # no end any more


def test_steps_add_up_over_windows():
    one, two = "ww..", "..ww"
    frames = shown(
        canvas("abcd", "xxxx", one, 0),
        canvas("abcd", ".xxx", one, 1),
        canvas("abcd", "..xx", one, 2),
        canvas("abcd", "..xx", two, 0),
        canvas("abcd", "...x", two, 1),
        canvas("abcd", "....", two, 2),
    )
    assert [frame.step for frame in frames] == [0, 1, 2, 2, 3, 4]
    assert runs(frames[-1]) == [("abc", "old"), ("d", "new")]  # an earlier window is not given


def test_one_step_windows_count():
    frames = shown(canvas("ab", ".x", "w.", 1), canvas("ab", "..", ".w", 1))
    assert [frame.step for frame in frames] == [1, 2]


def test_characters_are_not_torn_between_states():
    # "é" is two bytes, decided at different steps; the emoji is four.
    frames = shown(canvas("aéb", "..x."), canvas("aéb", "...."))
    assert runs(frames[0]) == [("a\ufffd", "new"), ("▒", "masked"), ("b", "new")]
    assert runs(frames[1]) == [("a", "old"), ("é", "new"), ("b", "old")]
    frames = shown(canvas("🤖!", "x.x.."), canvas("🤖!", "....."))
    assert runs(frames[1]) == [("🤖", "new"), ("!", "old")]  # as new as its newest byte
    assert runs(shown(canvas("éb", "...", ".ww"))[0]) == [("éb", "new")]


def test_pieces_join_to_the_decoded_run():
    raw = bytes([0xE2, 0x82, 0xC3, 0xA9, 0xFF, 0x61])  # broken text is broken in the same way
    marks = ["old", "new", "old", "new", "old", "new"]
    found = view.pieces(list(raw), marks, Bytes())
    assert "".join(piece.text for piece in found) == raw.decode("utf-8", "replace")


def test_text_ends_at_the_first_end_that_is_decided():
    assert shown(canvas("ab$cd", "....."))[0].text == "ab"
    assert shown(canvas("ab$cd", "..x.."))[0].text == "ab▒cd"
    assert shown(canvas("ab$cd$e", "xx....."))[0].text == "▒▒"


def test_noise_that_happens_to_be_an_end_ends_nothing():
    found = view.pieces([97, EOS, 98], ["old", "masked", "old"], Bytes())
    assert "".join(piece.text for piece in found) == "a▒b"


def test_separators_that_were_given_do_not_end_the_text():
    frame = shown(canvas("$ab$cd$e", "....xx..", "....ww.."))[0]
    assert frame.text == "ab▒▒e"
    assert shown(canvas("ab$cd", ".....", ".www."))[0].text == "abcd"  # given behind an end
    assert shown(canvas("$", ".", "."))[0].text == ""


def test_padding_is_left_out():
    frame = shown(canvas("abcde", "..x..", "..w..", doc=[0, 0, 0, -1, -1]))[0]
    assert frame.text == "ab▒" and frame.decided == 0
    assert shown(canvas("ab", "..", ".."))[0].decided == 1  # nothing to decide is all decided


def test_another_row():
    one, two = canvas("ab", "xx"), canvas("cd", "..")
    both = Canvas(*(torch.cat([getattr(c, n) for c in (one, two)]) for n in FIELDS))
    assert next(view.frames([both], Bytes(), row=1)).text == "cd"


FIELDS = ("tokens", "noisy", "window", "step", "doc")


def test_unsafe_characters_never_reach_the_terminal():
    assert view.visible("a\tb\n\x1b[31m\x00\r\u202e\ud800é🤖") == "a\tb\n·[31m····é🤖"
    frame = Frame((Piece("\x1b]0;owned\x07", "new"),), 0)
    assert "\x1b" not in view.terminal(frame).plain
    assert "\x07" not in view.terminal(frame).plain


FRAME = Frame((Piece("[red]To ", "given"), Piece("▒▒", "masked"), Piece("be", "new")), 3, 8, 0.5)


def test_terminal_reads_without_colour():
    text = view.terminal(FRAME)
    assert text.plain == "[red]To ▒▒be"
    assert [str(span.style) for span in text.spans] == ["italic cyan", "dim", "bold bright_green"]


def test_live_off_a_terminal_prints_the_final_text_once():
    file = io.StringIO()
    long = Frame((Piece("word " * 50, "old"),), 9)
    assert view.live(iter([FRAME, long]), Console(file=file)) is long
    assert file.getvalue() == "word " * 50 + "\n"
    assert view.live(iter([]), Console(file=file)) is None


def test_live_plays_every_frame_at_most_so_fast():
    file = io.StringIO()
    waits = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TERM", "xterm")
        patch.setattr(view.time, "sleep", waits.append)
        console = Console(file=file, force_terminal=True, width=60, color_system=None)
        view.live(iter([FRAME] * 3), console, title="[b]title", fps=10)
    out = file.getvalue()
    assert "step 3/8 · 50% decided" in out and "[b]title" in out and "[red]To ▒▒be" in out
    assert len(waits) == 3 and waits[0] == 0 and 0.05 < waits[1] <= 0.1


def test_picture_is_self_contained_and_repeatable():
    picture = view.svg([FRAME, FRAME], "a <b> & c")
    assert picture == view.svg(iter([FRAME, FRAME]), "a <b> & c")
    assert picture.replace("http://www.w3.org/2000/svg", "").count("http") == 0
    assert "url(" not in picture.replace("url(#", "") and "font-face" not in picture
    root = ElementTree.fromstring(picture)
    words = "".join(root.itertext()).replace("\xa0", " ")
    assert words.count("[red]To ") == 2 and "▒▒" in words and "a <b> & c" in words


def test_picture_of_control_characters_is_still_xml():
    ElementTree.fromstring(view.svg(Frame((Piece("\x00\x1b<&>\ud800", "old"),), 1), "x"))


def test_settled_runs():
    pieces = (Piece("a", "old"), Piece("", "new"), Piece("b", "old"), Piece("▒▒", "masked"))
    assert view.settle((*pieces, Piece("▒", "masked"))) == ["oab", "m3"]
    assert view.settle((Piece("a", "old"), Piece("b", "new"))) == ["oa", "nb"]
    assert view.settle((Piece("a", "old"), Piece("b", "new")), one_step_on=True) == ["oab"]
    taken_back = (Piece("▒", "masked"), Piece("░", "reopened"), Piece("c", "edited"))
    assert view.settle(taken_back) == ["m1", "r1", "ec"]
    assert view.settle(taken_back, one_step_on=True) == ["m2", "oc"]


def test_edits_lead_from_one_frame_to_the_next():
    rng = random.Random(0)
    for _ in range(300):
        before, after = (rng.choices("abc", k=rng.randrange(60)) for _ in range(2))
        if rng.random() < 0.5:  # mostly the same
            after = [*before[:20], *after[:3], *before[22:]]
        runs = list(before)
        for at, drop, put in view.edits(before, after):
            assert at + drop <= len(before)
            runs[at : at + drop] = put
        assert runs == after
    assert view.edits(list("abcdefg"), list("abXdefg")) == [(2, 1, ["X"])]


def test_a_canvas_that_grows_shows_what_came_in():
    one = canvas("ab", "..", ".w", step=1)
    two = canvas("abxx", "..xx", ".www", step=2)
    three = canvas("axxbxx", ".xx.xx", ".wwwww", step=3)
    four = canvas("acxbxx", "..x.xx", ".wwwww", step=4)
    frames = shown(one, two, three, four)
    assert [frame.text for frame in frames] == ["ab", "ab▒▒", "a▒▒b▒▒", "ac▒b▒▒"]
    assert runs(frames[1])[:2] == [("a", "given"), ("b", "old")]
    assert runs(frames[2]) == [("a", "given"), ("▒▒", "masked"), ("b", "old"), ("▒▒", "masked")]
    assert ("c", "new") in runs(frames[3])
