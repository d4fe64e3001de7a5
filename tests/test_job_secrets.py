"""Secrets stay here when a job is sent: by their names, by what is in them, and never in silence."""

from __future__ import annotations

import json
import subprocess

import pytest

from pipelines import cli
from stm.jobs import package, secrets

NAMES = """
id_rsa id_dsa id_ecdsa id_ed25519 id_ed25519_sk ID_RSA id_work id_rsa.old keys/id_rsa.pub deploy_rsa github_ed25519
.ssh/config .ssh/authorized_keys sub/.SSH/anything.txt ssh_host_rsa_key .gnupg/secring.gpg identity
.aws/config .aws/credentials .AWS/sso/cache/1.json .kube/config kubeconfig prod.kubeconfig kubeconfig.yaml
.docker/config.json .config/gcloud/access_tokens.db .config/gcloud/config_default .config/gh/hosts.yml .boto .s3cfg
.azure/accessTokens.json .oci/config .databrickscfg .kaggle/kaggle.json kaggle.json .terraformrc clouds.yaml
.netrc _netrc .NetRC .netrc.bak .npmrc .yarnrc.yml .pypirc .pgpass .my.cnf .htpasswd pip.conf auth.json cookies.txt
.git-credentials .git-credentials~ hub/.gitCredentials.txt
terraform.tfstate terraform.tfstate.backup prod.tfstate.d/x.json prod.auto.tfvars .terraform/terraform.tfstate
.env .env.local .ENV.production prod.env prod.env.bak .envrc .env~ sub/.env.d/x api.env_old
credentials credentials.json aws_credentials.csv MyCredentials.xml application_default_credentials.json credential.txt
client_secret_1.json secrets.yaml .secrets/x.txt secrets/x.txt passwords.txt db_password api_key.txt apikey.json
private-key.json aws_access_keys.csv gcp-creds.json creds.yaml service-account.json my_service_account_key.json
token hf_token auth_token token.txt github_token.json .vault_pass .vault-token rclone.conf .rclone.conf
server.p12 SERVER.PFX server.pem server.PEM tls.key tls.key.old release.jks ca.keystore db.kdbx putty.ppk user.ovpn
signing.p8 krb5.keytab secret.asc .bash_history .python_history .mysql_history .config/rclone/rclone.conf
"""

# In pieces: whole ones would be found in this file, too.
CONTENTS = {
    "a private key": "x\n-----BEGIN RSA PRIVATE" + " KEY-----\nMIIEowIBAAKCAQEA7bq+\n",
    "an encrypted private key": "-----BEGIN EC PRIVATE"
    + " KEY-----\r\nProc-Type: 4,ENCRYPTED\r\nDEK-Info: AES\r\n\r\nMIIEowIBAAKCAQEA7bq+\r\n",
    "a service account": '{"private_key": "-----BEGIN PRIVATE' + ' KEY-----\\nMIIEvQIBADANBgkqhkiG9w0"}',
    "a key of OpenSSH": "-----BEGIN OPENSSH PRIVATE" + " KEY-----\nb3BlbnNzaC1rZXktdjEA\n",
    "a key of PGP": "-----BEGIN PGP PRIVATE" + " KEY BLOCK-----\nVersion: 1\n\nlQOYBFabcdefghijklm\n",
    "an access key of AWS": "key = 'AKIA" + "Q3EGRHT4Z6WBN2LD'",
    "a secret key of AWS": "aws_secret_access_key" + " = wJalrXUtnFEMIxK7MDENGxbPxRfiCYQ3EGRHT4Z6",
    "an API key of GCP": "AIza" + "SyD4f7Yh2Kq9LmN3pR5sT8vW1xZ6bC0dEgH",
    "a token of GitHub": "GH = 'ghp_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8'",
    "a fine-grained token of GitHub": "github_pat_" + "11ABCDEFG0abcdefghijkl_mnopqrstuvwxyzABCDEFGHIJ",
    "a token of GitLab": "glpat-" + "abcdefGHIJ0123456789",
    "a token of Slack": "xoxb-" + "123456789012-abcdefGHIJKL",
    "a hook of Slack": "https://hooks.slack.com/services/" + "T01234567/B01234567/abcdefghijklmnopqrstuvwx",
    "a token of Hugging Face": "hf_" + "abcdefghijklmnopqrstuvwxyzABCDEFGH",
    "a token of PyPI": "pypi-AgE" + "IcHlwaS5vcmcCJDAwMDAwMDAwLTAwMDAtMDAwMC0wMDAwLTAwMDAwMDAw",
    "a token of npm": "//registry/:_authToken=npm_" + "abcdefghijklmnopqrstuvwxyz0123456789",
    "a key of Azure": "AccountKey=" + "abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJ==",
    "a key of a model's API": "sk-ant-" + "api03-abcdefghijklmnopqrstuvwxyz012345",
    "a signed token": "eyJhbGciOiJIUzI1NiJ9" + ".eyJzdWIiOiIxMjM0NTY3ODkwIn0.abcdefghijklmnopqrstuvwx",
    "a line of .netrc": "machine api.wandb.ai login" + " user password 0123456789abcdef",
    "a Secret of Kubernetes": "apiVersion: v1\nkind:" + " Secret\ndata: {a: b}\n",
}  # fmt: skip

