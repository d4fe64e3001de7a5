"""Jobs: what is sent, what is refused before anything is sent, and what a real job server makes of the rest."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import zipfile

import pytest

from pipelines import cli, command
from stm.errors import UserError
from stm.jobs import client, package
from tests.data.test_manifest import make_manifest
from tests.heads import ROOT, head

# ---------------------------------------------------------------------- the code that is sent


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A repository with files of each kind, in which commands are given."""
    folder = tmp_path / "project"
    files = {
        "stm/code.py": "1", "stm/data/stream.py": "2", "tests/videos.py": "3", "mine.yaml": "optim: {epochs: 1}\n",
        "ignored.bin": "x", "new.py": "not tracked", ".gitignore": "ignored.bin\n",
        "runs/first/log.txt": "x", "demo/videos/a.txt": "x", ".venv/bin/python": "x", "weights/resnet.pth": "x",
        "clip.mp4": "x", ".env": "SECRET=1", "deploy/server.pem": "x", "docs/runs/page.md": "kept",
    }  # fmt: skip
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "stm", "tests", "mine.yaml", ".gitignore"], check=True)
    subprocess.run([*git, "commit", "-qm", "x"], check=True)
    monkeypatch.chdir(folder)
    return folder


CODE = [
    ".gitignore", "docs/runs/page.md", "mine.yaml", "new.py", "stm/code.py", "stm/data/stream.py", "tests/videos.py"
]  # fmt: skip


def test_what_is_sent_is_what_git_does_not_ignore_without_videos_runs_and_secrets(project):
    assert package.project_files(project) == CODE


def test_without_a_repository_everything_but_the_excludes_is_sent(project):
    (project / ".git").rename(project.parent / "elsewhere")
    assert package.project_files(project) == sorted([*CODE, "ignored.bin"])


def test_a_repository_that_git_cannot_list_is_not_guessed_at(project, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UserError, match="git is not installed"):
        package.project_files(project)


@pytest.mark.parametrize(
    ("pattern", "gone"),
    [
        ("*.yaml", ["mine.yaml"]),
        ("tests", ["tests/videos.py"]),
        ("stm/data/", ["stm/data/stream.py"]),
        ("/docs/runs", ["docs/runs/page.md"]),
        ("code.py/", []),  # only folders
    ],
)
def test_exclude_takes_patterns_as_gitignore_does(project, pattern, gone):
    assert package.project_files(project, [pattern]) == [each for each in CODE if each not in gone]


def test_a_file_that_was_deleted_but_not_committed_is_not_sent(project):
    (project / "stm/code.py").unlink()
    assert "stm/code.py" not in package.project_files(project)


def test_a_link_out_of_the_project_is_not_followed(project, tmp_path):
    (tmp_path / "private.py").write_text("x")
    (project / "out.py").symlink_to(tmp_path / "private.py")
    (project / "in.py").symlink_to("new.py")
    assert package.project_files(project) == sorted([*CODE, "in.py"])


def test_the_same_files_make_the_same_package_whenever_they_were_written(project):
    first = package.pack(project, project.parent / "a.zip")
    os.utime(project / "new.py", (1, 1))
    second = package.pack(project, project.parent / "b.zip")
    assert first.path.read_bytes() == second.path.read_bytes()
    (project / "new.py").write_text("changed")
    assert package.pack(project, second.path).path.read_bytes() != first.path.read_bytes()
    with zipfile.ZipFile(first.path) as archive:
        assert archive.namelist() == CODE
        assert archive.read("new.py") == b"not tracked"


def test_too_much_code_is_refused_by_the_names_of_the_largest_files(project):
    (project / "big.txt").write_bytes(bytes(3 * package.MIB))
    with pytest.raises(UserError, match=r"3\.0 MiB in 8 files.*The largest: big\.txt \(3\.0 MiB\)"):
        package.pack(project, project.parent / "a.zip", max_bytes=2 * package.MIB)
    package.pack(project, project.parent / "a.zip", ["big.*"], max_bytes=2 * package.MIB)


def test_a_home_folder_is_no_project(project, monkeypatch):
    monkeypatch.setenv("HOME", str(project))
    with pytest.raises(UserError, match="is no project"):
        package.project_files(project)


# ---------------------------------------------------------------------- the command, checked here

STORED = ["--train.storage", "/shared/runs", "--data.train", "/shared/train.parquet"]


def check(*words, name=None, sent=CODE):
    return command.check(list(words), name, sent)


