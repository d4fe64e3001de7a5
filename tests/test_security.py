"""What is closed: secrets stay out of records and terminals, manifests stay in their root, pickles are not run."""

from __future__ import annotations

import json
import os
import pickle
import stat
import subprocess
import sys
import time
import types
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines import cli, console
from stm import authentication, cluster, tracking
from stm.checkpoint import format as checkpoints
from stm.config import Config, DataConfig, ModelConfig, TrackingConfig, TrainConfig
from stm.data.containment import check_paths
from stm.data.stream.plan import Position
from stm.errors import UserError
from stm.model import build_model, load_pretrained
from stm.redaction import redact, redacted, secrets_in
from stm.train import checks, trainer
from stm.train.folders import working_folder
from tests.data.test_manifest import make_manifest
from tests.logged import logged
from tests.package.untrained import write_checkpoint

ROOT = Path(__file__).parents[1]

# ---------------------------------------------------------------------- redaction

HIDDEN = {
    "https://ann:pa55@host:5000/x": "https://***@host:5000/x",
    "https://ann:p@55@host/x": "https://***@host/x",
    "http://pa55@host": "http://***@host",
    "sqlite:////a/mlflow.db": "sqlite:////a/mlflow.db",
    "postgresql+psycopg2://ann:pa55@db/mlflow": "postgresql+psycopg2://***@db/mlflow",
    "s3://b/v.mp4?X-Amz-Credential=pa55&X-Amz-Date=1&versionId=7": (
        "s3://b/v.mp4?X-Amz-Credential=***&X-Amz-Date=***&versionId=7"
    ),
    "https://h/b?sv=2024&se=1&sig=pa55%3D&sp=r": "https://h/b?sv=2024&se=1&sig=***&sp=r",
    "https://h/?page=2&Access_Token=pa55#top": "https://h/?page=2&Access_Token=***#top",
    "https://h/a@b/c": "https://h/a@b/c",  # an @ in a path is no sign-in
    "mail ann@host, see https://h/": "mail ann@host, see https://h/",
    "2 of https://a:pa55@h/x, https://b:pa55@h/y?token=pa55.": "2 of https://***@h/x, https://***@h/y?token=***",
    "runs/first": "runs/first",
    "loss=0.5 & lr?": "loss=0.5 & lr?",
}


@pytest.mark.parametrize("text", HIDDEN)
def test_passwords_and_signatures_in_urls_are_hidden_and_nothing_else(text):
    assert redact(text) == HIDDEN[text]
    assert "pa55" not in redact(text)
    assert redact(redact(text)) == redact(text)


_WORD = st.text(st.characters(codec="ascii", categories=("L", "N")), min_size=1, max_size=12)


@given(
    user=_WORD,
    password=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=8),
    host=_WORD,
)
def test_no_password_gets_through_whatever_it_is_made_of(user, password, host):
    if set("/?#'\"") & set(password):
        return  # such a password is percent-encoded, or the URL means another host
    assert redact(f"at https://{user}:{password}@{host}/x") == f"at https://***@{host}/x"


def test_a_long_line_costs_no_more_than_its_length():
    began = time.perf_counter()
    redact("https://h/?" + "token" * 100_000 + "a" * 1_000_000 + "://")
    assert time.perf_counter() - began < 5


SECRET = "pa55w0rd"
URI = f"http://ann:{SECRET}@127.0.0.1:9/?token={SECRET}"


@pytest.fixture
def config(tmp_path):
    return Config(
        data=DataConfig(train=f"https://host/train.parquet?X-Amz-Signature={SECRET}"),
        model=ModelConfig(depth=26, width=16, pretrained=f"https://ann:{SECRET}@host/w.pth"),
        train=TrainConfig(storage=str(tmp_path), name="first"),
        tracking=TrackingConfig(uri=URI),
    )


def test_the_settings_that_hold_secrets_are_named(config):
    assert secrets_in(config.to_dict()) == ["model.pretrained", "data.train", "tracking.uri"]
    assert secrets_in(Config().to_dict()) == []
    assert redacted(Config().to_dict()) == Config().to_dict()


def test_a_checkpoints_meta_holds_no_secret_and_still_continues_its_run(config, tmp_path):
    meta = checkpoints.Meta(
        config=config.to_dict(), classes=["a"], position=Position(), step=1, fingerprint="f"
    )
    checkpoints.write(tmp_path, torch.nn.Linear(1, 1), {}, meta)
    assert all(SECRET.encode() not in file.read_bytes() for file in tmp_path.iterdir())
    checks.check_same_run(config, "f", checkpoints.read_meta(tmp_path))


