"""Puzzles: answers are right, nothing leaks from tests into training, checkers know wrong ones."""

import itertools
import json
import re
import sys
from fractions import Fraction

import pytest

from redraft.cli import main
from redraft.errors import BadInput
from redraft.puzzle import countdown, sudoku
from redraft.puzzle.arithmetic import Add, Chain, Multiply
from redraft.puzzle.find import KINDS, drawn, puzzle, puzzles, read, right, write
from redraft.puzzle.problem import Dice, Problem, Puzzle, last_number, line, mixed, problems
from tests.contract import examples

EXAMPLES = examples("puzzle")


def some(puzzle, n=40, test=False, seed=0):
    return list(itertools.islice(problems(puzzle, test, seed), n))


@pytest.mark.parametrize("puzzle", EXAMPLES, ids=repr)
def test_the_contract(puzzle):
    assert isinstance(puzzle, Puzzle) and puzzle.kind in KINDS
    found = [puzzle.draw(Dice(f"{i}")) for i in range(25)]
    assert found == [puzzle.draw(Dice(f"{i}")) for i in range(25)]
    for each in found:
        assert each.kind == puzzle.kind and right(each, each.answer)
        assert not right(each, "") and not right(each, "I do not know")
        assert read_back(each) == each


def read_back(problem):
    from redraft.puzzle.find import problem as of_row

    return of_row(json.loads(line(problem)))


def test_answers_are_what_python_says():
    for each in some(Add(), 200) + some(Multiply(), 200):
        assert int(each.answer) == eval(each.prompt.rstrip("="))


def test_stories_come_out_as_they_are_told():
    signs = {"gets": "+", "gives": "-", "times": "*", "keeps": "/"}
    seen = set()
    for each in some(Chain(4), 300):
        first, *steps, _ = each.prompt.split(". ")
        have = Fraction(re.search(r"\d+", first)[0])
        for told in steps:
            sign = next(signs[word] for word in ("times", "gets", "gives", "keeps") if word in told)
            n = int(re.search(r"\d+", told)[0])
            ways = {"+": have + n, "-": have - n, "*": have * n, "/": have / n}
            have = ways[sign]
            seen.add(sign)
            assert have.denominator == 1 and have > 0
        assert str(have) == each.answer and len(steps) == 4
    assert seen == set("+-*/")


def test_all_grids_are_known_and_one_fits():
    assert len(sudoku.grids()) == 288  # the known number of 4 x 4 grids
    assert len(set(sudoku.grids())) == 288
    for each in some(sudoku.Sudoku(6), 10):
        asked = each.prompt.removesuffix(" = ").replace(" ", "")
        assert asked.count(".") == 6 and sudoku.fits(asked) == 1
        fits = [
            g for g in sudoku.grids() if all(a in (".", b) for a, b in zip(asked, g, strict=True))
        ]
        assert [sudoku.spaced(grid) for grid in fits] == [each.answer]


def test_wrong_grids_are_known():
    found = Problem("sudoku", "1234 3412 2143 432. = ", "1234 3412 2143 4321", "")
    assert right(found, "It is 1234 3412 2143 4321.")
    assert right(found, "1111 1111 1111 1111 no: 1234 3412 2143 4321")
    for said in ("1234 3412 2143 4322", "1234 3412 2143 432.", "2134 3412 1243 4321", "1234"):
        assert not right(found, said)
    other = "2143 4321 1234 3412"  # a grid, but of another puzzle
    assert sudoku.sound(other.replace(" ", "")) and not right(found, other)


@pytest.mark.parametrize(
    ("said", "is_right"),
    [
        ("(3*4)-2", True),
        ("3*4-2", True),
        ("3 * 4 - 2 = 10", True),
        ("4*3-2", True),
        ("2*3+4", True),
        ("(2+3)*4", False),  # another number
        ("3*4", False),  # not all
        ("3*4-2-2", False),  # twice
        ("34-2", False),
        ("10", False),
        ("3*4-2)", False),
        ("(3*4-2", False),
        ("3*4--2", False),
        ("3**4-2", False),
        ("__import__('os')", False),
        ("", False),
    ],
)
def test_countdown_by_its_rules(said, is_right):
    assert right(Problem("countdown", "Make 10 from 2 3 4. ", "(3*4)-2", ""), said) is is_right


def test_expressions_are_worth_what_python_says():
    dice = Dice("values")
    for _ in range(300):
        text = "".join(dice.one("123456789") + dice.one("+-*/") for _ in range(4)) + "7"
        wrapped = re.sub(r"\d", lambda m: f"Fraction({m[0]})", text)
        assert countdown.value(text) == eval(wrapped)
    assert countdown.value("(1+2)*3") == 9 and countdown.value("7/2") == Fraction(7, 2)
    for wrong in ("1/0", "1/(2-2)", "1+", "(", "a", "1 2", "(" * 5000):
        assert countdown.value(wrong) is None


