"""Published packages, downloaded by pip so that the user's index, proxy and cache hold."""

import hashlib
import subprocess
import sys
from pathlib import Path

from redraft.errors import BadInput


def download(name: str, version: str, sha256: str, folder: Path, wheel: bool) -> Path:
    """The archive of one release, or its wheel, in a folder. BadInput with pip's own reason.

    To read an archive's metadata pip runs code from it. Told the hash, pip first makes sure
    that it is the archive we know.
    """
    wanted = folder / "requirement.txt"
    wanted.write_text(f"{name}=={version} --hash=sha256:{sha256}\n")
    command = "download --disable-pip-version-check --no-input --retries 2 --no-deps".split()
    command += ["--only-binary" if wheel else "--no-binary", name, "--dest", str(folder)]
    done = subprocess.run(
        [sys.executable, "-m", "pip", *command, "--requirement", str(wanted)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    for found in folder.glob("*.whl" if wheel else f"{name}-{version}.tar.gz"):
        return found
    lines = [line for line in done.stderr.splitlines() if line.strip()] or ["no reason given"]
    reason = next((line for line in lines if line.startswith("ERROR:")), lines[-1])
    raise BadInput(f"pip could not download {name}-{version}: {reason.strip()}")


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
