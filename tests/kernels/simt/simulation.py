"""The CUDA kernels as functions of tensors, run by the simulation in this folder."""

import ctypes
import enum
from pathlib import Path

import torch

from tests.kernels.cuda_toolkit import compile_for_host

HERE = Path(__file__).parent
DTYPES = [torch.float32, torch.float16, torch.bfloat16]  # in the order of Dtype in kernels.h
FORMATS = [torch.float8_e4m3fn, torch.float8_e5m2]  # in the order of Fp8Format in fp8.h
# In the order of Gain in kernels.h.
ONE_PLUS_WEIGHT, WEIGHT = 0, 1
UNTOUCHED = 0xEE
GUTTER = 32


class Order(enum.IntEnum):
    """In which order the threads of a block run up to the next barrier; as in simt.h."""

    FORWARD = 0
    BACKWARD = 1
    SHUFFLED = 2


class PerTokenQuant(ctypes.Structure):
    """octet::PerTokenQuant of kernels.h."""

    _fields_ = (
        ("x", ctypes.c_void_p),
        ("x_dtype", ctypes.c_uint8),
        ("x_stride", ctypes.c_int64),
        ("hidden", ctypes.c_int64),
        ("format", ctypes.c_uint8),
        ("scale_ub", ctypes.c_void_p),
        ("q", ctypes.c_void_p),
        ("q_stride", ctypes.c_int64),
        ("scale", ctypes.c_void_p),
    )


class GemmaRmsNorm(ctypes.Structure):
    """octet::GemmaRmsNorm of kernels.h."""

    _fields_ = (
        ("x", ctypes.c_void_p),
        ("x_dtype", ctypes.c_uint8),
        ("x_stride", ctypes.c_int64),
        ("head_stride", ctypes.c_int64),
        ("heads", ctypes.c_int64),
        ("hidden", ctypes.c_int64),
        ("weight", ctypes.c_void_p),
        ("eps", ctypes.c_float),
        ("y", ctypes.c_void_p),
    )


class RmsNormQuant(ctypes.Structure):
    """octet::RmsNormQuant of kernels.h."""

    _fields_ = (
        ("x", ctypes.c_void_p),
        ("x_dtype", ctypes.c_uint8),
        ("x_stride", ctypes.c_int64),
        ("hidden", ctypes.c_int64),
        ("post_weight", ctypes.c_void_p),
        ("weight", ctypes.c_void_p),
        ("gain", ctypes.c_uint8),
        ("eps", ctypes.c_float),
        ("residual", ctypes.c_void_p),
        ("residual_stride", ctypes.c_int64),
        ("format", ctypes.c_uint8),
        ("q", ctypes.c_void_p),
        ("q_stride", ctypes.c_int64),
        ("scale", ctypes.c_void_p),
    )


class QkNormRope(ctypes.Structure):
    """octet::QkNormRope of kernels.h."""

    _fields_ = (
        ("qkv", ctypes.c_void_p),
        ("dtype", ctypes.c_uint8),
        ("stride", ctypes.c_int64),
        ("q_heads", ctypes.c_int64),
        ("k_heads", ctypes.c_int64),
        ("head_size", ctypes.c_int64),
        ("rotary_dim", ctypes.c_int64),
        ("q_weight", ctypes.c_void_p),
        ("k_weight", ctypes.c_void_p),
        ("gain", ctypes.c_uint8),
        ("eps", ctypes.c_float),
        ("positions", ctypes.c_void_p),
        ("cos_sin", ctypes.c_void_p),
        ("cos_sin_stride", ctypes.c_int64),
    )


class GatedQuant(ctypes.Structure):
    """octet::GatedQuant of kernels.h."""

    _fields_ = (
        ("x", ctypes.c_void_p),
        ("x_dtype", ctypes.c_uint8),
        ("x_stride", ctypes.c_int64),
        ("hidden", ctypes.c_int64),
        ("format", ctypes.c_uint8),
        ("q", ctypes.c_void_p),
        ("q_stride", ctypes.c_int64),
        ("scale", ctypes.c_void_p),
    )


