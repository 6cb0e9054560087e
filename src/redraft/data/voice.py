"""How a checkpoint speaks: its tokenizer and its chat template, kept in a folder of their own."""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from redraft.data.chat import Chat
from redraft.data.tokenizer import Tokenizer, read_inner
from redraft.describe import read_json
from redraft.errors import BadInput
from redraft.files import replacing

HOME = Path("corpora/voices")  # under the working folder
NAME = "chat.json"  # beside tokenizer.json: the template, and which tokens mask and end


@dataclass(frozen=True, eq=False)
class Voice:
    """A tokenizer and a chat template; None stands for ChatML."""

    tokenizer: Tokenizer
    template: str | None = None

    @cached_property
    def chat(self) -> Chat:
        """What renders conversations."""
        names = {i: name for name, i in self.tokenizer.specials.items()}
        return Chat(self.tokenizer, self.template, eos=names.get(self.tokenizer.eos_id, ""))

    @classmethod
    def open(cls, folder: str | Path) -> "Voice":
        """What `write` wrote, or a folder in Hugging Face's layout. Raises BadInput."""
        folder = Path(folder)
        if not (folder / NAME).is_file():
            return cls(Tokenizer.load(folder), template_in(folder))
        told = read_json(folder / NAME)
        if not isinstance(told, dict):
            raise BadInput(f"{folder / NAME}: not an object")
        inner = read_inner(folder / "tokenizer.json")
        return cls(Tokenizer(inner, told.get("mask_id"), told.get("eos_id")), told.get("template"))

    def write(self, folder: Path) -> None:
        """Put both files into a folder."""
        self.tokenizer.save(folder / "tokenizer.json")
        ids = {"mask_id": self.tokenizer.mask_id, "eos_id": self.tokenizer.eos_id}
        told = ids | {"template": self.template}
        (folder / NAME).write_text(json.dumps(told, ensure_ascii=False, indent=2) + "\n")

    def kept(self, home: Path = HOME) -> Path:
        """A folder that holds this voice, named by what it is; written the first time."""
        own = self.tokenizer
        told = [own.inner.to_str(), own.mask_id, own.eos_id, self.template]
        out = home / hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]
        if not out.exists():
            with replacing(out) as part:
                self.write(part)
        return out


def template_in(folder: Path) -> str | None:
    """The chat template of a folder in Hugging Face's layout, None without one."""
    if (path := folder / "chat_template.jinja").is_file():
        return path.read_text(encoding="utf-8")
    for name in ("chat_template.json", "tokenizer_config.json"):
        if (path := folder / name).is_file():
            found = read_json(path)
            found = found.get("chat_template") if isinstance(found, dict) else None
            if found is not None:
                return one_of(found, path)
    return None


def one_of(found: Any, path: Path) -> str:
    """A template, or the one called default of several."""
    if isinstance(found, list):
        named = {each.get("name"): each.get("template") for each in found if isinstance(each, dict)}
        found = named.get("default")
    if not isinstance(found, str):
        raise BadInput(f"{path}: its chat_template is not text")
    return found
