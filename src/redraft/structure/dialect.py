"""Python's regexes in the words of the library that compiles them, with the same meaning or less.

`\\d`, `\\w` and `\\s` are ASCII: the two do not agree on all letters of Unicode, and what is
written must match in both.
"""

from redraft.errors import BadInput

ASCII = {"d": "0-9", "w": "0-9A-Za-z_", "s": " \\t\\n\\r\\f\\v"}  # all agree on these
WIDE = {"d": r"\p{N}", "w": r"\w\p{N}\p{L}\p{M}", "s": r"\s\x1c-\x1f"}  # all that either means
SETS = ("&&", "--", "~~", "||")


def translated(regex: str) -> str:
    """The same regex. BadInput for what the two dialects read differently."""
    out: list[str] = []
    inside, negated, i, quantified = False, False, 0, False
    while i < len(regex):
        letter, two = regex[i], regex[i : i + 2]
        repeats = not inside and letter in "*+?}" and bool(out)
        if letter == "\\":
            out.append(escaped(two, inside, negated))
        elif inside and two in SETS:
            raise BadInput(f"the regex {shown(regex)} has {two} in a class: write it as \\{two[0]}")
        elif inside and letter == "[":
            out.append("\\[")
        elif quantified and letter == "+":
            raise BadInput(f"the regex {shown(regex)} has a possessive {two!r}: leave out the +")
        elif not inside and letter == "[":
            inside = True
            negated = two == "[^"
            head = "[^" if negated else "["
            out.append(head)
            i += len(head)
            if regex[i : i + 1] == "]":  # the first is a letter
                out.append("\\]")
                i += 1
            quantified = False
            continue
        else:
            inside = inside and letter != "]"
            out.append(letter)
        i += len(two) if letter == "\\" else 1
        quantified = repeats and letter != "\\"
    return "".join(out)


def escaped(two: str, inside: bool, negated: bool) -> str:
    """A backslash and its letter: a class holds no more than either dialect says."""
    letter = two[1:]
    if letter.lower() not in ASCII:
        return two
    least = (letter in ASCII) != (inside and negated)
    letters = (ASCII if least else WIDE)[letter.lower()]
    if letter in ASCII:
        return letters if inside else f"[{letters}]"
    return f"[^{letters}]"


def unanchored(regex: str) -> str:
    """Without a ^ in front and a $ behind, which say what holds anyway."""
    bare = regex.removeprefix("^")
    if bare.endswith("$"):
        slashes = len(bare) - 1 - len(bare[:-1].rstrip("\\"))
        bare = bare if slashes % 2 else bare[:-1]
    return regex if bare != regex and "|" in bare else bare


def shown(regex: str) -> str:
    """A regex as it is shown in one line."""
    return repr(regex if len(regex) <= 60 else regex[:57] + "...")


def complaint(error: str) -> str:
    """Why the library refused a regex, in few words."""
    if "NFA" in error:
        return "does not compile; references back and looks around are not regular"
    if "boundaries" in error:
        return "does not compile: word boundaries are not supported"
    if "anchored" in error:
        return "does not compile: it covers the whole text anyway, so leave out ^ and $"
    if "no transitions" in error:
        return "matches no text at all"
    return f"does not compile: {' '.join(error.split())[:200]}"
