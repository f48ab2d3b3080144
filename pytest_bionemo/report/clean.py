"""What must not be in a report: values that are no JSON, and secrets."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

_SECRET_NAME = re.compile(r"((^|_)(TOKEN|(API|ACCESS)?KEY|SECRET|CREDENTIALS?)|PASSWORD|PASSWD)(_|$)", re.IGNORECASE)
_SHORTEST_SECRET = 8
# The forms of well-known tokens, wherever they come from.
_SECRET_FORM = re.compile(r"\b(?:hf_|nvapi-|ghp_|github_pat_|sk-|dapi|AKIA)[A-Za-z0-9_-]{12,}")
REDACTED = "[redacted]"
_USER = ("LOGNAME", "USER", "LNAME", "USERNAME")
# Names of images and of the system, which are parts of paths as well.
_NOBODY_IN_PARTICULAR = ("root", "user", "ubuntu", "ec2-user", "nobody", "jovyan", "nvidia")


def clean(document: Any, environment: Mapping[str, str] | None = None) -> Any:
    """A copy of a JSON-like value without secrets, and with numbers that JSON can hold.

    The values of environment variables whose names speak of secrets go, wherever they stand, and so do tokens of
    well-known forms; the home folder, which names the user, becomes ``~``, and the user's name in other paths
    ``USER``. NaN and infinities become text;
    what is no builtin becomes its ``str``.
    """
    hide = hider(os.environ if environment is None else environment)

    def walk(value: Any) -> Any:
        if isinstance(value, str):
            return hide(value)
        if isinstance(value, Mapping):
            return {hide(str(key)): walk(item) for key, item in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [walk(item) for item in value]
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int):
            return int(value)
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else str(value)
        return hide(str(value))

    return walk(document)


def speaks_of_a_secret(name: str) -> bool:
    """Whether a variable of this name holds a secret: HF_TOKEN, api_key."""
    return bool(_SECRET_NAME.search(name))


def hider(environment: Mapping[str, str]) -> Callable[[str], str]:
    """What hides the secrets of this environment in a text: see :func:`clean`."""
    secrets = sorted(
        (value for name, value in environment.items() if speaks_of_a_secret(name) and len(value) >= _SHORTEST_SECRET),
        key=len,
        reverse=True,
    )
    home = environment.get("HOME", "").rstrip("/")
    in_home = re.compile(re.escape(home) + r"(?=/|\s|$|['\":,;)])") if Path(home).name else None

    # As those look it up who name folders by it (getpass.getuser); a directory service is not asked.
    names = {environment.get(variable, "") for variable in _USER} - {"", *_NOBODY_IN_PARTICULAR}
    # A part of a path, or the end of one: /scratch/USER/x, /tmp/torchinductor_USER
    in_path = (
        re.compile(rf"(?<=/)((?:[\w.-]*_)?)(?:{'|'.join(map(re.escape, sorted(names)))})(?=/|\s|$|['\",;)]|:(?!:))")
        if names
        else None
    )

    def hide(text: str) -> str:
        for secret in secrets:
            text = text.replace(secret, REDACTED)
        text = _SECRET_FORM.sub(REDACTED, text)
        text = in_home.sub("~", text) if in_home else text
        return in_path.sub(r"\1USER", text) if in_path else text

    return hide
