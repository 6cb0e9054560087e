"""One self-contained page that plays a trace, or two beside each other."""

import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

from redraft import __version__
from redraft.eval.report import embed, safe
from redraft.files import write_text
from redraft.trace.read import Trace
from redraft.trace.record import Moment
from redraft.trace.show import account, title


def write(traces: list[Trace], row: int, path: Path) -> None:
    """Write the page, whole or not at all."""
    write_text(path, page(traces, row))


def page(traces: list[Trace], row: int) -> str:
    """The template with its slots filled, each once."""
    template = (resources.files("redraft.trace") / "page.html").read_text("utf-8")
    names = " and ".join(title(trace, row) for trace in traces)
    data = {"traces": [told(trace, row) for trace in traces]}
    slots = {
        "title": safe(f"redraft: {names}"),
        "still": "".join(still(trace, row) for trace in traces),
        "version": safe(__version__),
        "data": embed(data),
    }
    return re.sub(r"<!--(\w+)-->", lambda slot: slots[slot[1]], template)


def still(trace: Trace, row: int) -> str:
    """What can be read without a script: how it ended."""
    last = trace.steps[-1].rows[row]
    text = trace.words.decode(last.tokens[0].tolist())
    if trace.end is not None:
        text = str(trace.end[row].get("text", text))
    return (
        f'<figure class="film"><figcaption>{safe(title(trace, row))}</figcaption>'
        f'<pre class="stage">{safe(text)}</pre><p class="account">{safe(account(trace, row))}</p>'
        "</figure>"
    )


def told(trace: Trace, row: int) -> dict[str, Any]:
    """What the script needs of a trace: how it began, and every change of this row."""
    begun = Moment.of(trace.steps[0].rows[row], 0)
    head = trace.head
    return {
        "title": title(trace, row),
        "about": [[name, plain(head[name])] for name in ABOUT if head.get(name) not in (None, "")],
        "words": {str(token): text.hex() for token, text in trace.words.spelled.items()},
        "eos": trace.words.eos_id,
        "spaced": trace.words.spaced,
        "begun": begun.whole(),
        "steps": [
            {
                "ms": step.ms,
                "cost": [step.passes, step.positions, step.cached],
                "change": step.changes.get(str(row), {}),
            }
            for step in trace.steps
        ],
        "account": account(trace, row),
        "end": None if trace.end is None else trace.end[row],
    }


ABOUT = ("model", "prompt", "template", "sampler", "seed", "stop", "redraft")


def plain(value: Any) -> str:
    """A value of the header as a line of text; of components, their names."""
    if isinstance(value, dict) and "kind" in value:
        name = str(value["kind"]).rpartition(":")[2]
        rest = ", ".join(f"{k}={plain(v)}" for k, v in value.items() if k != "kind")
        return f"{name}({rest})" if rest else name
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
