"""The CUDA kernels: what was built, its arithmetic on the host, and, where there is a GPU, all of it."""

import ctypes
import math
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from octet import _C, ops
from octet.ops import reference

ROOT = Path(__file__).parents[2]
FORMATS = [torch.float8_e4m3fn, torch.float8_e5m2]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
formats = pytest.mark.parametrize("fmt", FORMATS, ids=["e4m3", "e5m2"])
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=["f32", "f16", "bf16"])
built = pytest.mark.skipif(not ops.cuda_archs(), reason="octet was built without CUDA")


def device_code(library: bytes) -> Iterator[str]:
    """Architectures in a library's fat binaries: "sm_90" of machine code, "compute_90" of PTX.

    A fat binary is a header (magic, version, header size, payload size) and entries that each begin
    with kind, version, header size, payload size; the architecture is at byte 28.
    """
    position = library.find(b"\x50\xed\x55\xba")
    while position >= 0:
        header_size, size = struct.unpack_from("<HQ", library, position + 6)
        entry = position + header_size
        end = entry + size
        while entry < end:
            kind, _, entry_header, payload = struct.unpack_from("<HHIQ", library, entry)
            (arch,) = struct.unpack_from("<I", library, entry + 28)
            yield f"{ {1: 'compute', 2: 'sm'}[kind] }_{arch}"
            entry += entry_header + payload
        position = library.find(b"\x50\xed\x55\xba", end)


@built
def test_the_library_holds_code_for_every_architecture_that_is_claimed() -> None:
    claimed = ops.cuda_archs()
    assert claimed == ["sm_80", "sm_89", "sm_90a", "sm_100a", "sm_120a", "compute_90"]
    library = Path(_C.__file__).with_name("_C_cuda.so").read_bytes()
    assert set(device_code(library)) == {arch.rstrip("a") for arch in claimed}
    assert ops.build_info()["cuda_compiler"].startswith("nvcc ")


@pytest.mark.skipif(bool(ops.cuda_archs()), reason="octet was built with CUDA")
def test_a_build_without_cuda_has_no_library() -> None:
    assert not Path(_C.__file__).with_name("_C_cuda.so").exists()
    assert ops.build_info()["cuda_compiler"] == ""


