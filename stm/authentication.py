"""The token that every process of a Ray cluster shows: on for each cluster started here, unless switched off.

Ray reads its mode from ``RAY_AUTH_MODE`` and its token from ``RAY_AUTH_TOKEN``, the file ``RAY_AUTH_TOKEN_PATH`` or
``~/.ray/auth_token``. What the user has set there wins; ``STM_RAY_AUTH=off`` switches it off.
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
    """Make the cluster that this process is about to start ask for a token, which is created if there is none.

    A token file that other users may read is closed to them, since Ray 2.60 writes it readable to all.
    """
    if not _on():
        _set_mode("disabled")
    elif os.environ.get(MODE, "token").lower() == "token":
        _make_token()
        _set_mode("token")


def for_joining() -> None:
    """Send the token, if there is one, to the cluster that this process is about to connect to."""
    if not _on():
        _set_mode("disabled")
    elif MODE not in os.environ and (os.environ.get(TOKEN) or token_path().is_file()):
        _set_mode("token")


def token_path() -> Path:
    """The file that holds the token."""
    return Path(os.environ.get(TOKEN_PATH) or Path.home() / ".ray" / "auth_token")


def token() -> str | None:
    """What this process shows to a cluster; None where it shows nothing."""
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
    """Have Ray read its mode anew, where it is imported and has read it already."""
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
    except OSError as error:  # of another user, on a file system without modes, ...
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
            with contextlib.suppress(FileExistsError):  # another process was first: its token it is
                os.link(temporary, path)
        finally:
            os.unlink(temporary)
    except (
        OSError
    ):  # a home that cannot be written: a token for this process and its children alone
        os.environ[TOKEN] = token
