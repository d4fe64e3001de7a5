"""Files that hold passwords, tokens or private keys, told by their names and by what is in them.

    by_name(".aws/config")           "settings of a cloud or a cluster, with keys"
    in_content(b"a\\nkey = ghp_...")  "line 2 looks like a token of GitHub"

Names are compared without regard to case. No list is complete: a password in words of its own is not found.
"""

from __future__ import annotations

import codecs
import re

LARGEST_SCANNED = 4 * 2**20
"""Bytes of a file; larger ones are data and no settings."""

_BACKUP = re.compile(r"(?:\.(?:bak|backup|old|orig|save|saved|swp|swo|tmp|copy|dist|\d+)|~)+$")

# Source and prose are named after what they are about: `tokens.py` reads tokens. What is in them is read, as in all.
_CODE = r"(?!.*\.(?:pyi?|pyx|ipynb|md|rst|html?|css|jsx?|tsx?|c|cc|cpp|cu|cuh|h|hpp|rs|go|java|sh|svg)$)"

_NAMES = tuple(
    (why, re.compile(pattern))
    for why, pattern in (
        (
            "a key of SSH or GnuPG",
            r"/\.(?:ssh|gnupg|gpg)/|/\.?id_[^./]*(?:\.pub)?$|[/_.-](?:rsa|dsa|ecdsa|ed25519)(?:[_-](?:sk|key))?"
            r"(?:-cert)?(?:\.(?:pub|txt))?$|/ssh_host_|/identity$",
        ),
        (
            "settings of a cloud or a cluster, with keys",
            r"/\.(?:aws|azure|kube|docker|oci|bluemix|terraform|terraform\.d|mc|minio|doctl|kaggle|huggingface|databricks"
            r"|vault|chef|ansible|mlflow)/|/\.?(?:boto|s3cfg|databrickscfg|dockercfg|dockerconfigjson"
            r"|dockerconfig\.json|terraformrc|vault[-_]token|modal\.toml|passwd-s3fs|rclone\.conf|kaggle\.json)$"
            r"|/\.config/(?:gcloud|gh|hub|glab|rclone|doctl|heroku|sops|op|configstore|openstack)(?:/|$)"
            r"|/(?:[^/]*[._-])?kube_?config(?:[._-][^/]*)?$|/clouds\.yaml$|/openrc(?:\.sh)?$|/[^/]*-openrc\.sh$",
        ),
        (
            "passwords or tokens of a tool",
            r"/[._]netrc(?:\.gpg)?$|/\.(?:npmrc|yarnrc|yarnrc\.yml|pypirc|pgpass|my\.cnf|mylogin\.cnf|htpasswd"
            r"|git-credentials|hgrc|wgetrc|curlrc|cvspass|esmtprc|msmtprc|s3backer_passwd|remote-sync\.json)$"
            r"|/\.(?:password-store|mozilla|subversion|keychain)/|/(?:\.htpasswd|htpasswd|pgpass\.conf|pip\.conf|pip\.ini)$"
            r"|/auth\.(?:json|toml)$|/cookies?\.(?:txt|json|sqlite)$",
        ),
        ("settings of an environment", r"/\.env[^/]*(?:/|$)|/[^/]*\.env(?:[^a-z/][^/]*)?$"),
        ("the state of Terraform, with all its secrets", r"/[^/]*\.(?:tfstate|tfvars)[^/]*(?:/|$)"),
        (
            "a key, a certificate or a keystore",
            r"/[^/]*\.(?:pem|key|p12|pfx|pkcs12|p8|jks|keystore|kdbx?|keytab|ppk|der|asc|gpg|age|ovpn|agekey|keyfile|jwks?"
            r"|mobileconfig)(?:\.(?:gz|enc|txt|zip))?$",
        ),
        (
            "a secret, by its name",
            rf"/[^/]*credential[^/]*(?:/|$)|/\.?secrets?/|/{_CODE}[^/]*(?:secret|passw(?:or)?d|passphrase|api[_-]?key"
            rf"|private[_-]?key|access[_-]?key)[^/]*$|/(?:[^/]*[_.-])?creds?(?:[_.-][^/]*)?$"
            r"|/[^/]*service[_-]?account[^/]*\.json$"
            r"|/[^/]*token(?:\.(?:txt|json|ya?ml|toml|ini|cfg))?$|/[^/]*vault_pass[^/]*$",
        ),
        ("what somebody typed", r"/\.[a-z_]*_?history$|/\.(?:psql|mysql|sqlite|rediscli|node_repl)_history$"),
    )
)  # fmt: skip

