"""The files for containers and clusters agree with the program, with each other, and start a real server."""

import ast
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import onnx
import pytest
import yaml

from tests.tiny import tiny_graph
from toolkit.cli import cli
from toolkit.server.settings import DRAIN_DELAY, DRAIN_TIMEOUT

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "examples" / "deploy"
MANIFESTS = ("deployment.yaml", "kserve.yaml", "triton.yaml")
KINDS = {
    "Deployment": "apps/v1",
    "Service": "v1",
    "HorizontalPodAutoscaler": "autoscaling/v2",
    "PodDisruptionBudget": "policy/v1",
    "ServingRuntime": "serving.kserve.io/v1alpha1",
    "InferenceService": "serving.kserve.io/v1beta1",
}


def documents(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


def of_kind(name: str, kind: str) -> list[dict[str, Any]]:
    return [document for document in documents(name) if document["kind"] == kind]


def pod(name: str) -> dict[str, Any]:
    found: dict[str, Any] = of_kind(name, "Deployment")[0]["spec"]["template"]["spec"]
    return found


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions, continued lines joined, comments left out."""
    lines = [line for line in (DEPLOY / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(words[0], words[1]) for line in joined.splitlines() if (words := line.split(maxsplit=1))]


def values_of(instruction: str) -> list[str]:
    return [rest for word, rest in instructions() if word == instruction]


def entrypoint_defaults() -> list[str]:
    """What the entry point gives `toolkit serve` before the arguments of the container."""
    (line,) = re.findall(r"^exec toolkit serve (.*)$", (DEPLOY / "entrypoint.sh").read_text(), re.MULTILINE)
    words = shlex.split(line)
    assert words.pop() == "$@"
    return words


def served(arguments: list[str]) -> dict[str, Any]:
    """The options of `toolkit serve` as the container would set them, parsed by the command itself."""
    command = cli.get_command(click.Context(cli), "serve")
    assert command is not None
    return command.make_context("serve", [*entrypoint_defaults(), *arguments, "/models/m.engine"]).params


def container(name: str) -> dict[str, Any]:
    if name == "kserve.yaml":
        found: dict[str, Any] = of_kind(name, "ServingRuntime")[0]["spec"]["containers"][0]
        return found
    (one,) = pod(name)["containers"]
    return dict(one)


def probes(one: dict[str, Any]) -> list[dict[str, Any]]:
    return [one[key]["httpGet"] for key in ("startupProbe", "readinessProbe", "livenessProbe") if key in one]


@pytest.mark.parametrize("name", MANIFESTS)
def test_every_document_is_of_the_version_that_clusters_have(name: str) -> None:
    for document in documents(name):
        assert document["apiVersion"] == KINDS[document["kind"]]
        assert re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", document["metadata"]["name"])


@pytest.mark.parametrize("name", ["deployment.yaml", "kserve.yaml"])
def test_the_containers_arguments_are_options_of_serve(name: str) -> None:
    options = served(container(name)["args"])
    assert options["host"] == "0.0.0.0"  # noqa: S104 - in a container
    assert options["engines"] == ("/models/m.engine",)
    if name == "kserve.yaml":
        assert (options["http_port"], options["grpc_port"]) == (8080, 9000)


def test_every_call_of_toolkit_in_the_files_parses() -> None:
    texts = "\n".join(path.read_text() for path in DEPLOY.iterdir())
    calls = re.findall(r"toolkit (package|serve) (model[^\n#]*?--triton \S+)", texts)
    assert calls
    for name, line in calls:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        command.make_context(name, shlex.split(line))


def test_the_images_ports_are_the_servers() -> None:
    (exposed,) = values_of("EXPOSE")
    options = served([])
    assert [int(port) for port in exposed.split()] == [options["http_port"], options["grpc_port"]]
    assert f"127.0.0.1:{options['http_port']}/v2/health/ready" in values_of("HEALTHCHECK")[0]


@pytest.mark.parametrize("name", ["deployment.yaml", "triton.yaml"])
def test_services_find_the_pods_and_their_ports(name: str) -> None:
    (deployment,), (service,) = of_kind(name, "Deployment"), of_kind(name, "Service")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert service["spec"]["selector"].items() <= labels.items()
    ports = {port["name"]: port["containerPort"] for port in container(name)["ports"]}
    assert {port["targetPort"] for port in service["spec"]["ports"]} <= set(ports)
    if name == "deployment.yaml":
        options = served(container(name)["args"])
        assert ports == {"http": options["http_port"], "grpc": options["grpc_port"]}


def test_autoscaler_and_budget_are_about_the_deployment() -> None:
    name = "deployment.yaml"
    (deployment,), (scaler,), (budget,) = (
        of_kind(name, kind) for kind in ("Deployment", "HorizontalPodAutoscaler", "PodDisruptionBudget")
    )
    target = scaler["spec"]["scaleTargetRef"]
    assert (target["apiVersion"], target["kind"], target["name"]) == (
        "apps/v1", "Deployment", deployment["metadata"]["name"],
    )  # fmt: skip
    assert "replicas" not in deployment["spec"]  # or each `apply` would undo what the autoscaler did
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert budget["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert budget["spec"]["minAvailable"] < scaler["spec"]["minReplicas"]  # else no node can be drained
    assert "cpu" in container(name)["resources"]["requests"]  # of which utilisation is a share


@pytest.mark.parametrize("name", MANIFESTS)
def test_probes_ask_routes_that_exist(name: str) -> None:
    from toolkit.server.http.app import ROUTES

    one = container(name)
    paths = [probe["path"] for probe in probes(one)]
    assert {"/v2/health/ready", "/v2/health/live"} == set(paths)
    assert set(paths) <= {path for methods, path, _ in ROUTES if "GET" in methods}
    if name == "kserve.yaml":
        assert {probe["port"] for probe in probes(one)} == {served(one["args"])["http_port"]}
        annotations = of_kind(name, "ServingRuntime")[0]["spec"]["annotations"]
        assert annotations["prometheus.kserve.io/path"] in {path for _, path, _ in ROUTES}
        assert annotations["prometheus.kserve.io/port"] == str(served(one["args"])["http_port"])
    else:
        assert {probe["port"] for probe in probes(one)} == {"http"}


def test_pods_live_longer_than_the_drain() -> None:
    for name in ("deployment.yaml", "kserve.yaml"):
        options = served(container(name)["args"])
        drain = options["drain_delay"] + options["drain_timeout"]
        specs = (
            [pod(name)]
            if name == "deployment.yaml"
            else [service["spec"]["predictor"] for service in of_kind(name, "InferenceService")]
        )
        assert all(spec["terminationGracePeriodSeconds"] >= drain + 5 for spec in specs)
    triton = pod("triton.yaml")
    sleep = int(container("triton.yaml")["lifecycle"]["preStop"]["exec"]["command"][1])
    (exit_timeout,) = (
        int(word.partition("=")[2]) for word in container("triton.yaml")["args"] if "exit-timeout" in word
    )
    assert triton["terminationGracePeriodSeconds"] >= sleep + exit_timeout + 5
    assert served([])["drain_delay"] == DRAIN_DELAY
    assert served([])["drain_timeout"] == DRAIN_TIMEOUT


def test_kserve_services_speak_a_protocol_of_their_runtime_on_its_port() -> None:
    (runtime,) = of_kind("kserve.yaml", "ServingRuntime")
    assert container("kserve.yaml")["name"] == "kserve-container"  # the one that KServe gives the model to
    options = served(container("kserve.yaml")["args"])
    ports = {"v2": options["http_port"], "grpc-v2": options["grpc_port"]}
    assert set(runtime["spec"]["protocolVersions"]) == set(ports)
    formats = {one["name"] for one in runtime["spec"]["supportedModelFormats"]}
    for service in of_kind("kserve.yaml", "InferenceService"):
        model = service["spec"]["predictor"]["model"]
        assert model["runtime"] == runtime["metadata"]["name"]
        assert model["modelFormat"]["name"] in formats
        assert [port["containerPort"] for port in model["ports"]] == [ports[model["protocolVersion"]]]
    gpus = [s["spec"]["predictor"]["model"].get("resources", {}) for s in of_kind("kserve.yaml", "InferenceService")]
    assert [one["limits"]["nvidia.com/gpu"] for one in gpus if one] == ["1"]


@pytest.mark.parametrize("name", ["deployment.yaml", "kserve.yaml"])
def test_nothing_runs_as_root(name: str) -> None:
    user = values_of("USER")[0].partition(":")[0]
    assert int(user) > 0
    context = container(name)["securityContext"]
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"] == {"drop": ["ALL"]}
    if name == "deployment.yaml":
        assert pod(name)["securityContext"]["runAsUser"] == int(user)
        assert context["readOnlyRootFilesystem"] is True
        assert pod(name)["securityContext"]["runAsNonRoot"] is True


def test_the_image_is_made_of_files_that_exist_and_are_let_in() -> None:
    allowed = [line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] == "!"]
    copied = [word for rest in values_of("COPY") if "--from" not in rest for word in rest.split()[:-1]]
    sources = [word for word in copied if not word.startswith("--")]
    assert set(sources) == set(allowed)
    assert all((ROOT / source).exists() for source in sources)
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {name.rstrip("*") for name in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert packages <= set(sources)
    needed = {project["project"]["readme"], *project["project"]["license-files"]}
    assert needed <= set(sources)
    extras = {
        extra
        for value in re.findall(r"EXTRAS=(\S+)", (DEPLOY / "Dockerfile").read_text())
        for extra in value.split(",")
    }
    assert extras <= set(project["project"]["optional-dependencies"])
    assert "serve" in extras


def test_the_last_stage_has_no_build_tools_and_one_process() -> None:
    stages = [rest.partition(" AS ") for word, rest in instructions() if word == "FROM"]
    assert len(stages) == 3
    assert stages[-1][0] == stages[0][2]
    last = instructions()[[n for n, (word, _) in enumerate(instructions()) if word == "FROM"][-1] :]
    assert not [rest for word, rest in last if word == "RUN"]
    assert json.loads(values_of("ENTRYPOINT")[0]) == ["entrypoint.sh"]  # no shell in between that keeps SIGTERM
    assert "exec toolkit serve" in (DEPLOY / "entrypoint.sh").read_text()


class Container:
    """The image's process outside a container: its entry point, environment and health check."""

    def __init__(self, models: Path, *arguments: str, **environment: str) -> None:
        path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
        self.process = subprocess.Popen(
            ["sh", str(DEPLOY / "entrypoint.sh"), "--host=127.0.0.1", "--json", *arguments],
            env={**os.environ, "PATH": path, "MODELS": str(models), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ready(self) -> dict[str, Any]:
        """The line that the server prints once it answers."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate()[1]
        found: dict[str, Any] = json.loads(line)
        return found

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=30)
        return self.process.returncode

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


@pytest.fixture
def models(tmp_path: Path) -> Path:
    onnx.save(tiny_graph(), tmp_path / "model.onnx")
    return tmp_path


@pytest.fixture
def started(models: Path) -> Iterator[Container]:
    one = Container(
        models, "--http-port=0", "--grpc-port=0", "--drain-delay=0", "--drain-timeout=5", MODEL_NAME="digits"
    )
    yield one
    one.kill()


def test_the_entry_point_serves_and_drains_and_the_health_check_sees_it(started: Container) -> None:
    said = started.ready()
    base = said["http"] if said["http"].startswith("http") else f"http://{said['http']}"
    with urllib.request.urlopen(f"{base}/v2/models/digits/ready", timeout=10) as answer:  # noqa: S310
        assert answer.status == 200
    check = values_of("HEALTHCHECK")[0].partition("CMD ")[2]
    words: list[str] = ast.literal_eval(check)
    words[0] = sys.executable
    words[-1] = words[-1].replace("http://127.0.0.1:8000", base)
    assert subprocess.run(words, check=False, timeout=30).returncode == 0
    assert started.end() == 0  # the shell is gone: the signal reached the server
    assert subprocess.run(words, check=False, timeout=30, capture_output=True).returncode != 0


def test_the_entry_point_says_what_is_missing(tmp_path: Path) -> None:
    one = Container(tmp_path)
    _, error = one.process.communicate(timeout=30)
    assert one.process.returncode == 2
    assert error.splitlines()[0].startswith("error: there is no engine (*.engine, *.plan, *.onnx) in ")
    (tmp_path / "a.onnx").touch()
    (tmp_path / "b.onnx").touch()
    one = Container(tmp_path, MODEL_NAME="x")
    _, error = one.process.communicate(timeout=30)
    assert one.process.returncode == 2
    assert "error: MODEL_NAME names one engine, and there are 2" in error


def test_plans_come_before_graphs(tmp_path: Path) -> None:
    for name in ("a b.engine", "c.plan", "d.onnx"):
        (tmp_path / name).touch()
    tool = tmp_path / "bin" / "toolkit"
    tool.parent.mkdir()
    tool.write_text('#!/bin/sh\nfor word in "$@"; do echo "$word"; done\n')
    tool.chmod(0o755)
    environment = {"PATH": f"{tool.parent}{os.pathsep}{os.environ['PATH']}", "MODELS": str(tmp_path)}
    call = ["sh", str(DEPLOY / "entrypoint.sh"), "--queue=8"]
    words = subprocess.run(call, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()
    assert words == ["serve", *entrypoint_defaults(), "--queue=8", f"{tmp_path}/a b.engine", f"{tmp_path}/c.plan"]
