"""Run a verb on a cluster as a job: ``stm submit --address URL -- train --config something-v1-t8``.

The code of the working folder is sent (``stm.jobs.package``). The cluster's image contains the packages; with
``--install`` the nodes first install those of requirements.lock.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from pipelines.command import check
from pipelines.console import Result, logger
from pipelines.options import Address, Positive
from stm import __version__, ending
from stm.errors import UserError
from stm.jobs.package import MIB, commit_of, pack
from stm.plural import counted
from stm.storage import scratch

LOCK = "requirements.lock"


def submit(
    *command: str,
    name: str | None = None,
    detach: bool = False,
    exclude: list[str] = [],  # noqa: B006  (never changed)
    include: list[str] = [],  # noqa: B006
    max_mib: Positive = 50.0,
    install: bool = False,
    dry_run: bool = False,
    address: Address = None,
    json: bool = False,
) -> dict[str, Any]:
    """Run a command on a cluster as a job, with the code of this folder.

    Submitting the same name again continues its run. Unless --detach is given, the command follows the job to its end
    and exits with the job's status. With --json, `result` is the result of the job's command.

    Examples:
        stm submit --address http://127.0.0.1:8265 -- train --config something-v1-t8 --train.storage /shared/runs
        stm submit --name first --detach -- train --config mine.yaml --train.storage /shared/runs
        stm submit --dry_run -- train --config mine.yaml --train.storage /shared/runs
        stm jobs follow first

    Args:
        name: name of the job and of its run; null uses the run's name, or makes one from the command and the time
        detach: return when the job is accepted, without following its log
        exclude: files and folders to leave out, as .gitignore patterns; files that git ignores are never sent
        include: files to send even though they look like secrets (docs/security.md), as .gitignore patterns
        max_mib: largest size of the code, MiB
        install: install requirements.lock on the nodes for this job, from their package index, which takes minutes
        dry_run: check the command, list what would be sent, and send nothing
    """
    here = Path.cwd()
    with scratch() as folder:
        package = pack(here, folder / "code.zip", exclude, int(max_mib * MIB), include)
        job = check(list(command), name, package.files)
        pip = _locked(here) if install else None
        entrypoint = job.entrypoint(json)
        result: dict[str, Any] = {
            "name": job.name,
            "id": None,
            "address": None,
            "status": "NOT SENT",
            "exit_status": 0,
            "entrypoint": entrypoint,
            "num_files": len(package.files),
            "num_bytes": package.num_bytes,
            "result": None,
        }
        if dry_run:
            return {**result, "files": list(package.files), "left_out": package.left_out}
        from stm.jobs.client import JobServer

        server = JobServer(address)
        if server.shows_token_in_the_clear:
            logger.info(
                f"{server.address}: the token is sent unencrypted; use a tunnel or https to protect it"
            )
        _compare_ray(server.ray_version)
        logger.info(
            f"code of {here}: {counted(len(package.files), 'file')}, {package.num_bytes / MIB:.1f} MiB"
        )
        if job.elsewhere:
            logger.info(f"these paths must exist on the cluster: {', '.join(job.elsewhere)}")
        sent = server.submit(
            job.name, job.verb, entrypoint, package.path, pip, _metadata(here, pip is not None)
        )
    logger.info(f"job {sent.id} at {server.address}: {entrypoint}")
    result |= {"id": sent.id, "address": server.address}
    look = f"stm jobs follow {sent.id} --address {server.address}"
    if detach:
        logger.info(f"the job continues; to follow it: {look}")
        return {**result, "status": sent.status}
    ended = Result(result | follow(server, sent.id, look))
    return ended.ending_with(ended["exit_status"])


def follow(server: Any, id: str, look: str) -> dict[str, Any]:
    """Show a job's log on stderr until it ends, or Ctrl-C; return status, exit_status and the verb's result."""
    tail = ""

    def show(text: str) -> None:
        nonlocal tail
        tail = (tail + text)[-100_000:]
        sys.stderr.write(text)
        sys.stderr.flush()

    try:
        ended = server.follow(id, show)
    except KeyboardInterrupt as error:
        logger.info(
            f"\njob {id} continues; to follow it again: {look}\nto stop it: {look.replace('follow', 'stop', 1)}"
        )
        return {"status": "RUNNING", "exit_status": ending.status_of(error), "result": None}
    return {
        "status": ended.status,
        "message": ended.message,
        "exit_status": ended.exit_status,
        "result": _last_json(tail),
    }


def _last_json(text: str) -> Any:
    """Return the JSON object that a verb printed last, or None."""
    for line in reversed(text.splitlines()):
        if line.startswith("{") and line.endswith("}"):
            try:
                return json.loads(line)
            except ValueError:
                return None
    return None


def _locked(folder: Path) -> list[str]:
    """Return the pinned requirements of the lock file. Raises ``UserError`` if there is none."""
    lock = folder / LOCK
    if not lock.is_file():
        raise UserError(f"--install: there is no {LOCK} in {folder}")
    lines = (line.split("#", 1)[0].strip() for line in lock.read_text().splitlines())
    return [line for line in lines if line]


def _metadata(folder: Path, installed: bool) -> dict[str, str]:
    """Return metadata that record the code and the packages of a job."""
    lock = folder / LOCK
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()[:12] if lock.is_file() else ""
    return {
        "stm.version": __version__,
        "stm.commit": commit_of(folder),
        "stm.lock": digest,
        "stm.packages": "installed from the lock file" if installed else "of the image",
    }


def _compare_ray(there: str) -> None:
    from importlib.metadata import version

    here = version("ray")
    if here != there:
        logger.info(
            f"the cluster runs Ray {there} and this machine has {here}; the job runs with the cluster's version"
        )


def show(result: dict[str, Any]) -> str:
    if "files" in result:
        left_out = [f"not sent: {name}: {why}" for name, why in result["left_out"].items()]
        return "\n".join([*result["files"], *left_out, f"would run: {result['entrypoint']}"])
    more = f": {result['message']}" if result.get("message") else ""
    return f"job {result['id']} {result['status'].lower()}{more}"
