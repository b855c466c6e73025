"""Where a version is made: the command, the git commit of the working directory, the host, the run it is part of."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dvfs.store.record import Origin

RUN_VARIABLES: dict[str, str] = {
    "airflow": "AIRFLOW_CTX_DAG_RUN_ID",
    "clearml": "CLEARML_TASK_ID",
    "github": "GITHUB_RUN_ID",
    "gitlab": "CI_PIPELINE_ID",
    "jenkins": "BUILD_TAG",
    "mlflow": "MLFLOW_RUN_ID",
    "sagemaker": "TRAINING_JOB_NAME",
    "slurm": "SLURM_JOB_ID",
    "wandb": "WANDB_RUN_ID",
}
"""System → the environment variable in which it tells its jobs the id of their run; for Kubernetes see `runs`."""


def origin(command: Sequence[str] | None = None, folder: Path | None = None) -> Origin:
    """Return where this process makes or reads a version.

    *command*: by default `dvfs` with its arguments. *folder*: by default the working directory.
    """
    from dvfs.store.record import Origin

    words = ["dvfs", *sys.argv[1:]] if command is None else command
    text = shlex.join(words).encode("utf-8", "backslashreplace").decode()
    return Origin(command=text, commit=git_commit(folder), host=socket.gethostname(), runs=runs(os.environ))


def creator() -> str:
    """Return the name of the user, their number where they have none."""
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def runs(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the ids of the runs that *environ* tells of, by system."""
    found = {system: environ[variable] for system, variable in RUN_VARIABLES.items() if environ.get(variable)}
    if environ.get("KUBERNETES_SERVICE_HOST") and (pod := environ.get("POD_NAME") or environ.get("HOSTNAME")):
        space = environ.get("POD_NAMESPACE")
        found["kubernetes"] = f"{space}/{pod}" if space else pod
    return {system: run.encode("utf-8", "backslashreplace").decode() for system, run in found.items()}


def git_commit(folder: Path | None = None) -> str:
    """Return the commit checked out around *folder* (the working directory when None), "" where there is none."""
    command = ["git", "rev-parse", "--verify", "--quiet", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False, cwd=folder)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return found.stdout.strip() if found.returncode == 0 else ""
