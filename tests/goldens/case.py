"""A case of a folder of goldens: its arrays, its options, and whether numbers agree with it."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

NOTHING = -1e5  # log-probabilities below stand for minus infinity in the references
LOOSE = {"grad_norm": 1e-3}  # relative tolerances of its own


class NotOffered(Exception):
    """Why a case is not recomputed: not built yet, or a fault of a reference."""


NOT_BUILT = "not built yet"


@dataclass(frozen=True, eq=False)
class Case:
    """One case: `of` is the whole meta.json around it."""

    folder: Path
    name: str
    of: Mapping[str, Any]
    arrays: Mapping[str, Tensor]
    beside: Mapping[str, Tensor]  # all arrays of the folder, by their full names

    @property
    def about(self) -> Mapping[str, Any]:
        """What meta.json says of this case."""
        return self.of["cases"][self.name]

    @property
    def settings(self) -> dict[str, Any]:
        """The options, the folder's first."""
        return {**self.of.get("settings", {}), **self.about.get("settings", {})}

    @property
    def outputs(self) -> list[str]:
        """Names of the arrays to be recomputed."""
        return list(self.about["outputs"])

    @property
    def checkpoint(self) -> Path:
        """The folder of the network."""
        root = self.folder if self.of["kind"] == "architecture" else self.folder.parents[1]
        named = self.settings.get("checkpoint", self.of.get("checkpoint"))
        return self.folder if named is None else root / named

    @property
    def tolerance(self) -> tuple[float, float]:
        """Absolute and relative."""
        found = {**self.of.get("tolerance", {}), **self.about.get("tolerance", {})}
        return float(found.get("atol", 1e-4)), float(found.get("rtol", 1e-4))

    def __getitem__(self, name: str) -> Tensor:
        return self.arrays[name]

    def __contains__(self, name: str) -> bool:
        return name in self.arrays


def cases(root: Path) -> Iterator[Case | tuple[str, str]]:
    """Every case below a folder; for a family that cannot be read, its place and why."""
    for path in sorted(root.rglob("meta.json")):
        place = path.parent.relative_to(root).as_posix()
        try:
            of = json.loads(path.read_text(encoding="utf-8"))
            with np.load(path.parent / "io.npz") as file:
                arrays = {key: torch.from_numpy(file[key]) for key in file.files}
            names = list(of["cases"])
            for name in names:  # what every case must say
                of["cases"][name]["outputs"]
            of["kind"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            yield place, " ".join(f"{type(error).__name__}: {error}".split())
            continue
        for name in names:
            start = f"{name}__"
            mine = {
                key.removeprefix(start): value
                for key, value in arrays.items()
                if key.startswith(start)
            }
            yield Case(path.parent, name, of, mine, arrays)


def gap(case: Case, name: str, got: Tensor) -> tuple[float, bool]:
    """The largest absolute difference of an output, and whether it is within the tolerance."""
    want, got = case[name], torch.as_tensor(got).detach()
    if want.shape != got.shape:
        raise ValueError(f"{name} is {list(got.shape)}, not {list(want.shape)}")
    if not want.is_floating_point():
        off = (want.long() - got.long()).abs()
        return float(off.max()) if off.numel() else 0.0, bool((off == 0).all())
    atol, rtol = (1e-8, LOOSE[name]) if name in LOOSE else case.tolerance
    want, got = want.double(), got.double()
    padded = next((each for each in ("attention_mask", "pad_mask") if each in case), None)
    if case.of["kind"] == "architecture" and padded is not None:
        real = case[padded].bool()
        if want.shape[: real.ndim] == real.shape:
            want, got = want[real], got[real]
    if name == "probs" and "normalising" in case.of.get("conventions", ""):
        want, got = (x / x.sum(-1, keepdim=True) for x in (want, got))
    none = (got == -torch.inf) & (want < NOTHING)
    off = torch.where((want == got) | none, 0.0, (want - got).abs())
    within = off <= atol + rtol * want.abs()  # a NaN is never within
    return float(off.max()) if off.numel() else 0.0, bool(within.all())