def test_neither_spool_nor_mlflow_hold_a_secret(config, tmp_path):
    from mlflow import MlflowClient

    database = f"sqlite:///{tmp_path}/mlflow.db"
    recorded = replace(config, tracking=TrackingConfig(uri=database))
    tracker = tracking.open_run(recorded, tmp_path, "first")
    tracker.params(checks.flat(config.to_dict()))
    tracker.tags({"stm.checkpoint": URI, "stm.last_failure": f"cannot read {URI}: refused"})
    assert tracker.deliver()
    assert SECRET not in (tmp_path / "tracking.jsonl").read_text()
    run = MlflowClient(tracking_uri=database).get_run(tracker.run_id)
    assert run.data.params["tracking.uri"] == "http://***@127.0.0.1:9/?token=***"
    assert run.data.tags["stm.checkpoint"] == "http://***@127.0.0.1:9/?token=***"
    assert SECRET.encode() not in (tmp_path / "mlflow.db").read_bytes()


def test_a_terminal_shows_no_secret(config, capfd):
    def verb(*, uri: str = URI, broken: bool = False):
        if broken:
            raise UserError(f"cannot read {uri}")
        trainer.logger.info(f"record: {uri}")
        trainer.logger.warning("no record: %s", uri)
        return {"uri": uri}

    module = types.ModuleType("pipelines.verb")
    module.verb, module.show = verb, lambda result: f"checkpoint {result['uri']}"
    assert console.run_verb(module, []) == 0
    assert console.run_verb(module, ["--json"]) == 0
    assert console.run_verb(module, ["--broken"]) == 2
    assert console.run_verb(module, ["--urii", URI]) == 2
    assert console.run_verb(module, ["--uri", "http://a", "--uri", URI]) == 0
    out, err = capfd.readouterr()
    assert "***" in out
    assert err.count("record: http://***@") == 6, "three calls, two lines each"
    assert SECRET not in out + err
    assert SECRET not in tracking.how_to_look(URI)
    assert SECRET not in str(working_folder(f"ftp://ann:{SECRET}@host/runs", "first"))


@pytest.mark.ray
@pytest.mark.slow
def test_a_whole_run_with_secrets_in_its_settings_leaves_them_nowhere(ray_cluster, tmp_path):
    """Real training, as a program, with a tracking server that does not answer."""
    from tests.chaos import runs

    manifests = runs.make_manifests(tmp_path / "videos")
    config = runs.config_for(manifests, tmp_path / "runs", "first", epochs=1, workers=1)
    config = replace(config, tracking=TrackingConfig(uri=URI))
    process = runs.start(config, tmp_path / "log.txt")
    out, _ = process.communicate(timeout=240)
    said = (tmp_path / "log.txt").read_text()
    assert process.returncode == 0, said
    assert "record: http://***@127.0.0.1:9/?token=***" in said
    assert SECRET not in out + said
    files = [file for file in (tmp_path / "runs").rglob("*") if file.is_file()]
    assert {"meta.json", "tracking.jsonl", "state.pt"} <= {file.name for file in files}
    assert [file for file in files if SECRET.encode() in file.read_bytes()] == []


# ---------------------------------------------------------------------- the root of a manifest's paths


def folders(tmp_path):
    root, outside = tmp_path / "videos", tmp_path / "private"
    for folder in (root / "a", outside):
        folder.mkdir(parents=True)
        (folder / "v.mp4").write_bytes(b"x")
    (root / "inside.mp4").symlink_to(root / "a" / "v.mp4")
    (root / "file.mp4").symlink_to(outside / "v.mp4")
    (root / "folder").symlink_to(outside)
    (root / "clip.mp4#0").symlink_to(outside / "v.mp4")
    (root / "dir#1").symlink_to(outside)
    (root / "down").symlink_to(root / "a" / "b" / "c")
    (root / "a" / "b" / "c").mkdir(parents=True)
    for name, target in (("frames", root / "a" / "v.mp4"), ("frames_out", outside / "v.mp4")):
        (root / name).mkdir()
        (root / name / "1.jpg").write_bytes(b"x")
        (root / name / "2.jpg").symlink_to(target)
    (tmp_path / "alias").symlink_to(root)
    return root


