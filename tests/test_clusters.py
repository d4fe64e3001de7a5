"""The files of `clusters/`: valid for Ray, closed to the world, without secrets; the README's commands exist."""

from __future__ import annotations

import copy
import importlib
import json
import re
import shlex
import subprocess
import sys
import urllib.request
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from stm import recipes, storage
from tests.stores import environment_of, s3_server

CLUSTERS = Path(__file__).parents[1] / "clusters"
ROOT = CLUSTERS.parent
CLOUDS = ("aws", "gcp", "azure")
KUBERAY = ("raycluster", "rayjob")
README = (CLUSTERS / "README.md").read_text()
FILES = sorted(path for path in CLUSTERS.rglob("*") if path.is_file())


def load(name: str) -> Any:
    return yaml.safe_load((CLUSTERS / f"{name}.yaml").read_text())


# ---------------------------------------------------------------- ray up


def ray_schema() -> dict[str, Any]:
    import ray.autoscaler

    return json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())


@pytest.mark.parametrize("name", [*CLOUDS, "local"])
def test_ray_up_accepts_the_file(name):
    from ray.autoscaler._private.util import prepare_config, validate_config

    jsonschema = importlib.import_module("jsonschema")
    config = load(name)
    jsonschema.validate(config, ray_schema())  # as written: an unknown key is an error
    validate_config(prepare_config(copy.deepcopy(config)))


@pytest.mark.parametrize(
    "break_it",
    [
        lambda config: config.update(idle_timeout_minute=5),
        lambda config: config["available_node_types"]["gpu"].update(max_worker=2),
        lambda config: config["docker"].update(images="x"),
    ],
)
def test_the_check_catches_a_misspelt_key(break_it):
    jsonschema = importlib.import_module("jsonschema")
    config = load("aws")
    break_it(config)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(config, ray_schema())


@pytest.mark.parametrize("name", CLOUDS)
def test_the_head_is_on_demand_and_takes_no_work(name):
    config = load(name)
    head = config["available_node_types"][config["head_node_type"]]
    assert head["resources"] == {"CPU": 0, "GPU": 0}
    assert head["max_workers"] == 0  # no second node of its kind
    assert "--num-cpus=0" in config["head_start_ray_commands"][-1]
    assert not is_spot(head)


def is_spot(node_type: dict[str, Any]) -> bool:
    return bool(re.search(r"spot", json.dumps(node_type["node_config"]), re.IGNORECASE))


@pytest.mark.parametrize("name", CLOUDS)
def test_training_and_decoding_have_bounded_groups_of_their_own_on_spot(name):
    config = load(name)
    groups = {key: value for key, value in config["available_node_types"].items() if key != "head"}
    assert set(groups) == {"gpu", "cpu"}
    for group in groups.values():
        assert is_spot(group)
        assert 0 <= group["min_workers"] <= group["max_workers"] > 0
    assert groups["gpu"]["resources"]["GPU"] > 0
    assert "GPU" not in groups["cpu"]["resources"]
    assert config["max_workers"] == sum(group["max_workers"] for group in groups.values())
    assert 0 < config["idle_timeout_minutes"] <= 10


@pytest.mark.parametrize("name", CLOUDS)
def test_no_node_has_a_public_address_or_an_open_port(name):
    config = load(name)
    assert config["provider"]["use_internal_ips"] is True
    assert "use_external_head_ip" not in config["provider"]
    for node_type in config["available_node_types"].values():
        node = node_type["node_config"]
        if name == "aws":  # else Ray makes a group that opens port 22 to every address
            assert node["SecurityGroupIds"]
            assert node["MetadataOptions"]["HttpTokens"] == "required"
            assert "NetworkInterfaces" not in node
        if name == "gcp":
            assert [list(interface) for interface in node["networkInterfaces"]] == [["subnetwork"]]


