"""
Run a command that does not outlive the process which started it.

    python -I -S leash.py PARENT_PID UID GID COMMAND [ARGUMENT…]

Started as root it becomes UID and GID first, with no other groups. It replaces itself by the command, so that the
command's pid is the one that the parent got. It stands in a process of its own, and not in a `preexec_fn`, because code
between fork and exec may deadlock in a program with threads; it drops root by itself because the user need not be able
to reach this Python.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

# From linux/prctl.h.
_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """
    Become the user, tie the process to its parent, and become the command.

    The kernel sends SIGINT (PostgreSQL: fast shutdown; initdb: clean up and end) once the thread that started this has
    ended. Other systems than Linux have no such signal: there the next start finds and ends what was left behind.
    """
    parent, uid, gid, *command = arguments
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(int(gid))
        os.setuid(int(uid))
    os.umask(0o077)
    if sys.platform == "linux":
        # After setuid, which clears it.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGINT)
        if os.getppid() != int(parent):
            sys.exit("the process that started this has ended")
    os.execv(command[0], command)  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main(sys.argv[1:])