INSIDE = ["{root}/a/v.mp4", "{root}/a/../a/v.mp4", "{root}/inside.mp4", "{root}/not/there.mp4", "{root}/s.parquet#17",
          "{root}/a", "{root}/../alias/a/v.mp4", "{root}/frames", "{root}/a%2e%2e/v.mp4", "/{root}/a/v.mp4",
          "{root}//a//v.mp4", "{root}/clip.mp4#1", "{root}/down/../v.mp4"]  # fmt: skip
OUTSIDE = ["{root}/../private/v.mp4", "{root}/file.mp4", "{root}/folder/v.mp4", "{root}-2/v.mp4", "/etc/passwd",
           "file://{root}/a/v.mp4", "s3://bucket/v.mp4", "{root}/..", "../private/v.mp4", "{root}/folder/s.parquet#3",
           "simplecache::s3://bucket/v.mp4", "{root}", "{root}/clip.mp4#0", "{root}/dir#1", "{root}/dir#1/v.mp4",
           "{root}/frames_out", "{root}/frames_out/", "{root}/a/../../private/v.mp4", "{root}/a\0/v.mp4",
           "{root}/down/../../../private/v.mp4", "{root}/down/../../../../private/v.mp4", "//etc/passwd",
           "{root}/../VIDEOS/a/v.mp4", "videos/a/v.mp4"]  # fmt: skip


@pytest.mark.parametrize("path", INSIDE)
def test_a_path_that_stays_in_the_root_is_taken(path, tmp_path):
    root = folders(tmp_path)
    for each in (root, tmp_path / "alias", f"{root}/"):
        check_paths("m", [path.format(root=root)], str(each))


@pytest.mark.parametrize("path", OUTSIDE)
def test_a_path_that_leads_out_of_the_root_is_refused_by_name(path, tmp_path):
    root = folders(tmp_path)
    with pytest.raises(UserError, match=r"m\.parquet: 1 path outside --data\.root") as error:
        check_paths("m.parquet", [f"{root}/a/v.mp4", path.format(root=root)], str(root))
    assert path.format(root=root) in str(error.value)


@pytest.mark.parametrize(
    ("path", "inside"),
    [
        ("s3://bucket/videos/a/v.mp4", True),
        ("s3://bucket/videos/s.parquet#3", True),
        ("s3://bucket/videos-2/v.mp4", False),
        ("s3://other/videos/v.mp4", False),
        ("s3://bucket/videos/../keys", False),
        ("s3://bucket/videos/%2e%2e/keys", False),
        ("s3://bucket/videos/%252e%252e/keys", False),
        ("s3://bucket/videos/a..b/v..mp4", True),
        ("s3://bucket/videos/100%/v.mp4", True),
        ("s3://bucket/videos/a%20b/v.mp4", True),
        ("s3://bucket/videos/" + "%" + "25" * 3 + "2e%2e/keys", False),
        ("s3://bucket/videos/" + "%" + "25" * 40 + "2e%2e/keys", False),
        ("s3://bucket/videos/a%5c..%5ckeys", False),
        ("s3://bucket/videos/..;/keys", False),
        ("s3://bucket/videos/..?x", False),
        ("s3://bucket/videos/a%3a%3afile:///etc/passwd", False),
        ("s3://bucket/videos/a%00", False),
        ("S3://bucket/videos/a/v.mp4", False),
        ("s3://bucket/videos", False),
        ("s3://bucket/videos/a::file:///etc/passwd", False),
        ("gs://bucket/videos/v.mp4", False),
        ("/etc/passwd", False),
    ],
)
def test_a_root_that_is_a_url_holds_its_own_prefix_alone(path, inside):
    if inside:
        check_paths("m", [path], "s3://bucket/videos")
    else:
        with pytest.raises(UserError, match=r"outside --data\.root"):
            check_paths("m", [path], "s3://bucket/videos")


def test_a_root_of_scheme_file_is_a_folder_whose_links_are_followed(tmp_path):
    root = folders(tmp_path)
    check_paths("m", [f"file://{root}/a/v.mp4", f"file://{root}/inside.mp4"], f"file://{root}")
    for path in ("folder/v.mp4", "file.mp4", "a/../../private/v.mp4", "%2e%2e/private/v.mp4"):
        with pytest.raises(UserError, match=r"outside --data\.root"):
            check_paths("m", [f"file://{root}/{path}"], f"file://{root}")


