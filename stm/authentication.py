"""Ray's token authentication, which is on for every cluster that stm starts unless ``STM_RAY_AUTH=off``.

Ray reads its mode from ``RAY_AUTH_MODE`` and its token from ``RAY_AUTH_TOKEN``, the file ``RAY_AUTH_TOKEN_PATH`` or
``~/.ray/auth_token``. Values that the user has set are not changed.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
import tempfile
from pathlib import Path

from stm.errors import UserError

SWITCH = "STM_RAY_AUTH"
MODE, TOKEN, TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"


def for_new_cluster() -> None:
    """Make the cluster that this process is about to start require a token; create the token if there is none.

    If other users can read the token file, their access is removed, because Ray 2.60 writes it readable by everyone.
    Raises ``UserError`` if the file cannot be read or ``STM_RAY_AUTH`` has an unknown value.
    """
    if not _on():
        _set_mode("disabled")
    elif os.environ.get(MODE, "token").lower() == "token":
        _make_token()
        _set_mode("token")


def for_joining() -> None:
    """Send the token, if there is one, to the cluster that this process is about to join."""
    if not _on():
        _set_mode("disabled")
    elif MODE not in os.environ and (os.environ.get(TOKEN) or token_path().is_file()):
        _set_mode("token")


def token_path() -> Path:
    """Return the path of the file that holds the token."""
    return Path(os.environ.get(TOKEN_PATH) or Path.home() / ".ray" / "auth_token")


def token() -> str | None:
    """Return the token that this process sends to a cluster, or None if it sends none."""
    if os.environ.get(MODE, "").lower() != "token":
        return None
    with contextlib.suppress(OSError, ValueError):
        return os.environ.get(TOKEN) or token_path().read_text().strip()
    return None


def _on() -> bool:
    said = os.environ.get(SWITCH, "on").lower()
    if said not in ("on", "off"):
        raise UserError(f"{SWITCH}={said}: use `on` (the default) or `off`")
    return said == "on"


def _set_mode(mode: str) -> None:
    if os.environ.get(MODE) == mode:
        return
    os.environ[MODE] = mode
    _refresh()


def _refresh() -> None:
    """Make Ray read its mode again if it has already been imported."""
    if "ray" in sys.modules:
        sys.modules["ray._raylet"].Config.initialize("")


def _make_token() -> None:
    if os.environ.get(TOKEN):
        return
    path = token_path()
    try:
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)
        return
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:  # another user's file, a file system without modes, ...
        if not os.access(path, os.R_OK):
            raise UserError(
                f"{path}: cannot read Ray's token ({error.strerror or error}). Name another file with {TOKEN_PATH}, "
                f"or start the cluster without a token: {SWITCH}=off"
            ) from error
        return
    token = secrets.token_hex(32)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent)  # mkstemp: 0600 from the start
        try:
            with os.fdopen(handle, "w") as file:
                file.write(token)
            with contextlib.suppress(FileExistsError):  # another process was first: use its token
                os.link(temporary, path)
        finally:
            os.unlink(temporary)
    except OSError:  # the home cannot be written: a token for this process and its children only
        os.environ[TOKEN] = token
