"""Tests against the CUDA builds of torch and vLLM on a machine that need have no GPU: `make check-cuda` runs
them.
"""

import os

import pytest
import torch


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Elsewhere they are skipped; where they are asked for, a CPU build of torch is an error of the
    set-up.
    """
    if torch.version.cuda is not None:
        return
    if os.environ.get("OCTET_CHECK_CUDA"):
        raise pytest.UsageError("make check-cuda: this torch is built for CPUs")
    for item in items:
        if "tests/cuda/" in str(item.path):
            item.add_marker(pytest.mark.skip(reason="needs the CUDA build of torch: make check-cuda"))
