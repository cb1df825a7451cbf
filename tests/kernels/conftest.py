from collections.abc import Iterator

import pytest
import torch

from octet import ops
from tests.kernels.x86.model import Model


@pytest.fixture(params=ops.available_isas())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test once with the kernels of each instruction set that this machine has."""
    before = ops.isa()
    ops.use_isa(request.param)
    yield request.param
    ops.use_isa(before)


@pytest.fixture
def threads() -> Iterator[None]:
    """Puts torch's thread count back after a test that changes it."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """The products for AVX-512 and AMX, on a model of their instructions."""
    return Model(tmp_path_factory.mktemp("x86"))
