"""Edits that change the length of a text, for networks whose vocabulary holds them.

Pure functions of one row. Tokens that are no edits keep their order.
"""

from collections.abc import Sequence


def expanded(
    tokens: Sequence[int], noisy: Sequence[bool], mask_id: int, expand_id: int, delete_id: int
) -> tuple[list[int], list[bool]]:
    """DreamOn (2026): a decided `expand` becomes two masks, a decided `delete` goes away."""
    row: list[tuple[int, bool]] = []
    for token, open_ in zip(tokens, noisy, strict=True):
        if open_ or token not in (expand_id, delete_id):
            row.append((token, open_))
        elif token == expand_id:
            row += [(mask_id, True)] * 2
    return [token for token, _ in row], [open_ for _, open_ in row]


def applied(
    block: Sequence[int], said: Sequence[int], mask_id: int, insert_id: int, delete_id: int
) -> list[int]:
    """LLaDA2.2: a block after one round of what the network says of each of its tokens.

    A token stands for itself, `delete` takes the old one away, `insert` keeps it and puts a mask
    before it. Then the block has its length again: cut, or with masks behind it.
    """
    row: list[int] = []
    for old, new in zip(block, said, strict=True):
        if new == insert_id:
            row += [mask_id, old]
        elif new != delete_id:
            row.append(new)
    return [*row, *[mask_id] * (len(block) - len(row))][: len(block)]
