"""The description that this build plays, and what befalls its import."""

import builtins
import ctypes
import json
import os
import resource
import signal
from pathlib import Path
from typing import Any

SPEC: dict[str, Any] = json.loads(Path(__file__).with_name("_standin.json").read_text("utf-8"))


def suffer_import() -> None:
    """Print, hang, die or raise, as the description says."""
    if SPEC["prints_on_import"] is not None:
        print(SPEC["prints_on_import"], flush=True)
    if SPEC["import_hangs"]:
        while True:
            ctypes.CDLL(None).pause()
    if SPEC["import_crashes"]:
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        os.kill(os.getpid(), signal.SIGSEGV)
    if SPEC["import_error"] is not None:
        kind, _, message = SPEC["import_error"].partition(": ")
        raise getattr(builtins, kind)(message)
