"""Run a program that must not outlive the bench: ``die_with_parent.py PARENT_PID PROGRAM [ARGUMENT …]``.

Asks the kernel to kill this process when the thread that started it ends, which also happens when the
bench is killed with SIGKILL, and becomes the program (the request survives exec). Started as a script of its
own because code between fork and exec is not safe in a process with threads.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # include/uapi/linux/prctl.h


def main() -> None:
    """Never returns: becomes the program, or exits with 127 and a sentence on standard error."""
    parent, command = int(sys.argv[1]), sys.argv[2:]
    # A signal to the terminal's foreground group (Ctrl-C) is for the bench, which then switches off in order.
    os.setpgid(0, 0)
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:  # it ended before we asked
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.stderr.write(f"{command[0]}: {error.strerror}\n")
        sys.exit(127)


if __name__ == "__main__":
    main()