def test_training_reads_no_manifest_that_leads_out_of_its_root(tmp_path):
    make_manifest(path=["/v/a.mp4", "/v/b.mp4", "/v/../etc/c.mp4"]).write(
        tmp_path / "train.parquet"
    )
    config = Config(data=DataConfig(train=str(tmp_path / "train.parquet"), root="/v"))
    with pytest.raises(UserError, match=r"1 path outside --data\.root /v: /v/\.\./etc/c\.mp4"):
        trainer.train(config)


@pytest.mark.parametrize(
    "words",
    [
        "prepare --manifest MANIFEST --output OUT",
        "bench decode --manifest MANIFEST",
        "bench data --manifest MANIFEST",
        "bench train --manifest MANIFEST",
        "plan --decode_clips_per_s_core 9 --train_clips_per_s_gpu 9 --batch_size 1 --epochs 1 --prices sample "
        "--manifest MANIFEST",
        "splits --config ucf101-t16 --manifests FOLDER --splits [1]",
        "evaluate --checkpoint CHECKPOINT --manifest MANIFEST",
        "register --checkpoint CHECKPOINT --name x --manifest MANIFEST --tracking sqlite:///OUT/x.db",
        "explain --motion_check MANIFEST --checkpoint CHECKPOINT",
        "train --data.train MANIFEST",
        "tune --config OUT/sweep.yaml",
    ],
)
def test_every_verb_that_reads_a_manifest_holds_it_to_the_root(words, tmp_path, capfd):
    folder, out = tmp_path / "split1", tmp_path / "out"
    out.mkdir()
    for name in ("train", "val"):
        make_manifest(path=["/v/a.mp4", "/v/b.mp4", "/etc/c.mp4"]).write(folder / f"{name}.parquet")
    (out / "sweep.yaml").write_text(
        f"name: s\nbase:\n  data: {{train: {folder}/train.parquet, val: {folder}/val.parquet}}\n"
        f"  train: {{storage: {out}}}\n  tracking: {{uri: none}}\n"
        "space:\n  optim.lr: loguniform(0.001, 0.1)\nbudget: {epochs: 1}\n"
    )
    places = {
        "MANIFEST": folder / "val.parquet",
        "FOLDER": tmp_path,
        "CHECKPOINT": write_checkpoint(tmp_path / "checkpoint-00000007"),
        "OUT": out,
    }
    for name, place in places.items():
        words = words.replace(name, str(place))
    assert cli.main([*words.split(), "--data.root", "/v"]) == 2
    assert "1 path outside --data.root /v: /etc/c.mp4" in capfd.readouterr().err


# ---------------------------------------------------------------------- weights are data


class Payload:
    """Unpickled without care, it makes a file."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def test_the_payload_of_these_tests_runs_where_pickles_are_trusted(tmp_path):
    pickle.loads(pickle.dumps(Payload(tmp_path / "ran")))
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("how", ["torch.save", "pickle"])
def test_pretrained_weights_with_code_in_them_are_refused_and_it_does_not_run(how, tmp_path):
    content = {"conv1.weight": torch.zeros(1), "payload": Payload(tmp_path / "ran")}
    if how == "torch.save":
        torch.save(content, tmp_path / "w.pth")
    else:
        (tmp_path / "w.pth").write_bytes(pickle.dumps(content, protocol=2))
    with pytest.raises(UserError, match=r"w\.pth"):
        load_pretrained(build_model(depth=26, width=16, num_classes=2), tmp_path / "w.pth")
    assert not (tmp_path / "ran").exists()


def test_a_checkpoints_state_with_code_in_it_is_refused_and_it_does_not_run(tmp_path):
    meta = checkpoints.Meta(config={}, classes=[], position=Position(), step=1, fingerprint="f")
    (tmp_path / "meta.json").write_text(meta.to_json())
    torch.save({"optimizer": Payload(tmp_path / "ran")}, tmp_path / "state.pt")
    with pytest.raises(UserError, match=r"state\.pt .* never run here"):
        checkpoints.read_state(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_nothing_here_loads_pickled_code():
    """`torch.load` only with `weights_only=True`, and no other unpickling of files."""
    pipe_to_a_child = ROOT / "stm" / "data" / "isolation.py"
    for file in [*(ROOT / "stm").rglob("*.py"), *(ROOT / "pipelines").rglob("*.py")]:
        text = file.read_text()
        if file == pipe_to_a_child:
            continue
        assert text.count("torch.load(") == text.count("weights_only=True)"), file
        for call in ("pickle.load(", "pickle.loads(", "joblib", "np.load(", "allow_pickle=True"):
            assert call not in text, f"{file}: {call}"


# ---------------------------------------------------------------------- the token


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home without a token, and an environment that says nothing."""
    for name in (
        authentication.MODE,
        authentication.TOKEN,
        authentication.TOKEN_PATH,
        authentication.SWITCH,
    ):
        monkeypatch.setenv(name, "")  # so that it is put back afterwards
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(
        authentication, "_refresh", lambda: None
    )  # the session's cluster keeps its mode
    return tmp_path


