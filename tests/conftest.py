"""Shared by all tests: one torch thread, and where golden data lies."""

from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--reference",
        type=Path,
        default=Path(__file__).parent / "reference",
        help="folder of golden files (default: the copies kept with the tests)",
    )
