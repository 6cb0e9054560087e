"""Code that nobody has read, run in a process of its own with nothing to gain.

On Linux (x86-64 and arm64) a seccomp filter refuses other processes, sockets, signals to others,
opening files for writing and changing them; elsewhere Python itself refuses them, which code that
means harm can get round. Everywhere: limits on processor time, memory, file size and open files,
a temporary folder, and the end of the whole process group when time is up.
"""

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from redraft.errors import BadInput

GUARD = Path(__file__).with_name("guard.py")
SHOWN = 300  # characters of an error


@dataclass(frozen=True)
class Limits:
    """What code may use."""

    seconds: float = 5.0  # on the clock
    cpu: int = 5  # seconds of a processor
    memory: int = 512  # MiB of addresses
    file: int = 1  # MiB of a file
    files: int = 32  # open at once

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not value > 0:
                raise BadInput(f"{name} must be above 0, not {value}")


@dataclass(frozen=True)
class Outcome:
    """How it went. Only code that ran to its end has passed; leaving early is none."""

    passed: bool
    why: str  # passed, timed out, killed by a signal, or the error


def execute(code: str, limits: Limits = Limits()) -> Outcome:
    """Run a program and say whether it came to its end without an error."""
    word = secrets.token_hex(16)  # said at the end by the guard, and not by an early exit
    told = json.dumps({"code": code, "word": word, **asdict(limits)})
    with tempfile.TemporaryDirectory(prefix="redraft-") as folder:
        process = subprocess.Popen(
            [sys.executable, "-I", "-B", str(GUARD)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={"PATH": os.defpath, "HOME": folder, "TMPDIR": folder},
            start_new_session=True,
        )
        try:
            said, _ = process.communicate(told.encode(), timeout=limits.seconds)
        except subprocess.TimeoutExpired:
            return Outcome(False, "timed out")
        finally:
            finish(process)
    return judged(said.decode(errors="replace"), word, process.returncode)


def finish(process: subprocess.Popen) -> None:
    """End a process and all that it has started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            try:
                pipe.close()
            except OSError:
                pass


def judged(said: str, word: str, code: int) -> Outcome:
    """What the guard said, and how its process ended."""
    last = said.rstrip("\n").rpartition("\n")[2]
    if code == 0 and last == word:
        return Outcome(True, "passed")
    if code < 0:
        name = signal.Signals(-code).name
        return Outcome(False, "timed out" if name == "SIGXCPU" else f"killed by {name}")
    return Outcome(False, last.removeprefix("error ")[:SHOWN] or "left before its end")


def holds() -> str:
    """What this machine refuses to code, in words. Asks it."""
    if execute("").why != "passed":
        return "no code can be run here"
    probe = "import json, sys\nassert not __import__('builtins').GUARDED"
    strict = not execute(probe).passed
    how = "by the kernel (seccomp)" if strict else "by Python only, which is no wall"
    return f"no other processes, no network, no writing of files: {how}"
