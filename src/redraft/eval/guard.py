"""The other side of `sandbox`: run as a program, it locks itself in and then runs the code.

It imports nothing of redraft, so that it starts fast and holds nothing worth having.
"""

import ctypes
import json
import os
import platform
import resource
import struct
import sys

# Numbers of system calls: x86-64, arm64. What is refused with "not permitted".
CALLS = {
    "x86_64": {
        "make": (56, 57, 58, 435),  # clone, fork, vfork, clone3
        "net": (41, 42, 43, 44, 46, 49, 50, 53, 288),
        "signal": (62, 129, 200, 234, 297, 424),
        "other": (101, 165, 155, 161, 272, 308, 310, 311, 321, 425, 426, 427, 428, 442),
        "change": (
            *(76, 77, 82, 83, 84, 85, 86, 87, 88, 90, 91, 92, 93, 94, 132, 133, 188, 235),
            *(258, 259, 260, 261, 263, 264, 265, 266, 268, 280, 316, 437, 452),
        ),
        "open": 2,
        "openat": 257,
    },
    "aarch64": {
        "make": (220, 435),
        "net": (198, 199, 200, 201, 202, 203, 206, 211, 242),
        "signal": (129, 130, 131, 138, 240, 424),
        "other": (117, 40, 41, 51, 97, 268, 270, 271, 280, 425, 426, 427, 428, 442),
        "change": (33, 34, 35, 36, 37, 38, 45, 46, 52, 53, 54, 55, 5, 88, 276, 437, 452),
        "open": None,
        "openat": 56,
    },
}
ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
LOAD, EQUAL, ANY, RETURN = 0x20, 0x15, 0x45, 0x06  # of a classic BPF program
ALLOW, REFUSE, KILL = 0x7FFF0000, 0x00050001, 0x80000000
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def program(machine: str) -> list[tuple[int, int, int, int]]:
    """The filter: (code, jump if true, jump if false, value)."""
    calls = CALLS[machine]
    refused = sorted(n for key in ("make", "net", "signal", "other", "change") for n in calls[key])
    lines = [(LOAD, 0, 0, 4), (EQUAL, 1, 0, ARCH[machine]), (RETURN, 0, 0, KILL), (LOAD, 0, 0, 0)]
    if machine == "x86_64":  # the x32 calls have numbers of their own
        lines += [(0x35, 0, 1, 0x40000000), (RETURN, 0, 0, KILL)]
    for number in refused:
        lines += [(EQUAL, 0, 1, number), (RETURN, 0, 0, REFUSE)]
    for number, flags in ((calls["open"], 24), (calls["openat"], 32)):
        if number is not None:
            lines += [
                (EQUAL, 0, 4, number),
                (LOAD, 0, 0, flags),
                (ANY, 0, 1, WRITING),
                (RETURN, 0, 0, REFUSE),
                (RETURN, 0, 0, ALLOW),
            ]
    return [*lines, (RETURN, 0, 0, ALLOW)]


def locked() -> bool:
    """Lock this process in by the kernel, if that is possible; there is no way back."""
    machine = platform.machine()
    if sys.platform != "linux" or machine not in CALLS:
        return False
    lines = program(machine)
    code = b"".join(struct.pack("HBBI", *line) for line in lines)
    held = ctypes.create_string_buffer(code)
    length = struct.pack("HxxxxxxQ", len(lines), ctypes.addressof(held))
    libc = ctypes.CDLL(None, use_errno=True)
    no_new_privileges, set_filter, mode = 38, 22, 2
    if libc.prctl(no_new_privileges, 1, 0, 0, 0):
        return False
    return libc.prctl(set_filter, mode, ctypes.c_char_p(length), 0, 0) == 0


def refuse(event: str, args: tuple) -> None:
    """The same by Python's own events, where the kernel cannot."""
    writing = event == "open" and (
        (isinstance(args[1], str) and set(args[1]) & set("wax+"))
        or (isinstance(args[2], int) and args[2] & WRITING)
    )
    kinds = ("socket.", "subprocess.", "shutil.", "ctypes.")
    changes = (
        *("os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn"),
        *("os.kill", "os.killpg", "os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.chmod"),
        *("os.chown", "os.link", "os.symlink", "os.truncate", "os.utime", "signal.pthread_kill"),
    )
    if writing or event in changes or event.startswith(kinds):
        raise PermissionError(f"{event} is not allowed here")


def limit(told: dict) -> None:
    """Set the limits of this process."""
    mega = 1 << 20
    resource.setrlimit(resource.RLIMIT_CPU, (told["cpu"], told["cpu"] + 1))  # a signal, then death
    limits = {
        resource.RLIMIT_AS: told["memory"] * mega,
        resource.RLIMIT_FSIZE: told["file"] * mega,
        resource.RLIMIT_NOFILE: told["files"],
        resource.RLIMIT_CORE: 0,
    }
    for kind, most in limits.items():
        resource.setrlimit(kind, (most, most))


def main() -> None:
    """Read what is to be run, lock the door, run it, say how it ended."""
    told = json.load(sys.stdin)
    answer = os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nothing, number)
    limit(told)
    strict = locked()
    if not strict:
        sys.addaudithook(refuse)
    word = told.pop("word")
    space = {"__name__": "__main__", "__builtins__": {**vars(__import__("builtins"))}}
    space["__builtins__"]["GUARDED"] = strict
    try:
        exec(compile(told.pop("code"), "program", "exec"), space)
        said = word
    except BaseException as error:
        text = " ".join(str(error).split())
        said = f"error {type(error).__name__}: {text}"
    os.write(answer, f"{said[:1000]}\n".encode(errors="replace"))
    os._exit(0 if said == word else 1)


if __name__ == "__main__":
    main()
