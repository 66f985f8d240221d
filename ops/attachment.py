"""A process that must not outlive the one that started it: no orphans when a supervisor is killed."""

from __future__ import annotations

import os
import signal
import threading
from time import sleep

LOOK_EVERY_S = 1.0


def end_with_parent() -> None:
    """From now on SIGTERM ourselves, and so drain, when our parent process is gone."""
    threading.Thread(target=_watch, args=(os.getppid(),), name="parent", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        sleep(LOOK_EVERY_S)
    os.kill(os.getpid(), signal.SIGTERM)
