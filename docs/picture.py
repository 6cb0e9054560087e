"""The picture in the README, drawn by the program: three moments of one canvas.

python docs/picture.py runs/demo/diffusion docs/live.svg
"""

import sys
from pathlib import Path

import redraft
from redraft.files import write_text
from redraft.view import frames, svg

checkpoint, out = sys.argv[1:]
model = redraft.load(checkpoint)
shown = list(frames(model.stream("ROMEO.\n", length=72, seed=4), model.tokenizer))
moments = [shown[len(shown) * part // 20] for part in (3, 10)] + [shown[-1]]
write_text(Path(out), svg(moments, "redraft generate --live"))