def test_the_last_number_counts():
    assert last_number("12 and 1,305.") == "1305" and last_number("it is 007") == "7"
    assert last_number("none") is None and last_number("3 - -4") == "-4"
    sum_ = Problem("add", "2+3=", "5", "")
    assert right(sum_, "2+3=5") and right(sum_, "05") and not right(sum_, "5 or 6")
    assert not right(sum_, "-5")
    words = Problem("", "Say yes.", "yes", "")
    assert right(words, " yes\n") and not right(words, "yes.")


@pytest.mark.parametrize("word", ["add:2", "multiply:2", "chain:2", "countdown:3", "sudoku:5"])
def test_no_problem_is_on_both_sides(word):
    train = [each for seed in (0, 1) for each in some(puzzle(word), 150, False, seed)]
    test = [each for seed in (0, 2) for each in some(puzzle(word), 50, True, seed)]
    assert {each.key for each in train}.isdisjoint(each.key for each in test)
    assert not any(each.test for each in train) and all(each.test for each in test)
    mine = some(puzzle(word), 150, False, 0)
    assert len({each.key for each in mine}) == 150  # each once


def test_the_same_problem_in_other_words_is_on_the_same_side():
    sums = {}
    for seed in range(3):
        for each in some(Add(1), 30, False, seed):
            a, b = map(int, each.prompt.rstrip("=").split("+"))
            sums[a, b] = each
    swapped = [each for (a, b), each in sums.items() if (b, a) in sums and a != b]
    assert swapped and all(sums[b, a].key == sums[a, b].key for a, b in sums if (b, a) in sums)
    stories = [Problem("chain", text, "7", "3+4") for text in ("Ann has 3.", "Ben has 3.")]
    assert stories[0].test is stories[1].test


def test_a_tenth_is_for_tests():
    found = [Add(5).draw(Dice(str(i))) for i in range(1200)]
    share = sum(each.test for each in found) / len(found)
    assert 0.07 < share < 0.13


def test_more_problems_begin_with_the_same_ones():
    words = ["add:3", "chain:2"]
    few, many = drawn(words, 30, False, 7), drawn(words, 90, False, 7)
    assert many[:30] == few and [each.kind for each in few] == ["add", "chain"] * 15
    assert drawn(words, 30, False, 8) != few
    assert few == list(itertools.islice(mixed(puzzles(words), False, 7), 30))


def test_what_there_is_little_of_runs_out():
    with pytest.raises(BadInput, match=r"add has hardly more than \d+ problems to test with"):
        drawn(["add:1"], 60, True, 0)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("chess", "no puzzles of the kind 'chess'; there are add, multiply"),
        ("add:", "add:: the size of add is a whole number"),
        ("add:x", "add:x: the size of add is a whole number"),
        ("add:0", "add:0: the size of add is between 1 and 40"),
        ("sudoku:16", "sudoku:16: the size of sudoku is between 1 and 10"),
        ("add,add:3", "add is asked for twice"),
    ],
)
def test_wrong_words(word, message):
    with pytest.raises(BadInput, match=message):
        puzzles([word])


def test_files(tmp_path):
    out = tmp_path / "a" / "p.jsonl"
    found = write(out, ["add:3,countdown"], 20, True, 3)
    assert read(out) == found
    first = out.read_bytes()
    write(out, ["add:3", "countdown"], 20, True, 3)
    assert out.read_bytes() == first and [p.name for p in out.parent.iterdir()] == ["p.jsonl"]
    write(out, ["add:3", "countdown"], 40, True, 3)
    assert out.read_bytes().startswith(first)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read"),
        ("", "no problems in it"),
        ("{", "p.jsonl:1: not JSON"),
        ('{"prompt": "a", "answer": "b"}\n[]', "p.jsonl:2: not an object"),
        ('{"prompt": "a"}', "p.jsonl:1: no answer that is a string"),
        ('{"prompt": "a", "answer": 5}', "p.jsonl:1: no answer that is a string"),
        ('{"prompt": "a", "answer": "b", "kind": "chess"}', "p.jsonl:1: the kind 'chess'"),
    ],
)
def test_bad_files(tmp_path, text, message):
    path = tmp_path / "p.jsonl"
    if text is not None:
        path.write_text(text)
    with pytest.raises(BadInput, match=message):
        read(path)


def test_the_command(tmp_path, monkeypatch, capsys):
    out = tmp_path / "p.jsonl"
    words = ["redraft", "data", "puzzles", "add:3", "sudoku:4", "--out", str(out), "-n", "9"]
    monkeypatch.setattr(sys, "argv", [*words, "--test", "--seed", "5"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert not stopped.value.code
    assert capsys.readouterr().out == f"{out}: 5 add, 4 sudoku, to test with\n"
    assert read(out) == drawn(["add:3", "sudoku:4"], 9, True, 5)