def test_ray_still_opens_ssh_to_the_world_where_no_group_is_named():
    """Why `aws.yaml` must name one, and `azure.yaml` may have no public address; drop both when Ray no longer does."""
    import ray.autoscaler

    private = Path(ray.autoscaler.__file__).parent / "_private"
    assert '{"CidrIp": "0.0.0.0/0"}' in (private / "aws" / "config.py").read_text()
    template = (private / "_azure" / "azure-config-template.json").read_text()
    assert '"sourceAddressPrefix": "*"' in template


@pytest.mark.parametrize("name", CLOUDS)
def test_nodes_reach_storage_through_roles_and_workers_have_not_the_heads(name):
    config = load(name)
    nodes = {key: value["node_config"] for key, value in config["available_node_types"].items()}
    if name == "azure":  # Ray's provider knows one identity for all
        assert config["provider"]["msi_name"]
        assert config["provider"]["msi_resource_group"]
        return
    key = "IamInstanceProfile" if name == "aws" else "serviceAccounts"
    assert nodes["gpu"][key] == nodes["cpu"][key] != nodes["head"][key]
    if name == "gcp":
        assert "cloud-platform" not in str(nodes["gpu"][key])


@pytest.mark.parametrize("name", [*CLOUDS, "local"])
def test_every_node_shows_the_token_and_the_dashboard_stays_on_loopback(name):
    config = load(name)
    assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    assert config["file_mounts"] == {"/home/stm/.ray/auth_token": "~/.ray/auth_token"}
    starts = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    assert "--dashboard-host=127.0.0.1" in config["head_start_ray_commands"][-1]
    for command in starts:
        parse_ray(command)


# ---------------------------------------------------------------- Kubernetes

# The fields that the files use, as KubeRay's API reference and Kubernetes name them; a dict is an object, a list an
# array of what it holds, a type a value.
POD = {
    "serviceAccountName": str,
    "nodeSelector": {"stm/pool": str},
    "tolerations": [{"key": str, "operator": str, "effect": str}],
    "securityContext": {"runAsNonRoot": bool, "runAsUser": int, "fsGroup": int},
    "containers": [
        {
            "name": str,
            "image": str,
            "securityContext": {"allowPrivilegeEscalation": bool, "capabilities": {"drop": [str]}},
            "ports": [{"name": str, "containerPort": int}],
            "resources": {
                "requests": {"cpu": str, "memory": str, "nvidia.com/gpu": str},
                "limits": {"cpu": str, "memory": str, "nvidia.com/gpu": str},
            },
            "volumeMounts": [{"name": str, "mountPath": str}],
        }
    ],
    "volumes": [
        {
            "name": str,
            "persistentVolumeClaim": {"claimName": str},
            "emptyDir": {"medium": str, "sizeLimit": str},
        }
    ],
}
RAY_CLUSTER_SPEC = {
    "rayVersion": str,
    "authOptions": {"mode": str},
    "enableInTreeAutoscaling": bool,
    "autoscalerOptions": {"version": str, "idleTimeoutSeconds": int, "upscalingMode": str},
    "headGroupSpec": {
        "serviceType": str,
        "rayStartParams": {"num-cpus": str, "num-gpus": str},
        "template": {"spec": POD},
    },
    "workerGroupSpecs": [
        {
            "groupName": str,
            "replicas": int,
            "minReplicas": int,
            "maxReplicas": int,
            "rayStartParams": {},
            "template": {"spec": POD},
        }
    ],
}
SPECS = {
    "raycluster": RAY_CLUSTER_SPEC,
    "rayjob": {
        "entrypoint": str,
        "submissionMode": str,
        "backoffLimit": int,
        "shutdownAfterJobFinishes": bool,
        "ttlSecondsAfterFinished": int,
        "rayClusterSpec": RAY_CLUSTER_SPEC,
    },
}


