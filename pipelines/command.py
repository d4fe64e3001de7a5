"""Check the command of a job before it is sent to a cluster: its verb, its settings, its paths.

The verb's own parser reports a wrong setting at once, instead of a machine in a cloud minutes later.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Collection, Iterator
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.cli import module_of
from pipelines.options import Options
from pipelines.words import read
from stm.config import Config
from stm.errors import UserError
from stm.redaction import redact, secrets_in
from stm.storage import is_url

if TYPE_CHECKING:
    from stm.tune.settings import Sweep

HERE = ("submit", "jobs")
"""Verbs that talk to a cluster's job server, and so cannot be a job themselves."""

_READ = {
    "data.train", "data.val", "data.root", "model.pretrained", "model.plugin", "plugin", "checkpoint", "manifest",
    "manifests", "root", "annotations", "videos", "fuse", "augment", "motion_check", "pairs",
}  # fmt: skip
_WRITTEN = {"train.storage", "output"}


@dataclass(frozen=True)
class Command:
    """A verb and its arguments, which have been checked."""

    verb: str
    arguments: list[str]
    name: str
    """Name of the job, and of the run or sweep if the verb starts one."""
    elsewhere: list[str]
    """`--setting PATH` for each absolute path, which only the cluster can check."""

    def entrypoint(self, json: bool = False) -> str:
        """Return the shell command that runs this verb on the cluster."""
        words = ["python", "-m", "stm", self.verb, *self.arguments, "--address", "auto"]
        return shlex.join([*words, *(["--json"] if json and "--json" not in words else [])])


def check(words: list[str], name: str | None, sent: Collection[str]) -> Command:
    """Check the command ``words`` (a verb, then its options) as a job; ``sent`` are the files that are sent with it.

    Raises ``UserError`` for anything that will not work on the cluster, with the verb's own message for a wrong option.
    """
    verb, arguments = _verb(words), words[1:]
    _refuse_secrets(arguments)
    module = module_of(verb, "only stm's verbs can be submitted, and {verb!r} is not one")
    try:
        call = read(Options.of(module), arguments)
    except UserError as error:
        raise UserError(f"stm {verb}: {error}") from None
    given = dict(call.keywords)
    if "address" not in given:
        raise UserError(f"stm {verb} uses no cluster: run it here")
    if given["address"] is not None:
        raise UserError(
            f"--address {given['address']}: a job runs on the cluster that it is submitted to; give --address once, "
            "before the --"
        )
    sweep = _sweep(given) if verb == "tune" else None
    config = sweep.base if sweep else given.get("config")
    if verb == "explain":  # it uses only the settings of data, and trains nothing
        config = None
        given |= _flat({"data": asdict(given.pop("config").data)})
    settings = dict(_settings(given))
    if config is not None:
        settings |= dict(_flat(config.to_dict()))
        _check_config(config)
        from stm.checkpoint.pretrained import check_name

        check_name(config.model)
    if found := secrets_in(settings):
        raise UserError(_secret(f"--{found[0]}"))
    for option, value in call.given:
        if option == "config":
            _check_config_file(str(value), sent)
    elsewhere = _check_paths(settings, sent, verb)
    name, more = _name(verb, name, sweep, config)
    return Command(verb, [*arguments, *more], name, elsewhere)


def _verb(words: list[str]) -> str:
    usage = "give the command after --, as in `stm submit -- train --config something-v1-t8`"
    if not words:
        raise UserError(f"there is no command: {usage}")
    verb = words[0]
    if verb in ("stm", "python", "python3"):
        raise UserError(f"{verb!r} is not a verb of stm: {usage}")
    if verb in HERE:
        raise UserError(
            f"stm {verb} talks to a cluster's job server and cannot be a job itself: run it here"
        )
    return verb


def _sweep(given: dict[str, Any]) -> Sweep:
    from pipelines.tune import sweep_of

    return sweep_of(given["config"], given["name"], given["set"], given["root"])


