"""`trilemma submit`: a command as a job on a cluster, through Ray's jobs API; it goes on when this machine is gone.

The working tree travels without what .gitignore names. Credentials do not: a job's environment can be read on the
dashboard, so they belong to the environment in which `ray start` ran.
"""

import logging
import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import ray
import requests
from ray.job_submission import JobSubmissionClient

from pipeline.config.study import load_study
from pipeline.errors import TrilemmaError, UserError
from pipeline.launch.cluster import cluster_token

SHARED = ("TRILEMMA_STORE", "MLFLOW_TRACKING_URI")  # otherwise what the job makes would vanish with its folder
FORWARDED = (*SHARED, "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION")
KEPT_HERE = [".git/", ".dvc/cache/", ".dvc/tmp/", ".dvc/config.local", ".venv", "**/__pycache__"]
ANSWER_SECONDS = 10


def submit(command: Sequence[str], dashboard: str, folder: Path) -> str:
    """Start `trilemma *command` in the study's folder on the head node, and say which job it is."""
    study = load_study(folder / "params.yaml")
    environment = _environment(os.environ, study.root)
    if not cluster_token():
        raise UserError("no token for the cluster: set RAY_AUTH_TOKEN to the one its nodes were started with")
    headers = {"Authorization": f"Bearer {cluster_token()}"}
    _check(dashboard, headers)
    logging.getLogger("ray").setLevel(logging.ERROR)  # it would tell of every file it ignores
    words = ["cd", str(study.folder.relative_to(study.root)), "&&", "exec", "python", "-m", "pipeline.cli.main"]
    without_git = "dvc config --quiet --local core.no_scm true && "
    try:
        return JobSubmissionClient(dashboard, headers=headers).submit_job(
            entrypoint=f"{without_git}{' '.join(words)} {shlex.join(command)}",
            runtime_env={"working_dir": str(study.root), "excludes": KEPT_HERE, "env_vars": environment},
        )
    except (RuntimeError, ValueError, requests.RequestException) as error:
        raise TrilemmaError(
            f"the cluster at {dashboard} did not take the job: {' '.join(str(error).split())}"
        ) from None


def _environment(known: Mapping[str, str], root: Path) -> dict[str, str]:
    """What the job is told besides its command."""
    for name in SHARED:
        if not known.get(name):
            raise UserError(f"{name} is not set: give a place that this machine and the cluster share")
    told = {name: known[name] for name in FORWARDED if known.get(name)}
    for name, value in told.items():
        if "@" in urlsplit(value).netloc:
            raise UserError(f"{name} has credentials in it: take them out, and set them where the nodes' Ray starts")
    described = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    commit = subprocess.run(described, capture_output=True, text=True, check=False).stdout.strip()
    return told | ({"TRILEMMA_COMMIT": commit} if commit else {})


def _check(dashboard: str, headers: Mapping[str, str]) -> None:
    """Within seconds, what would otherwise be found out after the upload."""
    try:
        answer = requests.get(f"{dashboard.rstrip('/')}/api/version", headers=headers, timeout=ANSWER_SECONDS)
    except requests.RequestException as error:
        reason = type(error).__name__
        raise UserError(f"no Ray dashboard answers at {dashboard} ({reason}): start it, or forward its port") from None
    if answer.status_code in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        raise UserError(
            f"the cluster at {dashboard} refuses this token: set RAY_AUTH_TOKEN to the one its nodes were started with"
        )
    try:
        version: Any = answer.json()["ray_version"]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"what answers at {dashboard} is no Ray dashboard: its port is usually 8265") from None
    if version != ray.__version__:
        raise UserError(f"the cluster at {dashboard} runs Ray {version}, here is {ray.__version__}: install the same")