def misfits(value: Any, fields: Any, where: str = "") -> list[str]:
    """Where a manifest holds what the fields do not have; [] where it fits."""
    if isinstance(fields, dict):
        if not isinstance(value, dict):
            return [f"{where} is no object"]
        unknown = [f"{where}.{key} is unknown" for key in value if key not in fields]
        known = [(key, each) for key, each in value.items() if key in fields]
        return unknown + [m for k, v in known for m in misfits(v, fields[k], f"{where}.{k}")]
    if isinstance(fields, list):
        if not isinstance(value, list):
            return [f"{where} is no list"]
        return [m for i, v in enumerate(value) for m in misfits(v, fields[0], f"{where}[{i}]")]
    return [] if type(value) is fields else [f"{where} is no {fields.__name__}"]


def manifest(name: str) -> dict[str, Any]:
    return load(f"kuberay/{name}")


def cluster_spec(name: str) -> dict[str, Any]:
    spec = manifest(name)["spec"]
    return spec["rayClusterSpec"] if name == "rayjob" else spec


def pods(name: str) -> dict[str, dict[str, Any]]:
    spec = cluster_spec(name)
    groups = {group["groupName"]: group for group in spec["workerGroupSpecs"]}
    return {
        key: group["template"]["spec"]
        for key, group in {"head": spec["headGroupSpec"], **groups}.items()
    }


@pytest.mark.parametrize("name", KUBERAY)
def test_a_kubernetes_file_has_only_fields_of_kuberay(name):
    content = manifest(name)
    assert content["apiVersion"] == "ray.io/v1"
    assert content["kind"] == {"raycluster": "RayCluster", "rayjob": "RayJob"}[name]
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", content["metadata"]["name"])
    assert misfits(content["spec"], SPECS[name]) == []
    assert misfits({**content["spec"], "backofLimit": 3}, SPECS[name]) == [
        ".backofLimit is unknown"
    ]


@pytest.mark.parametrize("name", KUBERAY)
def test_kubernetes_scales_bounded_groups_and_leaves_the_head_without_work(name):
    spec = cluster_spec(name)
    assert spec["enableInTreeAutoscaling"] is True
    assert spec["rayVersion"] == version("ray")
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    groups = {group["groupName"]: group for group in spec["workerGroupSpecs"]}
    assert set(groups) == {"gpu", "cpu"}
    for group in groups.values():
        assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    limits = {key: pod["containers"][0]["resources"]["limits"] for key, pod in pods(name).items()}
    assert {key for key, limit in limits.items() if "nvidia.com/gpu" in limit} == {"gpu"}
    spots = {key for key, pod in pods(name).items() if "spot" in pod["nodeSelector"]["stm/pool"]}
    assert spots == {"gpu", "cpu"}


@pytest.mark.parametrize("name", KUBERAY)
def test_kubernetes_closes_what_can_be_closed(name):
    spec = cluster_spec(name)
    assert spec["authOptions"] == {"mode": "token"}
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"
    for pod in pods(name).values():
        assert pod["securityContext"]["runAsNonRoot"] is True
        (container,) = pod["containers"]
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}
        assert container["resources"]["requests"] == container["resources"]["limits"]


def test_a_retried_kubernetes_job_continues_its_run():
    spec = manifest("rayjob")["spec"]
    assert spec["backoffLimit"] > 0
    assert spec["shutdownAfterJobFinishes"] is True
    config = parse_stm(spec["entrypoint"])
    assert config.train.name  # the name is what makes a second start a continuation
    assert config.train.storage == "/shared/runs"
    assert config.train.checkpoint_every_steps
    (gpu,) = [g for g in cluster_spec("rayjob")["workerGroupSpecs"] if g["groupName"] == "gpu"]
    assert gpu["minReplicas"] >= 1


# ---------------------------------------------------------------- Dockerfile, Slurm


def instructions() -> list[tuple[str, str]]:
    """(INSTRUCTION, arguments) of the Dockerfile, continued lines joined, comments left out."""
    text = "\n".join(
        line
        for line in (CLUSTERS / "Dockerfile").read_text().splitlines()
        if not line.lstrip().startswith("#")
    )
    lines = [line for line in re.sub(r"\\\n", "", text).splitlines() if line.strip()]
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines]


