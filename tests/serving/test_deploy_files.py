# Copyright 2026 The clip_hf team. All rights reserved.
# Licensed under the Apache License, Version 2.0; see LICENSE.
"""The files in deploy/, read and held against the code: options, routes, ports, extras, and times."""

import configparser
import json
import re
from pathlib import Path

import pytest
import yaml
from starlette.routing import Route

from _clip_hf_cli import Parser
from _clip_hf_cli import serve as serve_arguments
from clip_hf.serving import ServerOptions, create_app


ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
LINES = re.sub(r"\\\n *", "", (DEPLOY / "Dockerfile").read_text()).splitlines()


def instructions(name: str) -> list[str]:
    """The arguments of each such instruction of the Dockerfile."""
    return [line.removeprefix(f"{name} ") for line in LINES if line.startswith(f"{name} ")]


def parsed(arguments: list[str]):
    """What `clip-hf serve` makes of arguments; an unknown one ends the test."""
    parser = Parser()
    serve_arguments.add_arguments(parser)
    return parser.parse_args(arguments)


@pytest.fixture(scope="module")
def routes() -> set[str]:
    app = create_app(lambda: None, ServerOptions("tiny"))
    return {route.path for route in app.routes if isinstance(route, Route)}


@pytest.fixture(scope="module")
def compose() -> dict:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())


@pytest.fixture(scope="module")
def kubernetes() -> dict:
    return {each["kind"]: each for each in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())}


def image_environment() -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in instructions("ENV")[0].split())


def test_the_image_serves_as_a_user_without_rights(routes):
    entry, command = json.loads(instructions("ENTRYPOINT")[0]), json.loads(instructions("CMD")[0])
    assert entry == ["clip-hf", "serve"]
    options = parsed(command)
    assert (options.model, options.host, options.port) == ("/model", "0.0.0.0", int(instructions("EXPOSE")[0]))
    assert int(instructions("USER")[0].partition(":")[0]) >= 1000 and instructions("STOPSIGNAL") == ["SIGTERM"]
    (check,) = instructions("HEALTHCHECK")
    code = json.loads(check.partition("CMD ")[2])[2]
    compile(code, "HEALTHCHECK", "exec")
    port, path = re.search(r"127\.0\.0\.1:(\d+)(/[\w/]+)", code).groups()
    assert (int(port), path) == (options.port, "/health/live") and path in routes
    environment = image_environment()
    assert all(environment[name].startswith("/tmp") for name in ("HOME", "HF_HOME"))  # all else is read-only


def test_the_image_installs_what_there_is():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = dict(line.split("=", 1) for line in instructions("ARG"))["EXTRAS"].split(",")
    assert set(extras) <= set(setup["options.extras_require"]) and "serve" in extras
    copied = [word for line in instructions("COPY") if "--from" not in line for word in line.split()[:-1]]
    assert all((ROOT / name).exists() for name in copied)
    sent = [line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] == "!"]
    assert sorted(sent) == sorted(copied)
    assert {"setup.cfg", "README.md", "LICENSE", "NOTICE"} <= set(copied)  # which setup.cfg names
    lowest = setup["options"]["python_requires"].removeprefix(">=")
    assert [line.split()[0] for line in instructions("FROM")] == [f"python:{lowest}-slim"] * 2


def test_compose_gives_the_image_what_it_needs(compose):
    service = compose["services"]["clip-hf"]
    options = parsed(service["command"])
    assert service["ports"] == [f"127.0.0.1:{options.port}:{options.port}"]
    (volume,) = service["volumes"]
    assert (volume["target"], volume["read_only"]) == (options.model, True)
    (secret,) = service["secrets"]
    assert options.api_key_file == f"/run/secrets/{secret}" and compose["secrets"].keys() == {secret}
    assert service["read_only"] and service["tmpfs"][0].startswith("/tmp:") and service["cap_drop"] == ["ALL"]
    assert service["mem_limit"] == "4g" and service["init"]
    assert int(service["stop_grace_period"].removesuffix("s")) > options.drain_seconds
    build = service["build"]
    assert (DEPLOY / build["context"] / build["dockerfile"]).is_file()
    assert (DEPLOY / build["context"]).resolve() == ROOT


def test_kubernetes_probes_what_there_is(kubernetes, routes):
    pod = kubernetes["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    options = parsed(container["args"])
    (port,) = container["ports"]
    assert (options.host, options.port) == ("0.0.0.0", port["containerPort"])
    assert not options.allowed_hosts  # a probe's Host is the pod's address
    probes = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")}
    assert {name: probe["path"] for name, probe in probes.items()} == {
        "startup": "/health/ready",
        "readiness": "/health/ready",
        "liveness": "/health/live",
    }
    assert all(probe["path"] in routes and probe["port"] == port["name"] for probe in probes.values())
    startup = container["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 300
    pause = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] > pause + options.drain_seconds
    assert "memory" in container["resources"]["limits"]


def test_kubernetes_runs_it_without_rights(kubernetes):
    pod = kubernetes["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}" == instructions("USER")[0]
    assert pod["securityContext"]["runAsNonRoot"] and not pod["automountServiceAccountToken"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    options = parsed(container["args"])
    mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert mounts.keys() == volumes.keys() and mounts["model"]["readOnly"] and mounts["key"]["readOnly"]
    assert mounts["model"]["mountPath"] == options.model
    folder, _, key = options.api_key_file.rpartition("/")
    assert mounts["key"]["mountPath"] == folder and volumes["key"]["secret"]["secretName"] == "clip-hf"
    assert f"--from-file={key}=" in (DEPLOY / "kubernetes.yaml").read_text()
    assert "emptyDir" in volumes["tmp"] and mounts["tmp"]["mountPath"] == "/tmp"


def test_the_service_finds_the_pods(kubernetes):
    deployment, service = kubernetes["Deployment"]["spec"], kubernetes["Service"]["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    assert deployment["selector"]["matchLabels"] == service["selector"] == labels
    (port,) = service["ports"]
    assert port["targetPort"] == deployment["template"]["spec"]["containers"][0]["ports"][0]["name"]