def _settings(given: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the dotted name of every option, and its value."""
    for name, value in given.items():
        if is_dataclass(value):
            yield from _flat(asdict(value))  # type: ignore[arg-type]
        elif name != "config":
            yield name, value


def _flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _check_config(config: Config) -> None:
    from stm.tracking import tracking_uri

    uri = config.tracking.uri or ""
    if uri.startswith("sqlite:///") and not uri.startswith("sqlite:////"):
        raise UserError(
            f"--tracking.uri {uri}: the path is relative, and a job's folder is deleted when the job ends; "
            "write sqlite:////ABSOLUTE/PATH, or the address of an MLflow server"
        )
    tracking_uri(config.tracking, config.train.storage)


def _check_config_file(value: str, sent: Collection[str]) -> None:
    """Check that a ``--config`` file is among the files that are sent; recipes and samples come with stm."""
    path = Path(value)
    if is_url(value) or not path.is_file():
        return
    if path.is_absolute():
        raise UserError(
            f"--config {value}: the cluster cannot read this disk; give a path relative to this folder"
        )
    if _within(value) not in sent:
        raise UserError(_not_sent("config", value))


def _check_paths(settings: dict[str, Any], sent: Collection[str], verb: str) -> list[str]:
    from stm.checkpoint.pretrained import is_path

    folders = {str(parent) for name in sent for parent in Path(name).parents}
    elsewhere = []
    for key in sorted(settings.keys() & (_READ | _WRITTEN)):
        values = settings[key] if isinstance(settings[key], list) else [settings[key]]
        for value in values:
            if not isinstance(value, str) or not value or is_url(value):
                continue
            if key == "model.pretrained" and not is_path(value):
                continue
            if Path(value).is_absolute():
                elsewhere.append(f"--{key} {value}")
            elif key in _WRITTEN:
                raise UserError(
                    f"--{key} {value}: the path is relative, and a job's folder is deleted when the job ends, with "
                    f"what {verb} writes into it. Give a folder that every node shares, or a URL"
                )
            elif (inside := _within(value)) not in sent and inside not in folders:
                raise UserError(_not_sent(key, value))
    return elsewhere


def _within(value: str) -> str | None:
    """Return a relative path as the package contains it, or None if it leads out of the project."""
    here = Path.cwd().resolve()
    path = (here / value).resolve()
    return path.relative_to(here).as_posix() if path.is_relative_to(here) else None


def _not_sent(key: str, value: str) -> str:
    state = "is not among the files that are sent" if Path(value).exists() else "does not exist"
    return (
        f"--{key} {value}: {state} (`stm submit --dry_run` lists them), so the job would not find it. "
        "Give an absolute path on the cluster's nodes, or a URL"
    )


def _refuse_secrets(arguments: list[str]) -> None:
    for i, word in enumerate(arguments):
        if redact(word) != word:
            option = word.partition("=")[0] if word.startswith("--") else arguments[max(i - 1, 0)]
            raise UserError(_secret(option))


def _secret(option: str) -> str:
    return (
        f"{option} contains a password or a token, which all who can list the cluster's jobs would see. Leave it out: "
        "nodes sign in to storage by their role, and to MLflow by MLFLOW_TRACKING_USERNAME and _PASSWORD, or "
        "MLFLOW_TRACKING_TOKEN, in their environment"
    )


def _name(
    verb: str, given: str | None, sweep: Sweep | None, config: Config | None
) -> tuple[str, list[str]]:
    """Return the job's name, and the arguments that pass it to the run."""
    own = sweep.name if sweep else config.train.name if config else None
    if given and own and given != own and verb != "tune":
        raise UserError(
            f"--name {given} and --train.name {own}: a job has the name of its run; give only one of these options"
        )
    kind = f"{config.model.variant}{config.model.depth}" if config and verb == "train" else verb
    name = given or own or f"{kind}-{time.strftime('%Y%m%d-%H%M%S')}"
    if config is None or own == name:
        return name, []
    return name, [f"--{'name' if verb == 'tune' else 'train.name'}={name}"]