KNOWN = {"ARG", "FROM", "ENV", "RUN", "WORKDIR", "COPY", "USER", "CMD"}


def test_the_dockerfile_parses_and_copies_files_that_exist():
    parsed = instructions()
    assert {name for name, _ in parsed} <= KNOWN
    for name, arguments in parsed:
        words = arguments.split()
        if name == "COPY" and not words[0].startswith("--from"):
            assert all((ROOT / source).exists() for source in words[:-1]), arguments
        if name == "RUN":
            checked = subprocess.run(["sh", "-n", "-c", arguments], capture_output=True, text=True)
            assert checked.returncode == 0, checked.stderr
    stages = [arguments.split() for name, arguments in parsed if name == "FROM"]
    assert all(stage[0].startswith("python:${PYTHON}-") for stage in stages)
    stage_names = [stage[2] for stage in stages if len(stage) == 3]
    copied = re.findall(r"--from=(\S+)", " ".join(arguments for _, arguments in parsed))
    assert set(copied) <= set(stage_names)


def test_the_image_runs_as_a_user_without_rights_and_installs_the_lock_file():
    parsed = instructions()
    last = parsed[max(i for i, (name, _) in enumerate(parsed) if name == "FROM") :]
    assert dict(last)["USER"] not in ("0", "root")
    assert not any("sudo" in arguments for _, arguments in parsed)
    runs = [arguments for name, arguments in parsed if name == "RUN"]
    locked = "pip install --constraint requirements.lock -r runtime.txt setuptools"
    assert any(locked in run for run in runs)
    for run in runs:
        if "apt-get install" in run:  # no list of packages left in the layer
            assert "--no-install-recommends" in run
            assert "rm -rf /var/lib/apt/lists" in run
    # Code comes after packages, so that a changed line does not install everything anew.
    copies = [arguments for name, arguments in parsed if name == "COPY"]
    assert copies.index("requirements.lock ./") < copies.index("stm ./stm")


def test_the_build_sees_what_the_dockerfile_copies_and_nothing_large():
    rules = (CLUSTERS / "Dockerfile.dockerignore").read_text().splitlines()
    rules = [rule for rule in rules if rule and not rule.startswith("#")]
    assert rules[0] == "*"
    let_in = {rule[1:] for rule in rules if rule.startswith("!")}
    copied = {
        source
        for name, arguments in instructions()
        if name == "COPY" and not arguments.startswith("--from")
        for source in arguments.split()[:-1]
    }
    assert let_in == copied


