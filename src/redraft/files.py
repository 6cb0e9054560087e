"""Files and folders that appear whole, under their name, or not at all."""

import fcntl
import os
import platform
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from redraft.errors import BadInput


@contextmanager
def replacing(out: Path) -> Iterator[Path]:
    """A temporary folder to fill, which takes the place of `out` unless an exception is raised.

    Also removes what earlier processes, killed meanwhile, have left. BadInput if there is no
    place to write.
    """
    sweep(out)
    part = out.parent / f"{temporary(out)}{os.getpid()}-{secrets.token_hex(4)}"
    try:
        part.mkdir(parents=True)
    except OSError as error:
        raise BadInput(f"{out}: cannot be written ({error.strerror})") from None
    try:
        yield part
        publish(part, out)
    finally:
        shutil.rmtree(part, ignore_errors=True)


@contextmanager
def replacing_file(out: Path) -> Iterator[Path]:
    """The name of a file to write, which takes the place of `out` unless an exception is raised."""
    part = out.with_name(f".{out.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        yield part
        sync(part)
        os.replace(part, out)
        sync(out.parent)
    except OSError as error:
        raise BadInput(f"{out}: cannot be written ({error.strerror or error})") from None
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def alone(out: Path) -> Iterator[None]:
    """Only one process at a time is inside, for all of the folder that `out` lies in."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(out.parent, os.O_RDONLY)
    except OSError as error:
        raise BadInput(f"{out}: cannot be written ({error.strerror})") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def publish(part: Path, out: Path) -> None:
    """Put a finished folder in its place, and the one that was there away.

    A folder that is not empty cannot be replaced in one step, so for an instant `out` is not
    there; both are then complete under their temporary names.
    """
    for path in (*part.iterdir(), part):
        sync(path)
    old = part.with_name(f"{part.name}-old")
    if out.exists():
        out.rename(old)
    try:
        part.rename(out)
    except OSError:
        if old.exists():
            old.rename(out)
        raise
    sync(out.parent)
    shutil.rmtree(old, ignore_errors=True)


def sync(path: Path) -> None:
    """Make a file or a folder outlive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def temporary(out: Path) -> str:
    """How the names of the temporary folders begin that this machine makes beside `out`."""
    return f".{out.name}.{platform.node()}-"


def sweep(out: Path) -> None:
    """Remove what processes that are no longer alive have left beside `out`."""
    found = os.listdir(out.parent) if out.parent.is_dir() else []
    for each in found:
        process = each.removeprefix(temporary(out)).partition("-")[0]
        if each.startswith(temporary(out)) and process.isdecimal() and not alive(int(process)):
            shutil.rmtree(out.parent / each, ignore_errors=True)


def alive(process: int) -> bool:
    """Whether a process of this machine still runs."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def write_text(path: Path, text: str) -> None:
    """Replace a file in one step: a reader sees the old text or the new one."""
    part = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        part.write_text(text, encoding="utf-8")
        sync(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    sync(path.parent)