class Output:
    """Codes with untouched bytes around every row, beginning `offset` bytes after 16-byte alignment."""

    def __init__(self, rows: int, hidden: int, fmt: torch.dtype, offset: int) -> None:
        stride = -(-hidden // 16) * 16 + GUTTER
        self._memory = torch.full((rows + 1, stride), UNTOUCHED, dtype=torch.uint8)
        self._codes = self._memory.flatten()[offset:][: rows * stride].view(rows, stride)[:, :hidden]
        self.q = self._codes.view(fmt)
        self.scale = torch.full((rows, 1), float("nan"))

    def check_untouched(self) -> None:
        """Fails where a kernel wrote anything beside the codes."""
        codes = self._codes.clone()
        self._codes.fill_(UNTOUCHED)
        assert bool((self._memory == UNTOUCHED).all()), "bytes outside the rows were written"
        self._codes.copy_(codes)


class Simulation:
    """Kernels under the simulation. `order` and `shared_bytes`, what a block may have, are attributes."""

    def __init__(self, folder: Path) -> None:
        sources = [HERE / "simt.cpp", HERE / "kernels.cpp", HERE / "selftest.cpp"]
        self._library = ctypes.CDLL(str(compile_for_host(sources, folder / "simulation.so")))
        self._library.simt_error.restype = ctypes.c_char_p
        self._library.simt_kernels_run.restype = ctypes.c_int64
        self.order = Order.FORWARD
        self.shared_bytes = 98 << 10  # of sm_89 and sm_120
        self.output_offset = 0

    def kernels_run(self) -> int:
        """How many instances of the kernel templates have run so far."""
        return int(self._library.simt_kernels_run())

    def refuses(self, kernel: str) -> bool:
        """Whether the named faulty kernel of selftest.cpp is refused."""
        return bool(self._library[f"simt_refuses_{kernel}"]())

    def read_without_barrier(self, order: Order) -> int:
        """What a thread reads that another one writes without a barrier between them."""
        return int(self._library.simt_read_without_barrier(int(order)))

    def per_token_quant_fp8(
        self, x: torch.Tensor, fmt: torch.dtype, scale_ub: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What :func:`octet.ops.per_token_quant_fp8` returns."""
        bound = None if scale_ub is None else scale_ub.data_ptr()
        args = PerTokenQuant(hidden=x.shape[1], scale_ub=bound)
        return self._run("simt_per_token_quant", args, x, fmt)

    def gemma_rms_norm_quant_fp8(
        self,
        x: torch.Tensor,
        weight: torch.Tensor,
        eps: float,
        fmt: torch.dtype,
        residual: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What :func:`octet.ops.gemma_rms_norm_quant_fp8` returns; updates the residual in place."""
        return self._rms_norm_quant(x, weight, ONE_PLUS_WEIGHT, eps, fmt, residual)

    def rms_norm_quant_fp8(
        self,
        x: torch.Tensor,
        weight: torch.Tensor,
        eps: float,
        fmt: torch.dtype,
        residual: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What :func:`octet.ops.rms_norm_quant_fp8` returns; updates the residual in place."""
        return self._rms_norm_quant(x, weight, WEIGHT, eps, fmt, residual)

    def _rms_norm_quant(
        self,
        x: torch.Tensor,
        weight: torch.Tensor,
        gain: int,
        eps: float,
        fmt: torch.dtype,
        residual: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        args = RmsNormQuant(hidden=x.shape[1], weight=weight.data_ptr(), gain=gain, eps=eps)
        if residual is not None:
            args.residual = residual.data_ptr()
            args.residual_stride = residual.stride(0)
        return self._run("simt_rms_norm_quant", args, x, fmt)

    def gemma_norm_add_norm_quant_fp8(
        self,
        x: torch.Tensor,
        post_weight: torch.Tensor,
        residual: torch.Tensor,
        weight: torch.Tensor,
        eps: float,
        fmt: torch.dtype,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What :func:`octet.ops.gemma_norm_add_norm_quant_fp8` returns; updates the residual in place."""
        args = RmsNormQuant(
            hidden=x.shape[1],
            post_weight=post_weight.data_ptr(),
            weight=weight.data_ptr(),
            gain=ONE_PLUS_WEIGHT,
            eps=eps,
            residual=residual.data_ptr(),
            residual_stride=residual.stride(0),
        )
        return self._run("simt_rms_norm_quant", args, x, fmt)

    def gemma_rms_norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """What :func:`octet.ops.gemma_rms_norm` returns."""
        heads = x.shape[1] if x.dim() == 3 else 1
        memory = torch.full((x.numel() + GUTTER,), float(UNTOUCHED), dtype=x.dtype)
        args = GemmaRmsNorm(
            x=x.data_ptr(),
            x_dtype=DTYPES.index(x.dtype),
            x_stride=x.stride(0),
            head_stride=x.stride(1) if x.dim() == 3 else 0,
            heads=heads,
            hidden=x.shape[-1],
            weight=weight.data_ptr(),
            eps=eps,
            y=memory.data_ptr(),
        )
        self._call("simt_gemma_rms_norm", args, len(x) * heads)
        assert bool((memory[x.numel() :] == UNTOUCHED).all()), "something beyond the rows was written"
        return memory[: x.numel()].view(x.shape)

    def qk_norm_rope(
        self,
        qkv: torch.Tensor,
        q_weight: torch.Tensor | None,
        k_weight: torch.Tensor | None,
        eps: float,
        gemma: bool,
        positions: torch.Tensor,
        cos_sin: torch.Tensor,
        q_heads: int,
        k_heads: int,
        head_size: int,
    ) -> None:
        """What :func:`octet.ops.qk_norm_rope` does."""
        args = QkNormRope(
            qkv=qkv.data_ptr(),
            dtype=DTYPES.index(qkv.dtype),
            stride=qkv.stride(0),
            q_heads=q_heads,
            k_heads=k_heads,
            head_size=head_size,
            rotary_dim=cos_sin.shape[1],
            q_weight=None if q_weight is None else q_weight.data_ptr(),
            k_weight=None if k_weight is None else k_weight.data_ptr(),
            gain=ONE_PLUS_WEIGHT if gemma else WEIGHT,
            eps=eps,
            positions=positions.data_ptr(),
            cos_sin=cos_sin.data_ptr(),
            cos_sin_stride=cos_sin.stride(0),
        )
        self._call("simt_qk_norm_rope", args, len(qkv) * (q_heads + k_heads))

    def gelu_tanh_and_mul_quant_fp8(
        self, x: torch.Tensor, fmt: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What :func:`octet.ops.gelu_tanh_and_mul_quant_fp8` returns."""
        return self._run("simt_gelu_tanh_and_mul_quant", GatedQuant(hidden=x.shape[1] // 2), x, fmt)

    def silu_and_mul_quant_fp8(self, x: torch.Tensor, fmt: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """What :func:`octet.ops.silu_and_mul_quant_fp8` returns."""
        return self._run("simt_silu_and_mul_quant", GatedQuant(hidden=x.shape[1] // 2), x, fmt)

    def _run(
        self,
        name: str,
        args: PerTokenQuant | RmsNormQuant | GatedQuant,
        x: torch.Tensor,
        fmt: torch.dtype,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Fills in the input and an output, and runs the kernel for it."""
        out = Output(len(x), args.hidden, fmt, self.output_offset)
        args.x = x.data_ptr()
        args.x_dtype = DTYPES.index(x.dtype)
        args.x_stride = x.stride(0)
        args.format = FORMATS.index(fmt)
        args.q = out.q.data_ptr()
        args.q_stride = out.q.stride(0)
        args.scale = out.scale.data_ptr()
        self._call(name, args, len(x))
        out.check_untouched()
        return out.q, out.scale

    def _call(self, name: str, args: ctypes.Structure, rows: int) -> None:
        failed = self._library[name](
            ctypes.byref(args), ctypes.c_int64(rows), int(self.order), ctypes.c_int64(self.shared_bytes)
        )
        if failed:
            raise RuntimeError(self._library.simt_error().decode())
