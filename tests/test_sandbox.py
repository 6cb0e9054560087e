"""Code that means harm, in real processes: what is refused, and that nothing outlives it."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from redraft.errors import BadInput
from redraft.eval import guard
from redraft.eval.sandbox import Limits, execute, holds, judged

QUICK = Limits(seconds=3.0, cpu=1)
# Where the kernel cannot, Python refuses; this code goes the plain ways, which both refuse.
EVIL = {
    "fork": ("import os\nos.fork()", "PermissionError"),
    "subprocess": ("import subprocess\nsubprocess.run(['true'])", "PermissionError"),
    "shell": ("import os\nassert os.system('true') != 0\nraise PermissionError", "PermissionError"),
    "thread bomb": (
        "import threading\nwhile True:\n    threading.Thread(target=input).start()",
        "RuntimeError",
    ),
    "write": ("open({evil!r}, 'w').write('x')", "PermissionError"),
    "write here": ("open('evil', 'x')", "PermissionError"),
    "append": ("import os\nos.open({evil!r}, os.O_APPEND | os.O_CREAT)", "Permission"),
    "remove": ("import os\nos.remove({own!r})", "PermissionError"),
    "rename": ("import os\nos.rename({own!r}, {evil!r})", "PermissionError"),
    "truncate": ("import os\nos.truncate({own!r}, 0)", "PermissionError"),
    "chmod": ("import os\nos.chmod({own!r}, 0)", "PermissionError"),
    "mkdir": ("import os\nos.mkdir({evil!r})", "PermissionError"),
    "socket": ("import socket\nsocket.create_connection(('127.0.0.1', 9))", "PermissionError"),
    "web": ("import urllib.request as r\nr.urlopen('http://127.0.0.1:9')", "not permitted"),
    "kill parent": ("import os\nos.kill(os.getppid(), 9)", "PermissionError"),
    "memory": ("x = [0] * 10**9", "MemoryError"),
    "stack": ("def f(): f()\nf()", "RecursionError"),
    "exit": ("raise SystemExit(0)", "SystemExit"),
    "leave": ("import os\nos._exit(0)", "left before its end"),
    "claim": ("import os\nprint('passed')\nos.write(1, b'passed')\nos._exit(0)", "left before"),
    "crash": ("import ctypes\nctypes.string_at(0)", "SIGSEGV"),
    "wrong": ("assert 1 + 1 == 3, 'three\\nlines'", "AssertionError: three lines"),
    "syntax": ("def", "SyntaxError"),
    "null": ("\x00", "SyntaxError"),
}
strict = pytest.mark.skipif("seccomp" not in holds(), reason="no seccomp here")


def aimed(name, folder):
    """Evil code with a file to harm and a place to write to, and what it is told."""
    code, words = EVIL[name]
    for key in ("own", "evil"):
        code = code.replace(f"{{{key}!r}}", repr(str(folder / key)))
    return code, words


@pytest.mark.parametrize("name", EVIL)
def test_harm_is_refused(name, tmp_path):
    own, evil = tmp_path / "own", tmp_path / "evil"
    own.write_text("mine")
    code, words = aimed(name, tmp_path)
    found = execute(code, QUICK)
    assert not found.passed and words in found.why and "\n" not in found.why, found
    assert own.read_text() == "mine" and not evil.exists()
    assert own.stat().st_mode & 0o400


@strict
def test_the_kernel_is_not_talked_round(tmp_path):
    """By way of C, past everything that Python could refuse."""
    own = tmp_path / "mine"
    own.write_text("mine")
    calls = [
        "c.fork() == -1",
        "c.socket(2, 1, 0) == -1",
        f"c.unlink({os.fsencode(own)!r}) == -1",
        f"c.open({os.fsencode(own)!r}, 1) == -1",
        f"c.creat({os.fsencode(own)!r}, 0o600) == -1",
        "c.kill(os.getppid(), 9) == -1",
        "c.ptrace(16, os.getppid(), 0, 0) == -1",
    ]
    code = "import ctypes, os\nc = ctypes.CDLL(None)\n"
    found = execute(code + "\n".join(f"assert {call}, {call!r}" for call in calls), QUICK)
    assert found.passed, found
    assert own.read_text() == "mine"


def test_time_is_up():
    began = time.monotonic()
    assert execute("while True: pass", Limits(seconds=30.0, cpu=1)).why == "timed out"
    assert execute("import time\ntime.sleep(60)", Limits(seconds=0.5)).why == "timed out"
    assert time.monotonic() - began < 20


def test_errors_that_are_caught_do_not_stop_the_clock():
    code = "while True:\n    try:\n        while True: pass\n    except BaseException: pass"
    assert execute(code, Limits(seconds=1.0, cpu=5)).why == "timed out"


def test_nothing_is_left(tmp_path):
    """No process of the group, no folder."""
    import tempfile

    before = set(Path(tempfile.gettempdir()).glob("redraft-*"))
    execute("import time\ntime.sleep(60)", Limits(seconds=0.3))
    assert set(Path(tempfile.gettempdir()).glob("redraft-*")) <= before
    children = subprocess.run(
        ["ps", "-o", "args=", "--ppid", str(os.getpid())], capture_output=True, text=True
    )
    assert "guard.py" not in children.stdout


def test_ordinary_code_passes():
    code = (
        "import collections, copy, datetime, functools, hashlib, heapq, itertools, math, random\n"
        "import re, string, typing\nfrom typing import List\n"
        "assert hashlib.md5(b'a').hexdigest()[:4] == '0cc1'\nprint('loud')\nopen(re.__file__)\n"
    )
    assert execute(code).passed
    assert execute("print('x' * 10**7)").passed, "what is printed goes nowhere"


def test_it_says_what_holds():
    assert holds().startswith("no other processes, no network, no writing of files: by ")


def test_where_the_kernel_cannot_python_refuses(tmp_path):
    """The same code with the filter taken away."""
    source = Path(guard.__file__).read_text().replace("strict = locked()", "strict = False")
    for name in ("fork", "write", "subprocess", "kill parent"):
        code, words = aimed(name, tmp_path)
        told = '{"code": %s, "word": "w", "cpu": 2, "memory": 512, "file": 1, "files": 32}'
        done = subprocess.run(
            [sys.executable, "-I", "-c", source],
            input=told % json.dumps(code),
            capture_output=True,
            text=True,
        )
        assert words in done.stdout and done.returncode == 1, done


@pytest.mark.parametrize("machine", guard.CALLS)
def test_the_filter_is_a_program(machine):
    """Every jump lands inside, each call is refused once, and the end allows."""
    lines = guard.program(machine)
    for place, (code, yes, no, _) in enumerate(lines):
        assert code != guard.EQUAL or place + 1 + max(yes, no) < len(lines)
    assert lines[-1] == (guard.RETURN, 0, 0, guard.ALLOW) and len(lines) < 4096
    numbers = [value for code, _, _, value in lines[4:] if code == guard.EQUAL]
    assert len(numbers) == len(set(numbers))


def test_a_verdict_needs_the_word():
    assert judged("secret\n", "secret", 0).passed
    assert not judged("secret\n", "other", 0).passed
    assert not judged("secret\n", "secret", 1).passed
    assert judged("", "secret", -11).why == "killed by SIGSEGV"
    assert judged("", "secret", -24).why == "timed out"


def test_bad_limits():
    with pytest.raises(BadInput, match="memory must be above 0"):
        Limits(memory=0)