REFUSED = {
    "no command": ([], "give the command after --"),
    "another program": (["python", "x.py"], "is not a verb of stm"),
    "a misspelt verb": (["trian"], "did you mean `stm train`?"),
    "a job that submits jobs": (["submit"], "cannot be a job"),
    "an impossible setting": (["train", *STORED, "--optim.lr", "-1"], "--optim.lr -1.0: must be above 0"),
    "another address": (["train", *STORED, "--address", "auto"], "give --address once"),
    "runs in the job's own folder": (["train", "--data.train", "/x"], "--train.storage runs: the path is relative"),
    "a record in the job's own folder": (
        ["train", *STORED, "--tracking.uri", "sqlite:///mlflow.db"], "--tracking.uri sqlite:///mlflow.db"
    ),
    "a record beside runs at a URL": (["train", "--train.storage", "s3://b/runs"], "address of an MLflow server"),
    "a manifest that is not sent": (
        ["train", *STORED[:2], "--data.train", "ignored.bin"], "--data.train ignored.bin: is not among the files"
    ),
    "a manifest that is nowhere": (
        ["train", *STORED[:2], "--data.train", "no.parquet"], "--data.train no.parquet: does not exist"
    ),
    "a config outside the project": (["train", *STORED, "--config", "../other.yaml"], "--config ../other.yaml: is not"),
    "a password": (["train", *STORED, "--tracking.uri", "http://ann:pa55@host"], "--tracking.uri contains a password"),
    "a token": (["train", *STORED, "--data.val=s3://b/v?X-Amz-Signature=abc"], "--data.val contains a password"),
    "two names": (["train", *STORED, "--train.name", "b"], "--name a and --train.name b"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_would_fail_on_the_cluster_is_refused_here(project, what):
    (project.parent / "other.yaml").write_text("optim: {epochs: 1}\n")
    words, said = REFUSED[what]
    with pytest.raises(UserError, match=re.escape(said)) as error:
        check(*words, name="a" if what == "two names" else None)
    assert "pa55" not in str(error.value)


def test_what_explain_draws_is_looked_for_and_nothing_is_trained(project):
    (project / "clip.mp4").write_bytes(b"a video")
    sent, output = [*CODE, "clip.mp4"], ["--output", "/shared/seen"]
    for words in (
        ["clip.mp4", "--checkpoint", "s3://b/c"],
        ["--augment", "clip.mp4", "--data.hue", "0.1"],
    ):
        assert check("explain", *words, *output, sent=sent).arguments == [*words, *output]
    with pytest.raises(UserError, match=r"--augment no\.mp4: does not exist"):
        check("explain", "--augment", "no.mp4", *output, sent=sent)
    with pytest.raises(UserError, match=r"--data\.train no\.parquet: does not exist"):
        check("explain", "--augment", "clip.mp4", "--data.train", "no.parquet", *output, sent=sent)


def test_a_secret_in_a_config_file_is_refused_too(project):
    (project / "mine.yaml").write_text("tracking: {uri: 'http://ann:pa55@host'}\n")
    with pytest.raises(UserError, match=r"--tracking\.uri contains a password"):
        check("train", *STORED, "--config", "mine.yaml")


def test_a_misspelt_option_ends_with_the_verbs_own_message_and_status_2(project, capsys):
    with pytest.raises(
        UserError, match=r"stm train: there is no option --optim\.lrr; did you mean --optim\.lr\?"
    ):
        check("train", "--optim.lrr", "1")
    assert cli.main(["submit", "--", "train", "--optim.lrr", "1"]) == 2
    assert "did you mean --optim.lr" in capsys.readouterr().err


def test_the_job_gives_its_name_to_the_run_and_has_the_runs(project):
    given = check("train", *STORED, name="first")
    assert given.name == "first"
    assert given.arguments[-1] == "--train.name=first"
    own = check("train", *STORED, "--train.name", "second")
    assert (own.name, own.arguments) == ("second", ["train", *STORED, "--train.name", "second"][1:])
    made = check("train", *STORED)
    assert made.name.startswith("stm50-")
    assert made.arguments[-1] == f"--train.name={made.name}"
    recipe = check(
        "train", "--config", "something-v1-t8", *STORED, "--data.val=/v", "--model.pretrained=/w"
    )
    assert recipe.name == "something-v1-t8"


def test_paths_that_only_the_cluster_knows_are_named(project):
    job = check("train", *STORED, "--config", "mine.yaml", "--model.pretrained", "s3://b/w.pth")
    assert job.elsewhere == ["--data.train /shared/train.parquet", "--train.storage /shared/runs"]


def test_the_entrypoint_is_one_shell_word_an_argument(project):
    job = check("train", *STORED, "--train.name", "a", "--data.scales", "[1.0, 0.5]")
    assert "--data.scales '[1.0, 0.5]' --address auto" in job.entrypoint()
    assert job.entrypoint(json=True).endswith("--address auto --json")


def test_a_dry_run_lists_the_files_and_needs_no_cluster(project, capfd):
    status = cli.main(["submit", "--dry_run", "--json", "--name", "a", "--", "train", *STORED])
    result = json.loads(capfd.readouterr().out)
    assert (status, result["files"], result["status"]) == (0, CODE, "NOT SENT")


def test_an_address_where_nothing_answers_is_told_with_status_2(project):
    """In a process of its own: speaking to a job server sets what Ray reads from the environment."""
    words = ["submit", "--address", "http://127.0.0.1:9", "--", "train", *STORED]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "stm", *words], env=env, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "no Ray job server answers at http://127.0.0.1:9" in done.stderr
    assert "proxy" not in done.stderr


def test_a_proxy_on_the_way_to_a_job_server_is_named(project):
    words = ["submit", "--address", "http://cluster.example:8265", "--", "train", *STORED]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "http_proxy": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-P", "-m", "stm", *words], env=env, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert (
        "(reached through the proxy http://127.0.0.1:9; no_proxy=cluster.example connects directly)"
        in done.stderr
    )


