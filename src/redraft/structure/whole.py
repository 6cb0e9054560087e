"""Whole numbers between two bounds, as a regex over their digits."""

from math import ceil, floor

from redraft.errors import BadInput

Number = int | float | None


def between(low: Number, high: Number, above: Number = None, below: Number = None) -> str:
    """Numbers from `low` to `high`, and more than `above`, and less than `below`."""
    lows = [] if low is None else [ceil(low)]
    lows += [] if above is None else [floor(above) + 1]
    highs = [] if high is None else [floor(high)]
    highs += [] if below is None else [ceil(below) - 1]
    least, most = max(lows, default=None), min(highs, default=None)
    if least is not None and most is not None and least > most:
        raise BadInput("the schema has an integer between bounds that leave none")
    parts = []
    if least is None or least < 0:
        low_size = 1 if most is None or most >= 0 else -most
        parts += [f"-{part}" for part in positive(low_size, None if least is None else -least)]
    if (least is None or least <= 0) and (most is None or most >= 0):
        parts.append("0")
    if most is None or most > 0:
        parts += positive(1 if least is None else max(1, least), most)
    return f"(?:{'|'.join(parts)})"


def positive(low: int, high: int | None) -> list[str]:
    """Numbers from `low`, which is at least 1, to `high`."""
    size = len(str(low))
    if high is None:
        return [*same_size(low, 10**size - 1), rf"[1-9]\d{{{size},}}"]
    if low > high:
        return []
    parts = []
    while len(str(low)) < len(str(high)):
        parts += same_size(low, 10 ** len(str(low)) - 1)
        low = 10 ** len(str(low))
    return [*parts, *same_size(low, high)]


def same_size(low: int, high: int) -> list[str]:
    """Numbers between two that have as many digits."""
    return padded(str(low), str(high))


def padded(low: str, high: str) -> list[str]:
    """Strings of digits between two that are as long."""
    rest = len(low) - 1
    if rest < 0:
        return [""]
    if low == "0" * len(low) and high == "9" * len(low):
        return [digits(rest + 1)]
    if low[0] == high[0]:
        return [low[0] + part for part in padded(low[1:], high[1:])]
    first, last = int(low[0]), int(high[0])
    parts = []
    if low[1:] != "0" * rest:
        parts += [low[0] + part for part in padded(low[1:], "9" * rest)]
        first += 1
    ends = []
    if high[1:] != "9" * rest:
        ends = [high[0] + part for part in padded("0" * rest, high[1:])]
        last -= 1
    if first <= last:
        parts.append(f"[{first}-{last}]{digits(rest)}")
    return parts + ends


def digits(n: int) -> str:
    """Any n digits."""
    return rf"\d{{{n}}}" if n else ""
