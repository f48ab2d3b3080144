"""What must not be in a report: values that are no JSON, and secrets."""

from __future__ import annotations

import functools
import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

_SECRET_NAME = re.compile(r"((^|_)(TOKEN|(API|ACCESS)?KEY|SECRET|CREDENTIALS?)|PASSWORD|PASSWD)(_|$)", re.IGNORECASE)
_SHORTEST_SECRET = 8
# DB_KEY=customers names a column. A password may be a word, and a random one of small letters is longer than that.
_NAMES_NO_SECRET = re.compile(r"KEY(_|$)", re.IGNORECASE)
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")
_LONGEST_WORD = 11
# The forms of well-known tokens, wherever they come from.
_SECRET_FORM = re.compile(r"\b(?:hf_|nvapi-|ghp_|github_pat_|sk-|dapi|AKIA)[A-Za-z0-9_-]{12,}")
REDACTED = "[redacted]"
_USER = ("LOGNAME", "USER", "LNAME", "USERNAME")
# Names of images and of the system, which are parts of paths as well.
_NOBODY_IN_PARTICULAR = ("root", "user", "ubuntu", "ec2-user", "nobody", "jovyan", "nvidia")


def clean(document: Any, environment: Mapping[str, str] | None = None) -> Any:
    """A copy of a JSON-like value without secrets, and with numbers that JSON can hold.

    The values of environment variables whose names speak of secrets go, wherever they stand, and so do tokens of
    well-known forms. A value that is a word of the report itself, such as ``packages``, stays, as hiding it would
    break the report, and so does a short plain word in a variable that ends in KEY. The home folder, which names the
    user, becomes ``~``, and the user's name in other paths ``USER``. NaN and infinities become text; what is no
    builtin becomes its ``str``.
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


def _is_secret(name: str, value: str) -> bool:
    if not speaks_of_a_secret(name) or len(value) < _SHORTEST_SECRET or value in _own_words():
        return False
    is_word = len(value) <= _LONGEST_WORD and _WORD.fullmatch(value)
    return not (is_word and _NAMES_NO_SECRET.search(name))


@functools.cache
def _own_words() -> str:
    """The text in which every word stands that is the report's own: its schema, and the names of the topics."""
    package = Path(__file__).parents[1]
    topics = [path.stem for path in package.joinpath("checks").glob("*.py")]
    return "\n".join([package.joinpath("report", "schema.json").read_text(encoding="utf-8"), *topics])


def hider(environment: Mapping[str, str]) -> Callable[[str], str]:
    """What hides the secrets of this environment in a text: see :func:`clean`."""
    secrets = sorted(
        {
            part
            for name, value in environment.items()
            # A traceback puts something before every line of a private key.
            for part in (value, *map(str.strip, value.splitlines()))
            if _is_secret(name, part)
        },
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
