"""Agreement with the reference implementations: `make verify GOLDENS=FOLDER`.

A folder of goldens holds what public projects computed from random weights and stored draws: a
`meta.json` and an `io.npz` a case family, checkpoints beside them. Every case is recomputed by
redraft's own processes, objectives, samplers and networks. What lives here only translates: the
references' option names, their times (t on [eps, 1], sigma for t), and the draws they stored.
"""
