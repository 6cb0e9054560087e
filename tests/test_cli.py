"""The commands as a user types them: what they print, and what they say to bad input."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import redraft
from redraft.cli import main

SETTINGS = "tokenizer=bytes width=32 depth=1 length=48 rows=4 micro=4 steps=2".split()


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with a text and two trained models, shared by the tests that only read it."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "text.txt").write_text("To be, or not to be, that is the question.\n" * 60)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for recipe in ("mdlm", "ar"):
            assert call(patch, "train", recipe, "text=text.txt", *SETTINGS) == 0
    return folder


@pytest.fixture
def redo(work, monkeypatch, capsys):
    """Runs a command in that folder; returns its exit code, output and errors."""
    monkeypatch.chdir(work)

    def run(*words):
        code = call(monkeypatch, *words)
        return code, *capsys.readouterr()

    return run


def call(patch, *words) -> int:
    patch.setattr(sys, "argv", ["redraft", *map(str, words)])
    with pytest.raises(SystemExit) as stopped:
        main()
    return stopped.value.code or 0


def refused(outcome, *words):
    """Exit code 2, nothing on stdout, one line that says these words."""
    code, out, err = outcome
    lines = [line for line in err.splitlines() if line.startswith("redraft: ")]
    assert (code, out, len(lines)) == (2, "", 1), err
    assert "Traceback" not in err
    assert all(word in lines[0] for word in words), lines[0]


def test_generate_prints_texts_that_begin_with_the_prompt(redo):
    code, out, _ = redo("generate", "runs/mdlm", "--prompt", "To be", "--length", "9")
    assert code == 0 and out.startswith("To be")


def test_a_text_depends_on_its_own_seed_only(redo):
    _, two, _ = redo("generate", "runs/mdlm", "--num", "2", "--seed", "4", "--json")
    _, one, _ = redo("generate", "runs/mdlm", "--seed", "5", "--json")
    two, one = [[json.loads(line)["text"] for line in x.splitlines()] for x in (two, one)]
    assert two[1] == one[0]
    assert two[0] != two[1]


@pytest.mark.parametrize(
    "order", ["margin", "confidence", "entropy", "random", "left", "ancestral", "first-hitting"]
)
def test_every_order_writes(redo, order):
    options = [] if order in ("ancestral", "first-hitting") else ["--temperature", "1"]
    code, out, err = redo("generate", "runs/mdlm", "--order", order, "--json", *options)
    assert code == 0, err
    assert json.loads(out)["steps"] > 0


def test_presets_are_listed_and_write(redo):
    code, out, err = redo("presets", "--json")
    names = [json.loads(line)["name"] for line in out.splitlines()]
    assert code == 0 and {"llada", "dream", "fast-dllm", "sdar", "nbdiff"} < set(names), err
    code, out, _ = redo("presets")
    assert code == 0 and "fast-dllm-v2" in out
    for options in (
        ["--preset", "llada", "--steps", "6", "--block", "8"],
        ["--preset", "fast-dllm", "--threshold", "0.5", "--drift", "0.1", "--cache", "dual"],
        ["--preset", "dream", "--order", "margin", "--prompt-weight", "1.5"],
        ["--cache", "prefix", "--steps", "4"],
    ):
        code, out, err = redo("generate", "runs/mdlm", "--prompt", "To", "--json", *options)
        assert code == 0, err
        assert json.loads(out)["text"].startswith("To")
    words = ["--block", "2", "--cache", "delayed", "--json"]
    code, out, err = redo("infill", "runs/mdlm", "To [[3]] or [[3]] be", *words)
    text = json.loads(out)["text"] if code == 0 else err
    assert text.startswith("To ") and text.endswith(" be")


def test_fewer_steps_are_fewer_steps(redo):
    _, out, _ = redo("generate", "runs/mdlm", "--steps", "7", "--json")
    assert json.loads(out)["steps"] == 7


def test_infill_keeps_what_was_given(redo):
    code, out, _ = redo("infill", "runs/mdlm", "To [[3]], or [[2]] be")
    assert code == 0
    assert out.startswith("To ") and out.rstrip("\n").endswith(" be") and ", or " in out


def test_live_prints_the_final_text_where_there_is_no_terminal(redo):
    _, plain, _ = redo("infill", "runs/mdlm", "To [[3]], or [[2]] be")
    code, live, _ = redo("infill", "runs/mdlm", "To [[3]], or [[2]] be", "--live")
    assert code == 0 and len(live.splitlines()) == len(plain.splitlines())


def test_an_autoregressive_model_writes_and_is_evaluated_exactly(redo):
    assert redo("generate", "runs/ar", "--prompt", "To", "--length", "5")[0] == 0
    _, out, _ = redo("eval", "runs/ar", "--text", "text.txt", "--json")
    assert json.loads(out)["bound"] is False


def test_eval_counts_every_byte(redo, work):
    _, out, _ = redo("eval", "runs/mdlm", "--text", "text.txt", "--draws", "2", "--json")
    found = json.loads(out)
    assert found["bytes"] == (work / "text.txt").stat().st_size
    assert found["low"] < found["bpb"] < found["high"]
    _, told, _ = redo("eval", "runs/mdlm", "--text", "text.txt", "--draws", "2")
    assert f"<= {found['bpb']:.4f} bits per byte" in told


def test_report_writes_one_page(redo, work):
    code, out, err = redo("report", "runs/mdlm", "--out", "page.html")
    assert code == 0, err
    page = (work / "page.html").read_text()
    assert out.strip() == "page.html" and "bits per byte" in page and "src=" not in page


def test_print_shows_the_resolved_run_and_trains_nothing(redo, work):
    code, out, _ = redo("train", "mdlm", "text=text.txt", *SETTINGS, "--print", "--out", "no")
    assert code == 0
    assert json.loads(out)["plan"]["steps"] == 2
    assert not (work / "no").exists()


def test_list_shows_every_recipe(redo):
    _, out, _ = redo("list")
    assert {"ar:", "mdlm:", "mdlm_dit:"} <= {line.split()[0] for line in out.splitlines()}


def test_three_lines_of_python(work):
    model = redraft.load(work / "runs" / "mdlm")
    [text] = model.generate("To be", length=8, seed=3)
    assert text.startswith("To be")
    assert redraft.generate(work / "runs" / "mdlm", "To be", length=8, seed=3) == [text]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["generate", "nowhere"], ["nowhere", "no such checkpoint"]),
        (["infill", "nowhere", "a [[2]]"], ["nowhere"]),
        (["eval", "runs/mdlm", "--text", "none.txt"], ["none.txt"]),
        (["report", "nowhere"], ["nowhere"]),
        (["infill", "runs/mdlm", "no gap"], ["no gap", "[[8]]"]),
        (["infill", "runs/mdlm", "a [[0]] b"], ["[[0]]", "at least one token"]),
        (["infill", "runs/mdlm", "a [[99]] b"], ["99 tokens", "48"]),
        (["infill", "runs/ar", "a [[2]] b"], ["autoregressive"]),
        (["generate", "runs/mdlm", "--prompt", "x" * 49], ["49 tokens", "48"]),
        (["generate", "runs/mdlm", "--prompt", "xxxx", "--length", "45"], ["45 new", "48"]),
        (["generate", "runs/mdlm", "--order", "sideways"], ["sideways", "margin"]),
        (["generate", "runs/mdlm", "--num", "0"], ["--num"]),
        (["generate", "runs/mdlm", "--top-p", "2"], ["--top-p"]),
        (["generate", "runs/mdlm", "--order", "ancestral", "--top-k", "3"], ["ancestral"]),
        (["generate", "runs/ar", "--order", "first-hitting"], ["left to right"]),
        (["train", "mdlm", "dept=3"], ["'dept'", "depth: int"]),
        (["train", "mdlm", "depth=three"], ["depth must be int", "three"]),
        (["train", "mdlm", "depth=2.5"], ["depth must be int"]),
        (["train", "mdlm", "compile=1"], ["compile must be bool"]),
        (["train", "mdlm", "depth"], ["key=value"]),
        (["train", "mdml"], ["mdml", "mdlm_dit"]),
        (["train", "none.py"], ["none.py"]),
        (["train", "none.json"], ["none.json"]),
        (["train", "mdlm", "text=none.txt"], ["none.txt"]),
        (["train", "mdlm", "text=text.txt", "tokenizer=words"], ["words", "bytes"]),
        (["train", "mdlm", "text=text.txt", *SETTINGS], ["runs/mdlm", "--resume"]),
        (["train", "mdlm", "text=text.txt", *SETTINGS, "--out", "x", "--resume"], ["x", "resume"]),
        (["nonsense"], ["nonsense"]),
    ],
    ids=lambda x: " ".join(x)[:50],
)
def test_bad_input_is_one_line_and_exit_code_2(redo, words, said):
    refused(redo(*words), *said)


@pytest.fixture
def copy(work, tmp_path):
    """A checkpoint to be damaged."""
    [step] = (work / "runs" / "mdlm").glob("step-*")
    return Path(shutil.copytree(step, tmp_path / "copy"))


def test_a_truncated_weights_file_is_named(redo, copy):
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    refused(redo("generate", copy), "model.safetensors")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_missing_file_is_named(redo, copy, name):
    (copy / name).unlink()
    refused(redo("generate", copy), "copy")


def test_a_vocabulary_that_does_not_match_is_refused(redo, copy):
    config = json.loads((copy / "config.json").read_text())
    config["model"]["vocab_size"] = config["process"]["vocab_size"] = 300
    (copy / "config.json").write_text(json.dumps(config))
    refused(redo("generate", copy), "300", "258")


def test_a_config_of_another_shape_is_refused(redo, copy):
    config = json.loads((copy / "config.json").read_text())
    config["model"]["depth"] = 2
    (copy / "config.json").write_text(json.dumps(config))
    refused(redo("generate", copy), "model.safetensors", "layers.1")


@pytest.mark.parametrize("kind", ["os:system", "redraft.train.loop:torch", "redraft.nope:X", None])
def test_a_checkpoint_cannot_name_other_code(redo, copy, kind):
    config = json.loads((copy / "config.json").read_text())
    config["model"]["kind"] = kind
    (copy / "config.json").write_text(json.dumps(config))
    refused(redo("generate", copy), "config.json")


def test_help_is_there_at_once_and_without_torch():
    code = (
        "import sys, redraft.cli; assert 'torch' not in sys.modules and 'rich' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    done = subprocess.run(
        [sys.executable, "-m", "redraft", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0 and "generate" in done.stdout


def test_a_users_recipe_file_works_like_a_shipped_one(redo, work):
    (work / "mine.py").write_text(
        "from redraft.recipe.mdlm import recipe as base\n\n"
        "def recipe(depth: int = 1):\n"
        "    return base(text='text.txt', tokenizer='chars', width=32, depth=depth, length=32,\n"
        "                rows=4, micro=4, steps=1)\n"
    )
    code, _, err = redo("train", "mine.py", "depth=2", "--out", "mine")
    assert code == 0, err
    assert redraft.load(work / "mine").model.config.depth == 2
    refused(redo("train", "mine.py", "width=2"), "mine has no 'width'", "depth: int")


def test_a_recipe_file_that_fails_is_one_line(redo, work):
    (work / "broken.py").write_text("import nothing_of_this_name\n")
    refused(redo("train", "broken.py"), "broken.py", "nothing_of_this_name")


def test_no_seed_of_torch_is_touched(work):
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    redraft.load(work / "runs" / "mdlm").generate(length=4)
    assert torch.equal(before, torch.random.get_rng_state())


def test_resume_needs_neither_recipe_settings_nor_the_same_words(redo, work):
    """As the README has it: after a stop, name the recipe and the folder."""
    assert redo("train", "mdlm", "text=text.txt", *SETTINGS, "--out", "again")[0] == 0
    code, _, err = redo("train", "mdlm", "--out", "again", "--resume")
    assert code == 0, err


def test_a_run_that_failed_before_its_first_checkpoint_does_not_stand_in_the_way(redo, work):
    settings = [word for word in SETTINGS if not word.startswith("length")]
    refused(redo("train", "mdlm", "text=text.txt", *settings, "length=9000", "--out", "f"), "9000")
    assert not (work / "f").exists()
    assert redo("train", "mdlm", "text=text.txt", *SETTINGS, "--out", "f")[0] == 0


def test_changed_text_is_not_measured_with_the_old_model(redo, work):
    (work / "note.txt").write_text("the first of several notes\n" * 40)
    settings = [*SETTINGS[1:], "tokenizer=bpe", "vocab=270"]
    assert redo("train", "mdlm", "text=note.txt", *settings, "--out", "n")[0] == 0
    assert redo("report", "n")[0] == 0
    (work / "note.txt").write_text("zebras quickly jump over xylophones\n" * 40)
    refused(redo("report", "n"), "text it was trained on has changed")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--order", "ancestral", "--temperature", "1"], "--temperature"),
        (["--preset", "lada"], "choose llada"),
        (["--preset", "llada", "--threshold", "0.5"], "--threshold"),
        (["--preset", "llada", "--correct", "2"], "--correct"),
        (["--preset", "llada", "--order", "ancestral"], "no order of positions"),
        (["--drift", "0.5"], "--drift is for a --cache"),
        (["--cache", "dual", "--drift", "0.5", "--regex", "a"], "--regex"),
        (["--order", "first-hitting", "--steps", "3"], "--steps"),
        (["--threshold", "0.5", "--steps", "3"], "--steps"),
        (["--threshold", "0.5", "--order", "entropy"], "entropy"),
        (["--temperature", "0", "--top-k", "3"], "--top-k"),
    ],
    ids=" ".join,
)
def test_an_option_that_would_not_be_read_is_refused(redo, options, said):
    refused(redo("generate", "runs/mdlm", *options), said)


@pytest.mark.parametrize("options", [["--steps", "3"], ["--threshold", "1"], ["--order", "margin"]])
def test_an_autoregressive_model_refuses_the_options_of_the_others(redo, options):
    refused(redo("generate", "runs/ar", *options), options[0].removeprefix("--"))


@pytest.mark.parametrize(
    "setting", ["steps=0", "steps=-5", "depth=0", "lr=-1.0", "ema=1.0", "rows=0", "seconds=0"]
)
def test_settings_that_make_no_sense_are_refused(redo, work, setting):
    key = setting.partition("=")[0]
    settings = [word for word in SETTINGS if not word.startswith((key, "steps"))]
    more = [] if key in ("steps", "seconds") else ["steps=2"]
    words = ["text=text.txt", *settings, *more, setting]
    refused(redo("train", "mdlm", *words, "--out", "bad"))
    assert not (work / "bad").exists()


def test_files_in_the_way_are_named(redo):
    refused(redo("train", "mdlm", "text=text.txt", *SETTINGS, "--out", "text.txt"), "text.txt")
    refused(redo("report", "runs/mdlm", "--out", "nowhere/x.html"), "nowhere")


def test_a_gap_far_too_long_is_refused_at_once(redo):
    refused(redo("infill", "runs/mdlm", "a [[1000000000000]]"), "1000000000000")


def test_one_row_of_text_gives_json_without_an_interval(redo, work):
    (work / "short.txt").write_text("To be.")
    _, out, _ = redo("eval", "runs/mdlm", "--text", "short.txt", "--json")
    assert json.loads(out)["low"] is None
    assert "no interval" in redo("eval", "runs/mdlm", "--text", "short.txt")[1]


def test_a_recipe_file_trains_into_a_folder_of_its_own_name(redo, work):
    (work / "own.py").write_text(
        "from redraft.recipe.mdlm import recipe as base\n\n"
        "def recipe(steps: int = 1):\n"
        "    return base(text='text.txt', tokenizer='bytes', width=32, depth=1, length=32,\n"
        "                rows=4, micro=4, steps=steps)\n"
    )
    assert redo("train", "own.py")[0] == 0
    assert (work / "runs" / "own" / "run.json").exists()
