"""Verbs that a signal ends at random moments: the same command again gives what an undisturbed one gives."""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image
from safetensors import safe_open

from stm.data.decode import probe
from stm.plural import counted
from tests.chaos import runs
from tests.test_signals import Command

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(3600)]


@dataclass(frozen=True)
class Verb:
    """A command and how often it is killed; {x} are made of the fixtures' files."""

    words: str
    kills: int = 6
    encodes: bool = False
    """x264 does not repeat itself to the bit: what it wrote need only be readable."""


VERBS = {
    "index": Verb(
        "index --format csv --root {videos} --annotations {videos}/annotations.csv --output {output} --address local"
    ),
    "prepare": Verb(
        "prepare --manifest {train} --output {output} --min_gain 0 --measure 0 --short_side 48 --address local",
        encodes=True,
    ),
    "shards": Verb(
        "prepare --manifest {train} --output {output} --min_gain 0 --measure 0 --layout shards --codec jpeg "
        "--address local"
    ),
    "evaluate": Verb(
        "evaluate --checkpoint {checkpoint} --manifest {val} --output {output} --address local"
    ),
    "predict": Verb(
        "predict --checkpoint {checkpoint} {videos}/videos/val --output {output}/scores.parquet --workers 2 "
        "--address local"
    ),
    "export": Verb(
        "export --checkpoint {checkpoint} --output {output}/weights.safetensors --format safetensors"
    ),
    "explain": Verb("explain {clip} --checkpoint {checkpoint} --output {output}"),
    "tune": Verb("tune --config {sweep} --address local", kills=3),
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_that_is_killed_ends_right_when_it_is_given_again(
    verb, manifests, undisturbed, tmp_path, row
):
    took_s, ended, wholes = ended_and_given_again(
        verb, {signal.SIGKILL: -signal.SIGKILL}, manifests, undisturbed, tmp_path
    )
    row(
        f"`stm {verb_of(verb)}` is killed",
        f"SIGKILL at a random moment of a run of {took_s:.0f} s, three times before each complete run"
        + ("; the output is shards" if verb == "shards" else ""),
        ended,
        f"{counted(wholes, 'complete run')} wrote the same files as an undisturbed run; "
        "no partial file, process or shared memory was left",
    )


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_that_gets_a_signal_ends_right_when_it_is_given_again(
    verb, manifests, undisturbed, tmp_path, row
):
    statuses = {signal.SIGTERM: 143, signal.SIGHUP: 129, signal.SIGINT: 130}
    took_s, ended, wholes = ended_and_given_again(verb, statuses, manifests, undisturbed, tmp_path)
    row(
        f"`stm {verb_of(verb)}` receives a signal",
        f"SIGTERM, SIGHUP or Ctrl-C at a random moment of a run of {took_s:.0f} s, three times before each complete run"
        + ("; the output is shards" if verb == "shards" else ""),
        ended,
        f"exit status 143, 129 or 130; {counted(wholes, 'complete run')} wrote the same files as an undisturbed run; "
        "no partial file, process or shared memory was left",
    )


def verb_of(chosen):
    return VERBS[chosen].words.partition(" ")[0]


def ended_and_given_again(verb, statuses, manifests, undisturbed, tmp_path):
    """(seconds of a whole run, how many were ended by a signal, whole runs after those); ``statuses`` by signal."""
    chosen, output = VERBS[verb], tmp_path / "output"
    videos = Path(manifests["train"]).parent
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(yaml.safe_dump(a_sweep(manifests, output)))
    places = {
        "videos": videos,
        "clip": min((videos / "videos" / "val").iterdir()),
        "output": output,
        "sweep": sweep,
        "checkpoint": undisturbed[0]["last_checkpoint"],
        **manifests,
    }
    words = [word.format(**places) for word in chosen.words.split()]

    def begin() -> Command:
        output.mkdir(exist_ok=True)
        return Command(tmp_path, *words)

    began = time.monotonic()
    command = begin()
    assert command.ended(1800) == 0, command.said[-3000:]
    took_s, whole = time.monotonic() - began, results(output, chosen)
    draw, num_ended, wholes = random.Random(verb), 0, 0
    while num_ended < chosen.kills:
        if wholes % 2 == 0:  # every other time what is killed has a whole result to lose
            shutil.rmtree(output)
        for _ in range(3):
            command = begin()
            try:
                command.process.wait(draw.uniform(0.1, 0.95) * took_s)
            except subprocess.TimeoutExpired:
                number = draw.choice(list(statuses))
                command.send_to_all(number)
                status = command.ended()
                if status != 0:  # else its last moment was begun
                    # What is done dies of the signal, which a shell tells as the same status.
                    assert status in (statuses[number], -number), (status, command.said[-3000:])
                    num_ended += 1
            else:
                assert command.ended(1800) == 0, command.said[-3000:]
            results(output, chosen)  # what is there can be read
        command = begin()
        assert command.ended(1800) == 0, command.said[-3000:]
        assert results(output, chosen) == whole, "another result than the undisturbed one's"
        wholes += 1
    return took_s, num_ended, wholes


def a_sweep(manifests, output):
    """Two trials, one after the other."""
    base = runs.config_for(manifests, output, "sweep").to_dict()
    return {
        "name": "sweep",
        "metric": "val_loss",  # no two trials are equal by it
        "base": {
            "model": base["model"],
            "data": {key: base["data"][key] for key in ("train", "val", "num_segments", "size")},
            "optim": {"batch_size": 8, "milestones": [1]},
            "train": {
                "storage": str(output), "cpus_per_worker": 0.5, "threads_per_worker": 1,
                "checkpoint_every_steps": 1,
            },
        },
        "space": {"optim.lr": "choice(0.001, 0.01)"},
        "searcher": "grid",
        "num_trials": 2,
        "budget": {"epochs": 1},
    }  # fmt: skip


# Of what is written anew each time, what must be the same.
_PASSING = {"cost", "seconds", "why", "trial"}
_DRAWN = re.compile(r"[0-9a-f]{32}|[0-9a-f]{5}(?=_0000)")
_OF_RAY_TUNE = "sweep/tune/"


def results(output: Path, verb: Verb) -> dict[str, list[object]]:
    """File -> what must be the same in every run; every file is read, and none is torn.

    The folders of MLflow have drawn names, so files of several trials may be one entry here.
    """
    found: dict[str, list[object]] = {}
    for path in sorted(output.rglob("*")):
        name = str(path.relative_to(output))
        if path.is_file() and _OF_RAY_TUNE not in name:
            found.setdefault(_DRAWN.sub("*", name), []).append(_content(path, verb))
    return {name: sorted(contents, key=repr) for name, contents in found.items()}


def _content(path: Path, verb: Verb) -> object:
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        return table.select([n for n in table.column_names if n not in _PASSING]).to_pylist()
    if path.suffix == ".png":
        Image.open(path).verify()
    elif path.suffix == ".mp4":
        return probe(str(path)).num_frames if verb.encodes else path.read_bytes()
    elif path.suffix == ".html":
        assert path.read_text().rstrip().endswith("</html>")
    elif path.suffix == ".json":
        json.loads(path.read_text())
    elif path.suffix == ".yaml":  # its comments say what it cost
        return yaml.safe_load(_DRAWN.sub("*", path.read_text()))
    elif path.suffix in (".txt", ".csv"):
        return path.read_text()
    elif path.suffix == ".safetensors":  # the order in its header is drawn
        with safe_open(path, "numpy") as file:
            tensors = {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118
            return file.metadata(), tensors
    return None