@pytest.mark.parametrize("name", ["", "a b", "../a", "a/b", "x" * 101, "-a"])
def test_a_name_that_would_break_a_url_is_refused(name):
    with pytest.raises(UserError, match="cannot name a job"):
        client.check_name(name)


# ---------------------------------------------------------------------- a real job server


@pytest.fixture(scope="module")
def server():
    with head() as started:
        yield started


# It parses here, and ends there at once: with status 2, for there is no such file.
FAILS = ["predict", "--checkpoint", "/nowhere", "/nowhere/video.mp4"]


@pytest.mark.ray
def test_the_exit_status_and_the_log_are_the_jobs(server):
    done = server.stm("submit", "--address", server.url, "--name=first", "--json", "--", *FAILS)
    assert done.returncode == 2, done.stderr
    assert "stm predict: /nowhere" in done.stderr  # the job's own log
    result = json.loads(done.stdout)
    assert (result["id"], result["status"]) == ("first-1", "FAILED")
    assert result["message"] == "Job entrypoint command failed with exit code 2"
    listed = server.stm("jobs", "list", "--address", server.url, "--json")
    jobs = json.loads(listed.stdout)["jobs"]
    assert [(job["id"], job["verb"], job["exit_status"]) for job in jobs] == [
        ("first-1", "predict", 2)
    ]


@pytest.mark.ray
def test_a_project_with_packages_of_our_names_can_be_a_job(server, tmp_path):
    """What is sent comes first on the path of the job."""
    for name in ("pipelines", "tests"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('a package of the user')")
    words = ["submit", "--address", server.url, "--name=shadow", "--json", "--", *FAILS]
    done = server.stm(*words, cwd=tmp_path, env={**server.env, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 2, done.stderr
    assert "code of" in done.stderr
    assert "2 files" in done.stderr
    assert "stm predict: /nowhere" in done.stderr
    assert "of the user" not in done.stderr


@pytest.mark.ray
@pytest.mark.slow
def test_ctrl_c_leaves_the_job_running_and_its_name_taken_until_it_is_stopped(server, tmp_path):
    # It waits for nodes that nobody brings.
    manifest = tmp_path / "train.parquet"
    make_manifest().write(manifest)
    words = [
        "train",
        "--data.train",
        str(manifest),
        "--train.storage",
        str(tmp_path),
        "--workers=8",
    ]
    words += ["--train.wait_for_nodes_s=600", "--train.use_gpu=false", "--tracking.uri=none"]
    submit = ["submit", "--address", server.url, "--name=waits", "--", *words]
    following = subprocess.Popen(
        [sys.executable, "-m", "stm", *submit],
        cwd=ROOT, env=server.env, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    seen = ""
    while "waiting for nodes" not in seen:
        line = following.stderr.readline()
        assert line, seen
        seen += line
    assert "the cluster has 2 CPU on 1 node; missing: 7 CPU" in seen
    following.send_signal(signal.SIGINT)
    assert following.wait(timeout=20) == 130
    assert (
        "job waits-1 continues; to follow it again: stm jobs follow waits-1"
        in following.stderr.read()
    )

    again = server.stm(*submit)
    assert again.returncode == 2
    assert "job waits-1 is running" in again.stderr
    assert "stm jobs stop waits-1" in again.stderr

    stopped = server.stm("jobs", "stop", "waits", "--address", server.url, "--json")
    assert json.loads(stopped.stdout)["status"] == "STOPPED"
    followed = server.stm("jobs", "follow", "waits", "--address", server.url)
    assert followed.returncode == 143
    assert "waiting for nodes" in followed.stderr


@pytest.mark.ray
def test_without_the_clusters_token_nobody_is_served(server, tmp_path):
    wrong = tmp_path / "token"
    wrong.write_text("1" * 64)
    for env in (
        {**server.env, "RAY_AUTH_TOKEN_PATH": str(wrong)},
        {**server.env, "STM_RAY_AUTH": "off"},
    ):
        refused = server.stm("jobs", "list", "--address", server.url, env=env)
        assert refused.returncode == 2
        assert "the cluster asks for its token" in refused.stderr
