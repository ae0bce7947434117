"""Which process of this machine somebody is, and whether it still lives."""

import os
import socket


def boot_id() -> str:
    """Name this boot of the machine: monotonic times of another one mean nothing."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return "unknown"


def member_name() -> str:
    """Name a member so that others on this machine can tell whether it is alive; `:` and a label may follow."""
    pid = os.getpid()
    return f"{_pid_namespace()}:{pid}:{_started(pid)}:{os.urandom(4).hex()}"


def label(member: str) -> str:
    """What a member calls itself: its label, or the whole name without one."""
    return member.split(":", 4)[4] if member.count(":") >= 4 else member


def is_alive(member: str) -> bool:
    """Tell whether a member may be alive; False only when it is known to be dead."""
    namespace, *rest = member.split(":")
    if namespace != _pid_namespace() or len(rest) < 3 or not rest[0].isdecimal():
        return True
    return _started(int(rest[0])) == rest[1]


def _pid_namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid").strip("pid:[]")
    except OSError:
        return socket.gethostname()


def _started(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
        # A zombie holds its number, but will never settle anything again.
        return "" if fields[0] in "ZX" else fields[19]
    except (OSError, IndexError):
        return ""
