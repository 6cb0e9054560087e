"""Metrics: a JSON line a step, and TensorBoard if it is wanted."""

import json
import math
from pathlib import Path
from typing import Any

from redraft.errors import BadInput
from redraft.files import write_text


class Metrics:
    """OUT/metrics.jsonl, cut back to `step` first, so that a resumed run repeats no line."""

    def __init__(self, out: Path, step: int, tensorboard: bool = False):
        self.path = out / "metrics.jsonl"
        kept = [line for line in read(self.path) if line["step"] <= step]
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in kept))
        self.file = self.path.open("a", encoding="utf-8")
        self.board = board(out, step) if tensorboard else None

    def write(self, line: dict[str, Any]) -> None:
        """One line; NaN becomes null, which JSON has."""
        line = {key: finite(value) for key, value in line.items()}
        self.file.write(json.dumps(line) + "\n")
        self.file.flush()
        if self.board is not None:
            for key, value in line.items():
                many = value if isinstance(value, list) else [value]
                for i, each in enumerate(many):
                    name = f"{key}/{i}" if isinstance(value, list) else key
                    if isinstance(each, int | float) and key != "step":
                        self.board.add_scalar(name, each, line["step"])

    def close(self) -> None:
        """Flush and close."""
        self.file.close()
        if self.board is not None:
            self.board.close()


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file; a last line that a kill cut off is dropped."""
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


def finite(value: Any) -> Any:
    """JSON has no NaN."""
    if isinstance(value, list):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def board(out: Path, step: int):
    """A TensorBoard writer that goes on after `step`. Raises BadInput without the extra."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise BadInput("tensorboard=True needs `pip install redraft[track]`") from None
    return SummaryWriter(str(out / "tensorboard"), purge_step=step + 1)
