"""The products of AVX-512 and AMX as functions of tensors, on this folder's model of their instructions."""

import ctypes
import enum
import os
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
CSRC = HERE.parents[2] / "csrc"
ISAS = ("avx512", "avx512_bf16", "amx_bf16")
SOURCES = (
    *(f"fp8_linear_{isa}.cpp" for isa in ISAS),
    "bf16_linear_avx512.cpp",
    "fp8_linear_scalar.cpp",
    "fp8_linear_check.cpp",
)
DTYPES = [torch.float32, torch.float16, torch.bfloat16]  # in the order of Dtype in kernels.h
FORMATS = [torch.float8_e4m3fn, torch.float8_e5m2]  # in the order of Fp8Format in fp8.h
UNTOUCHED = 0xEE

Linear = Callable[..., torch.Tensor]


class Fault(enum.IntEnum):
    """What the tiles compute wrongly; as in cpu/tiles_amx.h beside this file."""

    NONE = 0
    LAST_ROW = 1
    PAIRS_SWAPPED = 2
    SECOND_TILE = 3


class Fp8Linear(ctypes.Structure):
    """octet::Fp8Linear of kernels.h."""

    _fields_ = (
        ("x", ctypes.c_void_p),
        ("x_format", ctypes.c_uint8),
        ("x_stride", ctypes.c_int64),
        ("x_scale", ctypes.c_void_p),
        ("w", ctypes.c_void_p),
        ("w_format", ctypes.c_uint8),
        ("w_scale", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("out_dtype", ctypes.c_uint8),
        ("rows", ctypes.c_int64),
        ("in_features", ctypes.c_int64),
        ("out_features", ctypes.c_int64),
    )


class Bf16Linear(ctypes.Structure):
    """octet::Bf16Linear of kernels.h."""

    _fields_ = (
        ("x", ctypes.c_void_p),
        ("x_stride", ctypes.c_int64),
        ("w", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("out_dtype", ctypes.c_uint8),
        ("rows", ctypes.c_int64),
        ("in_features", ctypes.c_int64),
        ("out_features", ctypes.c_int64),
    )


class Model:
    """The kernels of csrc/cpu, compiled against the model instead of the compiler's intrinsics."""

    def __init__(self, folder: Path) -> None:
        self._library = ctypes.CDLL(str(_compile(folder / "x86.so")))
        self._library.x86_error.restype = ctypes.c_char_p
        self._library.x86_tile_products.restype = ctypes.c_int64

    def linear(self, isa: str, tile: tuple[int, int] = (0, 0)) -> Linear:
        """What takes the place of :func:`octet.ops.fp8_linear`.

        Args:
            isa: one of ISAS.
            tile: rows and columns of the tiles of outputs; (0, 0) for the largest ones.
        """
        return partial(self._fp8_linear, isa, tile)

    def bf16_linear(self, tile: tuple[int, int] = (0, 0)) -> Linear:
        """What takes the place of :func:`octet.ops.bf16_linear`, of AVX-512; `tile` as in :meth:`linear`."""
        return partial(self._bf16_linear, tile)

    def agrees(self, isa: str, fault: Fault = Fault.NONE) -> bool:
        """Whether the check at load finds nothing."""
        return bool(self._library.x86_agrees(isa.encode(), int(fault)))

    def tile_products(self) -> int:
        """How many products of tiles there have been."""
        return int(self._library.x86_tile_products())

    def refuses(self, what: str) -> bool:
        """Whether the named misuse of tiles in kernels.cpp is refused."""
        return bool(self._library[f"x86_refuses_{what}"]())

    def _fp8_linear(
        self,
        isa: str,
        tile: tuple[int, int],
        xq: torch.Tensor,
        x_scale: torch.Tensor,
        w: torch.Tensor,
        w_scale: torch.Tensor,
        bias: torch.Tensor | None = None,
        out_dtype: torch.dtype = torch.bfloat16,
    ) -> torch.Tensor:
        bias_f32 = None if bias is None else bias.to(torch.float32).contiguous()
        args = Fp8Linear(
            x=xq.data_ptr(),
            x_format=FORMATS.index(xq.dtype),
            x_stride=xq.stride(0),
            x_scale=x_scale.data_ptr(),
            w=w.data_ptr(),
            w_format=FORMATS.index(w.dtype),
            w_scale=w_scale.data_ptr(),
            bias=None if bias_f32 is None else bias_f32.data_ptr(),
        )
        return self._multiply("x86_fp8_linear", isa, args, tile, xq, w, out_dtype)

    def _bf16_linear(
        self,
        tile: tuple[int, int],
        x: torch.Tensor,
        w: torch.Tensor,
        bias: torch.Tensor | None = None,
        out_dtype: torch.dtype = torch.bfloat16,
    ) -> torch.Tensor:
        bias_f32 = None if bias is None else bias.to(torch.float32).contiguous()
        args = Bf16Linear(
            x=x.data_ptr(),
            x_stride=x.stride(0),
            w=w.data_ptr(),
            bias=None if bias_f32 is None else bias_f32.data_ptr(),
        )
        return self._multiply("x86_bf16_linear", "avx512", args, tile, x, w, out_dtype)

    def _multiply(
        self,
        function: str,
        isa: str,
        args: Fp8Linear | Bf16Linear,
        tile: tuple[int, int],
        x: torch.Tensor,
        w: torch.Tensor,
        out_dtype: torch.dtype,
    ) -> torch.Tensor:
        """Calls a product with what both kinds of arguments have beside their operands."""
        assert x.stride(1) == 1 or x.shape[1] <= 1
        rows, columns = x.shape[0], w.shape[0]
        guard = 64
        size = rows * columns * out_dtype.itemsize
        memory = torch.full((size + guard,), UNTOUCHED, dtype=torch.uint8)
        args.out, args.out_dtype = memory.data_ptr(), DTYPES.index(out_dtype)
        args.rows, args.in_features, args.out_features = rows, x.shape[1], columns
        failed = self._library[function](
            isa.encode(), ctypes.byref(args), ctypes.c_int64(tile[0]), ctypes.c_int64(tile[1])
        )
        if failed:
            raise RuntimeError(self._library.x86_error().decode())
        assert bool((memory[size:] == UNTOUCHED).all()), "something after the outputs was written"
        return memory[:size].view(out_dtype).view(rows, columns)


def _compile(library: Path) -> Path:
    """Compiles the kernels' own files; with UBSan, and with ASan where its runtime is loaded already."""
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    sanitizers = "undefined,address" if "libasan" in os.environ.get("LD_PRELOAD", "") else "undefined"
    sources = [HERE / "kernels.cpp", *(CSRC / "cpu" / name for name in SOURCES)]
    # Products and sums are not contracted: the kernels say where they are fused. A type that the machine has
    # no register for is passed another way than with one, which is nobody's concern here.
    options = ["-std=c++20", "-O1", "-march=native", "-ffp-contract=off", "-fPIC"]
    options += ["-Wall", "-Wno-psabi", "-Wno-ignored-attributes"]
    checks = [f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all"]
    environment = {name: value for name, value in os.environ.items() if name != "LD_PRELOAD"}
    common = [compiler, *options, *checks, f"-I{HERE}", f"-I{CSRC}"]
    objects = [library.with_name(f"{source.stem}.o") for source in sources]
    # Side by side: each takes up to ten seconds.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        commands = [
            [*common, "-c", str(source), "-o", str(built)]
            for source, built in zip(sources, objects, strict=True)
        ]
        commands.sort(key=lambda command: "amx" not in command[-1])  # the longest first
        for done in pool.map(partial(subprocess.run, check=True, timeout=280, env=environment), commands):
            assert done.returncode == 0
    link = [*common, "-shared", *map(str, objects), "-o", str(library)]
    subprocess.run(link, check=True, timeout=60, env=environment)
    return library