@pytest.fixture(scope="module")
def host_arithmetic(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """csrc/cuda/convert.cuh compiled for the host, with CUDA's emulation of the conversion instruction."""
    nvcc = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
    compiler = shutil.which("c++")
    if nvcc is None or compiler is None:
        pytest.skip("needs CUDA's headers and a C++ compiler")
    # The toolkit that nvcc belongs to, which nvcc itself names (it may be a wrapper in some PATH).
    dry_run = subprocess.run([nvcc, "--dryrun", "-c", "x.cu"], capture_output=True, text=True, check=False)
    (top,) = [line.split("=", 1)[1] for line in dry_run.stderr.splitlines() if line.startswith("#$ TOP=")]
    library = tmp_path_factory.mktemp("device") / "device_arithmetic.so"
    source = Path(__file__).with_name("device_arithmetic.cpp")
    includes = [f"-I{ROOT / 'csrc'}", "-isystem", f"{top}/include"]
    subprocess.run(
        [compiler, "-std=c++17", "-O1", "-shared", "-fPIC", *includes, str(source), "-o", str(library)],
        check=True,
        timeout=240,
    )
    return ctypes.CDLL(str(library))


def quantize_on_host(
    library: ctypes.CDLL, values: torch.Tensor, scale: float, fmt: torch.dtype
) -> torch.Tensor:
    assert len(values) % 2 == 0
    codes = torch.empty(len(values), dtype=torch.uint8)
    function = library.quantize_e4m3 if fmt == torch.float8_e4m3fn else library.quantize_e5m2
    function(
        ctypes.c_void_p(values.data_ptr()),
        ctypes.c_int64(len(values)),
        ctypes.c_float(scale),
        ctypes.c_void_p(codes.data_ptr()),
    )
    return codes


def all_values(dtype: torch.dtype) -> torch.Tensor:
    return torch.arange(-32768, 32768, dtype=torch.int32).to(torch.int16).view(dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["f16", "bf16"])
def test_elements_widen_on_the_device_as_in_torch(host_arithmetic: ctypes.CDLL, dtype: torch.dtype) -> None:
    bits = all_values(dtype)
    values = torch.empty(len(bits))
    function = host_arithmetic.widen_f16 if dtype == torch.float16 else host_arithmetic.widen_bf16
    function(ctypes.c_void_p(bits.data_ptr()), ctypes.c_int64(len(bits)), ctypes.c_void_p(values.data_ptr()))
    expected = bits.to(torch.float32)
    assert torch.equal(values.isnan(), expected.isnan())
    finite = ~expected.isnan()
    assert torch.equal(values[finite].view(torch.int32), expected[finite].view(torch.int32))


@formats
@pytest.mark.parametrize("scale", [1.0, 2.0**-7, 0.0123, 771.3, math.inf])
def test_device_conversion_equals_the_oracle(
    host_arithmetic: ctypes.CDLL, fmt: torch.dtype, scale: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(-(2**31), 2**31, (200_000,), generator=generator, dtype=torch.int64)
    random_bits = bits.to(torch.int32).view(torch.float32)
    in_range = torch.randn(200_000, generator=generator) * scale * 100 if scale < math.inf else random_bits
    values = torch.cat([all_values(torch.bfloat16).float(), random_bits, in_range])
    largest = torch.finfo(fmt).max
    # With this bound the oracle's scale is exactly `scale`, but for rows of small magnitude.
    row = torch.cat([values, torch.tensor([math.inf, -math.inf])]).unsqueeze(0)
    expected, row_scale = reference.per_token_quant_fp8(row, fmt, torch.tensor(scale) * largest)
    actual = quantize_on_host(host_arithmetic, row[0], row_scale.item(), fmt)
    assert torch.equal(actual, expected[0].view(torch.uint8))


gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


@gpu
@built
@formats
@dtypes
@pytest.mark.parametrize("tokens", [0, 1, 37])
def test_gpu_equals_the_oracle(fmt: torch.dtype, dtype: torch.dtype, tokens: int) -> None:
    for hidden in (0, 1, 17, 512, 1152, 3840, 5120, 8200, 15360, 32768, 40000):  # every template instance
        x = (torch.randn(tokens, hidden + 9) * 3).to(dtype)
        if tokens > 1:
            x[0, 3], x[0, 5] = math.nan, math.inf
            x[-1] = 0
        check_on_gpu(x, hidden, fmt)


def check_on_gpu(x: torch.Tensor, hidden: int, fmt: torch.dtype) -> None:
    """Compares rows that lie on 16 bytes, and rows that do not, with and without a bound."""
    for rows in (x[:, :hidden], x[:, 9:], x[:, 8 : 8 + hidden]):
        for bound in (None, torch.tensor(0.7)):
            q, scale = ops.per_token_quant_fp8(rows.cuda(), fmt, None if bound is None else bound.cuda())
            expected, expected_scale = reference.per_token_quant_fp8(rows, fmt, bound)
            assert torch.equal(scale.cpu().view(torch.int32), expected_scale.view(torch.int32))
            assert torch.equal(q.cpu().view(torch.uint8), expected.view(torch.uint8))


@gpu
@built
def test_gpu_kernels_can_be_captured_in_a_graph() -> None:
    x = torch.randn(4, 3840, device="cuda", dtype=torch.bfloat16)
    ops.per_token_quant_fp8(x)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        q, scale = ops.per_token_quant_fp8(x)
    x.normal_()
    graph.replay()
    expected, expected_scale = reference.per_token_quant_fp8(x.cpu())
    assert torch.equal(scale.cpu(), expected_scale)
    assert torch.equal(q.cpu().view(torch.uint8), expected.view(torch.uint8))