def test_the_dockerfile_finds_torch_and_the_requirements_in_our_files(tmp_path):
    """Runs the two lines that read requirements.lock and pyproject.toml."""
    runs = [arguments for name, arguments in instructions() if name == "RUN"]
    torch = next(run for run in runs if "torch.txt" in run).split("&&")[0]
    runtime = next(run for run in runs if "runtime.txt" in run).split("&& pip")[0]
    for name in ("requirements.lock", "pyproject.toml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    environment = {"EXTRAS": "s3 gcs", "CLOUD_SDK": "boto3", "PATH": "/usr/local/bin:/usr/bin:/bin"}
    runtime = re.sub(r"^python ", f"{shlex.quote(sys.executable)} ", runtime)
    for command in (torch, runtime):
        subprocess.run(["sh", "-c", command], cwd=tmp_path, env=environment, check=True)
    assert re.fullmatch(r"torch==\d+\.\d+\.\d+\n", (tmp_path / "torch.txt").read_text())
    packages = (tmp_path / "runtime.txt").read_text().splitlines()
    assert {"s3fs", "gcsfs", "boto3"} <= set(packages)
    assert any(package.startswith("ray[") for package in packages)
    assert not any(package.startswith(("pytest", "ruff", "moto")) for package in packages)


def test_the_image_has_the_user_and_the_home_that_cluster_files_name():
    text = (CLUSTERS / "Dockerfile").read_text()
    assert "useradd --uid 1000 --create-home --shell /bin/bash stm" in text
    assert "ENV HOME=/home/stm " in text  # Ray looks there, not into /etc/passwd
    for name in KUBERAY:
        assert {pod["securityContext"]["runAsUser"] for pod in pods(name).values()} == {1000}


def test_the_slurm_script_is_bash_and_its_commands_exist():
    script = CLUSTERS / "slurm.sh"
    checked = subprocess.run(["bash", "-n", script], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    assert script.stat().st_mode & 0o111
    text = script.read_text()
    joined = re.sub(r"^ *#.*\n|\\\n", "", text, flags=re.MULTILINE)
    from ray.scripts.scripts import cli

    assert "set -euo pipefail" in text
    assert "RAY_AUTH_MODE=token" in text
    assert not re.search(r"^[^#]*ray (stop|symmetric-run)", text, re.MULTILINE)  # other Rays stay
    starts = re.findall(
        r'(?:ray start|"\$\{start\[@\]\}") (.*?)(?:&$|\)$)', joined, re.MULTILINE | re.DOTALL
    )
    assert len(starts) == 3
    options = {option for start in starts for option in re.findall(r"--[a-z-]+", start)}
    assert options <= options_of(cli.commands["start"])
    assert {"--block", "--temp-dir", "--port", "--ray-client-server-port"} <= options


# ---------------------------------------------------------------- rights


@pytest.fixture
def worker_role(tmp_path, monkeypatch):
    """A store that holds to IAM policies, and this process as a user with that of the workers. Its bucket is `stm`."""
    boto3 = pytest.importorskip("boto3")
    policy = (CLUSTERS / "iam" / "aws-worker.json").read_text().replace("BUCKET-FILL-IN", "stm")
    with s3_server(tmp_path) as url:
        for name, value in environment_of(url).items():
            monkeypatch.setenv(name, value)
        s3, iam = boto3.client("s3"), boto3.client("iam")
        s3.create_bucket(Bucket="stm")
        s3.put_object(Bucket="stm", Key="manifests/train.parquet", Body=b"rows")
        iam.create_user(UserName="worker")
        iam.put_user_policy(UserName="worker", PolicyName="stm", PolicyDocument=policy)
        key = iam.create_access_key(UserName="worker")["AccessKey"]
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
        # From here on every call is checked.
        plain = {"Content-Type": "text/plain"}
        from_now = urllib.request.Request(f"{url}/moto-api/reset-auth", b"0", plain)
        urllib.request.urlopen(from_now).close()
        yield


def test_workers_may_read_the_bucket_and_write_where_runs_go_and_nowhere_else(worker_role):
    assert storage.read_bytes("s3://stm/manifests/train.parquet") == b"rows"
    storage.make_writable("s3://stm/runs/first")  # writes, reads, lists and removes a file
    with pytest.raises(storage.StorageError, match="manifests"):
        storage.make_writable("s3://stm/manifests")


def documents(name: str) -> list[dict[str, Any]]:
    """The objects of a file of `kuberay/`."""
    return list(yaml.safe_load_all((CLUSTERS / "kuberay" / f"{name}.yaml").read_text()))


def test_the_claim_and_the_account_of_kubernetes_are_those_that_its_files_name():
    made = documents("shared")
    names = {each["kind"]: each["metadata"]["name"] for each in made}
    assert made[0]["spec"]["accessModes"] == ["ReadWriteMany"]
    for name in KUBERAY:
        text = (CLUSTERS / "kuberay" / f"{name}.yaml").read_text()
        assert set(re.findall(r"claimName: ([\w-]+)", text)) == {names["PersistentVolumeClaim"]}
        assert set(re.findall(r"serviceAccountName: ([\w-]+)", text)) == {names["ServiceAccount"]}


# ---------------------------------------------------------------- servers and figures on Kubernetes


def of_kind(name: str, kind: str) -> dict[str, Any]:
    (found,) = (each for each in documents(name) if each["kind"] == kind)
    return found


def container(name: str) -> dict[str, Any]:
    (only,) = of_kind(name, "Deployment")["spec"]["template"]["spec"]["containers"]
    return only


@pytest.mark.parametrize("name", ["serve", "mlflow"])
def test_a_servers_labels_ports_and_volumes_agree(name):
    deployment, service = of_kind(name, "Deployment")["spec"], of_kind(name, "Service")["spec"]
    policy, pod = of_kind(name, "NetworkPolicy")["spec"], deployment["template"]["spec"]
    labels = {"app": f"stm-{name}"}
    assert deployment["selector"]["matchLabels"] == service["selector"] == labels
    assert deployment["template"]["metadata"]["labels"] == labels
    assert policy["podSelector"]["matchLabels"] == labels
    only = container(name)
    (port,) = only["ports"]
    assert f"--port={port['containerPort']}" in only["args"]
    assert [each["targetPort"] for each in service["ports"]] == [port["name"]]
    assert [each["port"] for each in policy["ingress"][0]["ports"]] == [port["name"]]
    for probe in ("startupProbe", "readinessProbe"):
        assert only[probe]["httpGet"] == {"path": "/health", "port": port["name"]}
    assert {each["name"] for each in only["volumeMounts"]} == {
        volume["name"] for volume in pod["volumes"]
    }
    claims = {
        each["metadata"]["name"]
        for each in [*documents("shared"), *documents(name)]
        if each["kind"] == "PersistentVolumeClaim"
    }
    for volume in pod["volumes"]:
        assert volume.get("persistentVolumeClaim", {}).get("claimName") in {*claims, None}


@pytest.mark.parametrize("name", ["serve", "mlflow"])
def test_a_server_has_no_rights_that_it_does_not_need(name):
    pod, only = of_kind(name, "Deployment")["spec"]["template"]["spec"], container(name)
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == 1000
    assert only["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
    }
    assert only["resources"]["requests"] == only["resources"]["limits"]
    assert of_kind(name, "Service")["spec"]["type"] == "ClusterIP"


def test_the_server_on_kubernetes_is_stm_serve_with_options_that_it_has():
    from pipelines import serve
    from pipelines.options import Options
    from pipelines.words import read

    only = container("serve")
    assert only["command"] == ["stm", "serve"]
    asked = read(Options.of(serve), only["args"]).keywords
    variables = {each["name"]: each["valueFrom"] for each in only["env"]}
    assert asked["host"] == "$(POD_IP)"
    assert asked["allowed_hosts"] == [of_kind("serve", "Service")["metadata"]["name"], "$(POD_IP)"]
    assert asked["checkpoint"].startswith("/shared/runs/")
    assert variables["POD_IP"] == {"fieldRef": {"fieldPath": "status.podIP"}}
    assert variables["STM_SERVE_TOKEN"] == {"secretKeyRef": {"name": "stm-serve", "key": "token"}}
    cpus = int(only["resources"]["limits"]["cpu"])
    assert asked["replicas"] + asked["decoders"] <= cpus
    grace_s = of_kind("serve", "Deployment")["spec"]["template"]["spec"][
        "terminationGracePeriodSeconds"
    ]
    assert grace_s > asked["receive_s"] + asked["answer_s"] + 10
    assert "serve" in re.search(r'ARG EXTRAS="(.*)"', (CLUSTERS / "Dockerfile").read_text())[1]


def test_the_mlflow_server_has_options_that_exist_and_the_name_that_is_called():
    from mlflow.cli import cli

    only, service = container("mlflow"), of_kind("mlflow", "Service")
    assert only["command"] == ["mlflow", "server"]
    context = cli.commands["server"].make_context("server", list(only["args"]))
    (port,) = service["spec"]["ports"]
    called = f"{service['metadata']['name']}:{port['port']}"
    assert called in context.params["allowed_hosts"].split(",")
    assert f"--tracking.uri http://{called}" in (CLUSTERS / "kuberay/mlflow.yaml").read_text()
    (mount,) = only["volumeMounts"]
    assert context.params["backend_store_uri"].startswith(f"sqlite:///{mount['mountPath']}/")
    assert context.params["artifacts_destination"].startswith(f"{mount['mountPath']}/")


def test_prometheus_finds_every_pod_and_may_read_it():
    ray_pods, servers = (each["spec"] for each in documents("monitoring"))
    (endpoint,) = ray_pods["podMetricsEndpoints"]
    for name in KUBERAY:
        for pod in pods(name).values():
            assert {"name": endpoint["port"], "containerPort": 8080} in pod["containers"][0][
                "ports"
            ]
    assert servers["selector"] == of_kind("serve", "Deployment")["spec"]["selector"]
    (endpoint,) = servers["podMetricsEndpoints"]
    only = container("serve")
    assert endpoint["port"] == only["ports"][0]["name"]
    token = next(each for each in only["env"] if each["name"] == "STM_SERVE_TOKEN")
    assert endpoint["authorization"]["credentials"] == token["valueFrom"]["secretKeyRef"]


def test_every_metric_of_the_dashboard_is_one_that_is_exported():
    from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES

    from stm.serve.meters import Meters
    from stm.train.gauges import NAMES

    meters = Meters(lambda: 0)
    meters.count(200, "", 0.1)
    exported = set(re.findall(r"^(stm_\w+?)[{ ]", meters.text(), re.MULTILINE))
    ours = {f"ray_{name}" for name in NAMES}
    exported |= ours | {f"ray_{name}" for name in METRICS_GAUGES}
    board = json.loads((CLUSTERS / "kuberay" / "grafana.json").read_text())
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    asked = {name for query in queries for name in re.findall(r"\b(?:ray|stm)_\w+", query)}
    assert asked <= exported
    assert asked >= ours  # none is exported that nobody looks at
    assert {panel["id"] for panel in board["panels"]} == set(range(1, len(board["panels"]) + 1))


# ---------------------------------------------------------------- all files

SECRET = re.compile(
    r"AKIA[0-9A-Z]{12,}|ASIA[0-9A-Z]{12,}|AIza[0-9A-Za-z_-]{30,}|gh[pousr]_[0-9A-Za-z]{20,}|PRIVATE KEY"
    r"|(?i:password|secret_access_key|account_?key|sas_token|client_secret|api_key)\s*[:=]\s*\S"
    r"|(?<![\w/.-])[0-9a-fA-F]{32,}(?![\w-])|(?<![\w/+.-])(?=[A-Za-z0-9+/]*\d)[A-Za-z0-9+/]{40,}={0,2}(?![\w/.-])"
)


def test_the_search_for_secrets_finds_them():
    # Put together here, so that no scanner takes this file for a leak.
    for secret in (
        "AKIA" + "IOSFODNN7EXAMPLE",
        "password: " + "hunter2",
        "-----BEGIN RSA " + "PRIVATE KEY-----",
        "token: " + "0123456789abcdef" * 2,
        "key=" + "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY1",
    ):
        assert SECRET.search(secret), secret


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CLUSTERS)))
def test_no_file_holds_a_secret_or_opens_a_port_to_the_world(path):
    text = path.read_text()
    assert not SECRET.search(text)
    code = "\n".join(line.split("#")[0] for line in text.splitlines())
    if path.name == "mlflow.yaml":  # of a pod whose policy says who comes
        code = code.replace("--host=0.0.0.0", "")
    assert "0.0.0.0" not in code
    assert "::/0" not in code
    assert not re.search(r"ssh_private_key|gcp_credentials|accessConfigs|enableIngress", code)


