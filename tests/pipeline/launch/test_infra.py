"""infra/ as far as it can be checked without a cloud: schemas, pins, and no secret in any file."""

import re
from pathlib import Path
from typing import Any

import pytest
from ray.autoscaler._private.util import prepare_config, validate_config
from ruamel.yaml import YAML

from tests.support.children import ROOT

INFRA = ROOT / "infra"
SECRET = re.compile(r"(?i)(password|secret|token|access_key)\w*(?:=|: )(?P<value>\S+)")


def load(name: str) -> dict[str, Any]:
    return YAML(typ="safe", pure=True).load(INFRA / name)


@pytest.mark.parametrize("name", ["aws.yaml", "hosts.yaml"])
def test_cluster_files_fit_the_schema_that_ray_ships(name: str) -> None:
    config = load(name)
    validate_config(prepare_config(config))  # prepared as `ray up` does: with the provider's defaults
    starts = [
        line for kind in ("head", "worker") for line in config[f"{kind}_start_ray_commands"] if "ray start" in line
    ]
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert all("0.0.0.0" not in line for line in starts)


def test_the_kuberay_job_asks_for_a_token_and_runs_as_nobody_special() -> None:
    spec = load("rayjob.yaml")["spec"]
    cluster = spec["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert f"ray=={cluster['rayVersion']}\n" in (ROOT / "constraints.txt").read_text()
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert group["template"]["spec"]["securityContext"]["runAsNonRoot"] is True


def test_images_are_pinned_and_services_bind_to_loopback() -> None:
    services = load("compose.yaml")["services"]
    for service in services.values():
        assert re.search(r":[\w.-]*\d|^trilemma:cpu$", service["image"])
        assert all(port.startswith("${BIND:-127.0.0.1}:") for port in service.get("ports", []))
        assert "healthcheck" in service
    dockerfile = (INFRA / "Dockerfile").read_text()
    assert re.search(r"^ARG BASE=python:3\.11\.\d+-slim-\w+$", dockerfile, re.MULTILINE)
    assert "USER trilemma" in dockerfile
    assert "HEALTHCHECK" in dockerfile
    assert "-c constraints.txt" in dockerfile


@pytest.mark.parametrize("file", sorted(path for path in INFRA.iterdir()), ids=lambda path: path.name)
def test_credentials_are_named_in_files_but_never_written(file: Path) -> None:
    for found in SECRET.finditer(file.read_text()):
        assert found["value"].startswith(("${", "$(", "token", "{", "~")), found[0]