def test_a_new_cluster_gets_a_token_that_only_its_owner_reads(home):
    authentication.for_new_cluster()
    token = home / ".ray" / "auth_token"
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert stat.S_IMODE(token.parent.stat().st_mode) == 0o700
    assert len(token.read_text()) == 64
    first = token.read_text()
    authentication.for_new_cluster()
    assert token.read_text() == first


def test_a_token_that_others_may_read_is_closed_to_them(home):
    token = home / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("mine")
    token.chmod(0o644)
    authentication.for_new_cluster()
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert token.read_text() == "mine"


def test_a_home_that_cannot_be_written_gets_a_token_of_the_process(home):
    (home / ".ray").write_text("a file, where the folder should be")
    authentication.for_new_cluster()
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64


def test_the_switch_and_what_the_user_said_to_ray_win(home, monkeypatch):
    monkeypatch.setenv("STM_RAY_AUTH", "off")
    authentication.for_new_cluster()
    assert os.environ["RAY_AUTH_MODE"] == "disabled"
    monkeypatch.setenv("STM_RAY_AUTH", "on")
    authentication.for_new_cluster()  # RAY_AUTH_MODE=disabled is the user's word
    assert os.environ["RAY_AUTH_MODE"] == "disabled"
    assert not (home / ".ray").exists()
    monkeypatch.setenv("STM_RAY_AUTH", "maybe")
    with pytest.raises(UserError, match="STM_RAY_AUTH=maybe"):
        authentication.for_new_cluster()


def test_joining_shows_a_token_only_where_there_is_one(home, monkeypatch):
    authentication.for_joining()
    assert "RAY_AUTH_MODE" not in os.environ
    monkeypatch.setenv("RAY_AUTH_TOKEN", "x" * 64)
    authentication.for_joining()
    assert os.environ["RAY_AUTH_MODE"] == "token"


@pytest.mark.ray
@pytest.mark.slow
def test_the_cluster_that_stm_starts_refuses_who_has_no_token(ray_cluster):
    import ray

    address = ray.get_runtime_context().gcs_address
    code = f"from stm import cluster; cluster.connect({address!r})"
    env = {**os.environ, "STM_RAY_AUTH": "off"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60
    )
    assert done.returncode != 0
    assert "asks for a token, and this machine's is missing or different" in done.stderr


# ---------------------------------------------------------------------- waiting for nodes


@pytest.mark.ray
def test_a_job_that_waits_for_nodes_says_what_is_missing_and_is_refused_in_the_end(ray_cluster):
    config = Config(train=TrainConfig(num_workers=8, use_gpu=False, wait_for_nodes_s=1.0))
    with (
        logged() as said,
        pytest.raises(
            UserError,
            match=r"8 workers x 1 CPU .* has 4 CPU after 1 s \(--train\.wait_for_nodes_s\)",
        ),
    ):
        cluster.place(config)
    assert said == ["waiting for nodes: the cluster has 4 CPU on 1 node; missing: 5 CPU; 1 s left"]
    assert json.dumps(_pending()) == "[]", "the request was taken back"


@pytest.mark.ray
def test_waiting_never_ends_on_cpus_because_the_gpus_are_still_to_come(ray_cluster):
    with pytest.raises(UserError, match=r"--train\.use_gpu true or false"):
        cluster.place(Config(train=TrainConfig(wait_for_nodes_s=1.0)))


def _pending():
    from ray.util import placement_group_table

    return [group for group in placement_group_table().values() if group["state"] != "REMOVED"]
