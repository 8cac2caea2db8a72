"""What a PostgreSQL leaves behind when it, or the process that ran it, is killed: processes and a `postmaster.pid`."""

from __future__ import annotations

import signal
from contextlib import suppress
from pathlib import Path

import psutil
import structlog

# Fast shutdown of a healthy server writes a checkpoint first.
_FAST_S = 60.0
# Children notice at once that their postmaster is gone, unless they hang in a call to the disk.
_ORPHANS_S = 10.0
_KILL_S = 5.0

log = structlog.get_logger(__name__)


def end(cluster: Path) -> None:
    """
    End every server process that works on `cluster`, so that it can be opened or removed.

    The caller holds the folder's lock, so none of them belongs to a living `auditlog up`. A postmaster is shut down
    cleanly; children without one are waited for, then ended. A `postmaster.pid` whose number by now belongs to another
    process, as is common after a container's restart, is removed, since PostgreSQL would refuse to start.
    """
    processes = _working_on(cluster)
    recorded = _recorded_pid(cluster)
    if processes:
        log.warning("postgres_left_over", cluster=str(cluster), pids=[process.pid for process in processes])
    # Only a postmaster may get SIGINT: to a checkpointer without one it would mean a checkpoint.
    postmasters = [process for process in processes if process.pid == recorded]
    for number, patience_s in ((signal.SIGINT, _FAST_S), (signal.SIGQUIT, _ORPHANS_S)):
        postmasters = _remaining(postmasters, number, patience_s)
    processes = psutil.wait_procs(processes, timeout=_ORPHANS_S)[1]
    for number, patience_s in ((signal.SIGQUIT, _KILL_S), (signal.SIGKILL, _KILL_S)):
        processes = _remaining(processes, number, patience_s)
    if recorded is not None and psutil.pid_exists(recorded):
        (cluster / "postmaster.pid").unlink(missing_ok=True)


def _working_on(cluster: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        # All processes of a server stand in its data folder. Others' do not show their folder, ended ones have none.
        with suppress(psutil.Error):
            if process.name() == "postgres" and process.cwd() == str(cluster):
                found.append(process)
    return found


def _recorded_pid(cluster: Path) -> int | None:
    try:
        return int((cluster / "postmaster.pid").read_text(encoding="utf-8").split("\n", 1)[0])
    except (FileNotFoundError, ValueError):
        return None


def _remaining(processes: list[psutil.Process], number: signal.Signals, patience_s: float) -> list[psutil.Process]:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)
    return psutil.wait_procs(processes, timeout=patience_s)[1]