def test_every_line_to_fill_in_is_marked_alike():
    for path in FILES:
        assert not re.search(r"<[a-z_-]+>|\bTODO\b|CHANGE_?ME|\bxxxx", path.read_text()), path


# ---------------------------------------------------------------- README


def commands(text: str) -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def options_of(command: Any) -> set[str]:
    return {option for parameter in command.params for option in parameter.opts}


def parse_ray(command: str) -> str | None:
    """Let Ray's command line parse a command without running it; what follows `--` is returned."""
    from ray.scripts.scripts import cli

    words = shlex.split(command)[1:]
    group: Any = cli
    while hasattr(group, "commands"):
        assert words[0] in group.commands, f"`{command}`: Ray has no command {words[0]}"
        group, words = group.commands[words[0]], words[1:]
    context = group.make_context(group.name, list(words))
    entrypoint = context.params.get("entrypoint")
    return shlex.join(entrypoint) if entrypoint else None


def parse_stm(command: str) -> Any:
    """Parse `stm train ...` as the command line does; the config it describes."""
    from pipelines import train
    from pipelines.options import Options
    from pipelines.words import read

    words = shlex.split(command)
    assert words[:2] == ["stm", "train"]
    return read(Options.of(train), words[2:]).keywords["config"]


def job_of(words: list[str]) -> Any:
    """What `stm submit ... -- VERB ...` would send, once its own options are parsed."""
    from pipelines import command, submit
    from pipelines.options import Options
    from pipelines.words import read

    call = read(Options.of(submit), words[2:])
    return command.check(call.rest, call.keywords["name"], sent=())


