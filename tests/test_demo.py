"""The main job from end to end, small: a real process, a real page."""

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow


def test_the_demo_goes_from_text_to_a_page(tmp_path):
    (tmp_path / "plays").mkdir()
    for i in range(8):
        lines = [f"SCENE {i}. To be, or not to be, that is question {j % 7}.\n" for j in range(400)]
        (tmp_path / "plays" / f"{i}.txt").write_text("".join(lines))
    # Without a compiler on the path the networks run as they are, which starts sooner.
    quiet = os.environ | {"OMP_NUM_THREADS": "1", "PATH": str(tmp_path)}
    words = [sys.executable, "-m", "redraft", "demo", "--seconds", "4", "--text", "plays"]
    done = subprocess.run(words, cwd=tmp_path, env=quiet, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    out = tmp_path / "runs" / "demo"
    scores = json.loads((out / "scores.json").read_text())
    assert set(scores) == {"diffusion", "autoregressive", "5-gram, backed off", "unigram"}
    assert len({(each["tokens"], each["bytes"]) for each in scores.values()}) == 1
    assert scores["5-gram, backed off"]["bpb"] < scores["unigram"]["bpb"]
    page = (out / "report.html").read_text()
    assert "diffusion" in page and "src=" not in page
    newest = [sys.executable, "-m", "redraft", "generate", "--length", "5", "--json"]
    text = subprocess.run(newest, cwd=tmp_path, env=quiet, capture_output=True, text=True)
    assert text.returncode == 0 and "runs/demo/diffusion" in text.stderr
    assert json.loads(text.stdout)["steps"] == 5