INNOCENT_NAMES = """
stm/data/frame_names.py tokenizer.py environment.yaml tokenizer.json tokenizer_config.json special_tokens_map.json
vocab/tokens.json id_to_class.py id_map.json ids.csv class_ids.txt keys.py keyframes.csv monkey.txt monkey keynote.md
secrets.py tests/test_secrets.py docs/secrets.md password_rules.py credo.md environments/base.yaml
kubernetes/job.yaml docker/Dockerfile docker-compose.yaml .dockerignore .gitignore .github/workflows/test.yaml
.config/nextest.toml history.py train_history.json authors.json identity.py incredible.txt pipeline.pemx hosts.yaml
dsa/notes.md stm/authentication.py envs.py environment.py awscli.md .pre-commit-config.yaml requirements.lock
"""

NAMED, INNOCENT = NAMES.split(), INNOCENT_NAMES.split()

TALKED_OF = (
    'a = "-----BEGIN RSA PRIVATE KEY-----"  # is refused\nb = r"AKIA[0-9A-Z]{16}"\n'
    "kind: SecretStore\nexample: AKIAIOSFODNN7EXAMPLE\nghp_xxxx\nsk-learn-is-a-long-name-with-hyphens-in-it-all\n"
)


def write(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


@pytest.fixture(params=["tracked", "untracked", "no repository"])
def project(request, tmp_path, monkeypatch):
    folder = tmp_path / "project"
    write(folder, dict.fromkeys((*NAMED, *INNOCENT), b"x = 1\n"))
    write(folder, {f"s{k}.py": text.encode() for k, text in enumerate(CONTENTS.values())})
    write(folder, {"u16.txt": CONTENTS["a token of GitHub"].encode("utf-16")})
    write(folder, {"talk.py": TALKED_OF.encode(), "picture.png": b"\0" + b"ghp_" + b"a" * 36})
    (folder / "link.txt").symlink_to(".aws/credentials")
    if request.param != "no repository":
        subprocess.run(["git", "-C", str(folder), "init", "-q"], check=True)
    if request.param == "tracked":
        subprocess.run(["git", "-C", str(folder), "add", "-f", "."], check=True)
    monkeypatch.chdir(folder)
    return folder


def test_no_planted_secret_is_sent_and_nothing_innocent_stays(project):
    sent, left_out = package.sorted_out(project)
    assert sent == sorted([*INNOCENT, "talk.py", "picture.png"])
    kept = {*NAMED, "u16.txt", "link.txt", *(f"s{k}.py" for k in range(len(CONTENTS)))}
    assert set(left_out) == kept
    assert all(why.startswith("it may hold a secret: ") for why in left_out.values())


@pytest.mark.parametrize("what", CONTENTS)
def test_a_key_in_a_file_of_any_name_is_found_and_its_line_is_named(what):
    lines = CONTENTS[what].count("\n", 0, 2) + CONTENTS[what].startswith("apiVersion")
    found = secrets.in_content(b"\n\n" + CONTENTS[what].encode())
    assert found.startswith(f"line {3 + lines} looks like ")


def test_a_file_of_the_largest_size_is_read_in_a_moment_whatever_is_in_it():
    """A pattern whose time grew with the square of the length would not be done within the suite's limit."""
    for unit in (
        b"a" * 64,
        b"machine ",
        b"eyJaaaaaaaaaa.",
        b"-----BEGIN PRIVATE KEY-----\n",
        b"a: b\n",
    ):
        assert secrets.in_content(unit * (secrets.LARGEST_SCANNED // len(unit))) == ""


def test_include_sends_what_is_no_secret_and_exclude_wins(project):
    sent, left_out = package.sorted_out(project, ["token.txt"], ["token.*", "s0.py"])
    assert "s0.py" in sent
    assert left_out["token.txt"] == "--exclude"
    assert "hf_token" in left_out


def test_a_dry_run_names_what_stays_and_a_package_warns_of_it(project, capfd):
    (project / "runs").mkdir()
    (project / "runs/a.txt").write_text("x")
    words = [
        "submit",
        "--dry_run",
        "--exclude",
        "[ac-zA-Z._]*_*",
        "--include",
        "id_work",
        "--name",
        "a",
    ]
    words += ["--", "predict", "--checkpoint", "/shared/run", "/shared/clip.mp4"]
    assert cli.main(words) == 0
    told = capfd.readouterr()
    assert "not sent: .aws/config: it may hold a secret: settings of a cloud" in told.out
    assert "not sent: s0.py: it may hold a secret: line 2 looks like a private key" in told.out
    assert ".aws/config is not sent: it may hold a secret" in told.err
    assert "more like these; credentials come from the node's role" in told.err
    assert cli.main([*words[:2], "--json", *words[2:]]) == 0
    result = json.loads(capfd.readouterr().out)
    assert result["left_out"][".netrc"].endswith("passwords or tokens of a tool")
    assert not set(result["files"]) & set(result["left_out"])


def test_a_name_that_is_no_text_is_left_out_and_the_rest_is_sent(tmp_path, monkeypatch):
    write(tmp_path, {"a.py": b"x"})
    (tmp_path / "b\udcff.py").write_bytes(b"x")
    subprocess.run(["git", "-C", str(tmp_path), "init", "-q"], check=True)
    packed = package.pack(tmp_path, tmp_path.parent / "code.zip")
    assert packed.files == ("a.py",)
    assert packed.left_out == {"b\udcff.py": "its name is not UTF-8"}
