"""`trilemma submit`: a command as a job on a cluster, through Ray's jobs API; it goes on when this machine is gone.

The working tree is sent without what .gitignore names. Credentials are not sent: a job's environment can be read on the
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

import ray
import requests
from ray.job_submission import JobSubmissionClient

from pipeline.config.study import load_study
from pipeline.console import redacted
from pipeline.errors import TrilemmaError, UserError
from pipeline.launch.cluster import cluster_token

SHARED = ("TRILEMMA_STORE", "MLFLOW_TRACKING_URI")  # without them the job's results would be lost with its folder
FORWARDED = (*SHARED, "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION")
NOT_SENT = [".git/", ".dvc/cache/", ".dvc/tmp/", ".dvc/config.local", ".venv", "**/__pycache__"]
TIMEOUT_SECONDS = 10


def submit(command: Sequence[str], dashboard: str, folder: Path) -> str:
    """Start `trilemma *command` in the study's folder on the head node; the job's id."""
    study = load_study(folder / "params.yaml")
    environment = _environment(os.environ, study.root)
    if not cluster_token():
        raise UserError("no token for the cluster: set RAY_AUTH_TOKEN to the one its nodes were started with")
    headers = {"Authorization": f"Bearer {cluster_token()}"}
    _check_dashboard(dashboard, headers)
    logging.getLogger("ray").setLevel(logging.ERROR)  # it would list every ignored file
    words = ["cd", str(study.folder.relative_to(study.root)), "&&", "exec", "python", "-m", "pipeline.cli.main"]
    without_git = "dvc config --quiet --local core.no_scm true && "
    try:
        return JobSubmissionClient(dashboard, headers=headers).submit_job(
            entrypoint=f"{without_git}{' '.join(words)} {shlex.join(command)}",
            runtime_env={"working_dir": str(study.root), "excludes": NOT_SENT, "env_vars": environment},
        )
    except (RuntimeError, ValueError, requests.RequestException) as error:
        raise TrilemmaError(
            f"the cluster at {dashboard} did not take the job: {' '.join(str(error).split())}"
        ) from None


def _environment(current: Mapping[str, str], root: Path) -> dict[str, str]:
    """The job's environment variables."""
    for name in SHARED:
        if not current.get(name):
            raise UserError(f"{name} is not set: give a place that this machine and the cluster share")
    sent = {name: current[name] for name in FORWARDED if current.get(name)}
    for name, value in sent.items():
        if redacted(value) != value:
            raise UserError(
                f"{name} has credentials in it: take them out, and set them where Ray is started on the nodes"
            )
    describe = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    commit = subprocess.run(describe, capture_output=True, text=True, check=False).stdout.strip()
    return sent | ({"TRILEMMA_COMMIT": commit} if commit else {})


def _check_dashboard(dashboard: str, headers: Mapping[str, str]) -> None:
    """Fail within seconds instead of after the upload."""
    try:
        answer = requests.get(f"{dashboard.rstrip('/')}/api/version", headers=headers, timeout=TIMEOUT_SECONDS)
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
