"""`trilemma check`: the contract tests on one method."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from pipeline.config.build import build_method
from pipeline.config.study import method_modules
from pipeline.dag.run import CODE
from pipeline.errors import UserError

TESTS = CODE / "tests" / "methods" / "test_contract.py"


def check_method(method: str, model: str, data: str) -> None:
    """Raises an error if the method cannot be built, or fails a test. model: its block, as JSON; data: see `Case`."""
    method_modules(method, CODE, Path.cwd())
    build_method(method, _block(model))
    if not TESTS.is_file():
        raise UserError(f"{TESTS} does not exist: the contract tests are in trilemma's repository: run from a checkout")
    options = ["--method", method, "--model", model, "--data", data]
    tests = [sys.executable, "-m", "pytest", "-q", "--tb=line", "-p", "no:cacheprovider", "-k", "not discovered"]
    path = os.pathsep.join([str(CODE), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run([*tests, str(TESTS), *options], cwd=CODE, env=os.environ | {"PYTHONPATH": path}, check=False)
    if done.returncode:
        raise UserError(f"{method} fails the contract tests listed above: docs/own-methods.md has what each expects")


def _block(model: str) -> dict[str, Any]:
    try:
        block = json.loads(model)
    except json.JSONDecodeError as error:
        raise UserError(f"--model: {model!r} is not JSON ({error}): write it as '{{\"width\": 16}}'") from None
    if not isinstance(block, dict):
        raise UserError(f"--model: {model!r} came, fields of the method as JSON were wanted: '{{\"width\": 16}}'")
    return block