OTHERS = {
    "docker": {"buildx build"},
    "kubectl": {
        "apply -f",
        "create secret generic stm-serve",
        "delete -f",
        "get rayjob",
        "port-forward service/stm-head-svc",
    },
}


@pytest.mark.parametrize("command", commands(README))
def test_a_command_of_the_readme_is_one(command):
    words = shlex.split(command)
    if words[0] == "ray":
        entrypoint = parse_ray(command)
        if entrypoint:
            config = parse_stm(entrypoint)
            assert config.train.name in recipes.names()  # the same job again continues the run
    elif words[:2] == ["stm", "submit"]:
        job = job_of(words)
        assert job.name in recipes.names()  # the same job again continues the run
    elif words[:2] == ["stm", "jobs"]:
        from pipelines import jobs
        from pipelines.options import Options
        from pipelines.words import read

        read(Options.of(jobs), words[2:])
    elif words[0] == "export":
        assert words[1:] == ["RAY_AUTH_MODE=token"]
    elif words[0] == "sbatch":
        script = words.index("clusters/slurm.sh")
        parse_stm("stm train " + shlex.join(words[script + 1 :]))
    else:
        assert any(command.startswith(f"{words[0]} {verb}") for verb in OTHERS[words[0]])
    for word in words:
        if word.startswith("clusters/"):
            assert (ROOT / word).is_file(), word


def test_the_readme_goes_from_nothing_to_a_job_in_four_commands():
    first = re.search(r"```sh\n(.*?)```", README, re.DOTALL).group(1).splitlines()
    assert [line.split()[0:2] for line in first] == [
        ["docker", "buildx"], ["ray", "up"], ["ray", "dashboard"], ["stm", "submit"],
    ]  # fmt: skip
    assert "ray down clusters/aws.yaml --yes" in commands(README)


def test_the_readme_names_every_file_and_what_was_not_run():
    for path in FILES:
        if path.name != "README.md":
            assert str(path.relative_to(CLUSTERS)) in README, path
    assert "We have neither built the image nor run the files in a cloud" in README


@pytest.mark.parametrize("name", ["aws", "gcp", "azure"])
def test_the_readme_asks_for_no_more_workers_than_the_least_group_has_gpus(name):
    gpu = load(name)["available_node_types"]["gpu"]
    least = gpu["min_workers"] * gpu["resources"]["GPU"]
    assert least == {"aws": 4, "gcp": 4, "azure": 1}[name]
    assert "(4 on AWS and Google Cloud, 1 on Azure)" in " ".join(README.split())