_BREAK = rb"(?:\\[rn]|\s){1,4}"
_SHAPES = tuple(
    (what, re.compile(pattern))
    for what, pattern in (
        # A head alone is no key: programs and their tests name it. Lines such as `Proc-Type: 4,ENCRYPTED` may follow.
        ("a private key", rb"-----BEGIN [A-Z0-9 ]{0,20}PRIVATE KEY(?: BLOCK)?-----" + _BREAK
            + rb"(?:[\w-]{1,30}: [^\r\n\\]{0,100}" + _BREAK + rb"){0,4}[A-Za-z0-9+/]{16}"),
        ("a private key", rb"PuTTY-User-Key-File-\d: \S|AGE-SECRET-KEY-1[0-9A-Z]{50}"),
        ("a key of AWS", rb"\b(?:AKIA|ASIA)(?![0-9A-Z]{9}EXAMPLE)[0-9A-Z]{16}\b"),
        ("a key of AWS", rb"(?i)(?:secret_?access_?key|aws_?secret_?key)[\"']?\s{0,4}[=:]\s{0,4}[\"']?"
            rb"(?![A-Za-z0-9/+]{33}EXAMPLEKEY)[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+])"),
        ("a key of Google Cloud", rb"\bAIza[\w-]{35}|\bya29\.[\w-]{30}|\bGOCSPX-[\w-]{28}"),
        ("a key of Azure", rb"\b(?:AccountKey|SharedAccessKey)=[A-Za-z0-9+/]{40}"),
        ("a token of GitHub", rb"\bgh[pousr]_[A-Za-z0-9]{36}|\bgithub_pat_\w{40}"),
        ("a token of GitLab", rb"\bgl(?:pat|dt|rt)-[\w-]{20}"),
        ("a token of Slack", rb"\bxox[abeoprs]-[A-Za-z0-9-]{10}|\bxapp-\d-[A-Z0-9]{8}"
            rb"|hooks\.slack\.com/services/T\w{6,}/B\w{6,}/\w{16}"),
        ("a token of Hugging Face", rb"\bhf_[A-Za-z]{34}\b"),
        ("a token of a package index", rb"\bpypi-AgE[\w-]{50}|\bnpm_[A-Za-z0-9]{36}"),
        ("a key of an API", rb"\bsk-(?:ant-|proj-)[\w-]{32}|\bsk-[A-Za-z0-9]{40}|\b[rs]k_live_[A-Za-z0-9]{20}"
            rb"|\bSG\.[\w-]{22}\.[\w-]{43}|\bdapi[0-9a-f]{32}\b"),
        ("a signed token (JWT)", rb"\beyJ[\w-]{10,4000}\.eyJ[\w-]{10,4000}\.[\w-]{20}"),
        ("a line of .netrc", rb"(?m)^[ \t]{0,8}machine\s{1,8}\S{1,200}\s{1,8}login\s{1,8}\S{1,200}"
            rb"\s{1,8}password\s{1,8}\S"),
        ("a Secret of Kubernetes", rb"(?m)^kind:[ \t]{1,4}[\"']?Secret[\"']?[ \t\r]*$"),
    )
)  # fmt: skip


def by_name(name: str) -> str:
    """Why a file with this path, relative and with ``/``, is taken for a secret; "" where it is not."""
    path = _BACKUP.sub("", f"/{name}".lower())
    return next((why for why, pattern in _NAMES if pattern.search(path)), "")


def in_content(content: bytes) -> str:
    """Where the content of a file looks like a key, and like whose; "" where it does not, or is no text."""
    if len(content) > LARGEST_SCANNED:
        return ""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        content = content.decode("utf-16", "replace").encode()
    if b"\0" in content[:8192]:
        return ""
    for what, pattern in _SHAPES:
        if found := pattern.search(content):
            line = content.count(b"\n", 0, found.start()) + 1
            return f"line {line} looks like {what}"
    return ""
