"""The entry point `octet` of the group `vllm.general_plugins`.

vLLM calls `register` in every process that it starts, before a model is built, also under a plain
`vllm serve`. It must therefore be repeatable, and never the reason why vLLM does not start.
"""

import os
from typing import Any

import octet
from octet.engine.vllm import compat, kernels
from octet.engine.vllm.launch import forkserver, sockets

# torch's own switch.
_HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"


failure: str | None = None
"""What kept `register` from its work in this process, one line; None where nothing did."""


def register() -> None:
    """Puts into vLLM Octet's kernels, quantization method, tool parser, constraints and count of requests.

    May be repeated. Where something goes wrong, vLLM goes on with what was put in before that, and a line of
    the log says what; `octet serve` refuses to start then.

    Raises:
        StartupError: when OCTET_KERNELS holds neither "on" nor "off".
    """
    global failure
    wanted = kernels.wanted()
    from vllm.logger import init_logger

    logger = init_logger("vllm.plugins.octet")
    failure = None
    try:
        if reason := _stays_out():
            logger.warning_once("octet does nothing here: %s", reason)
        else:
            _register(logger, wanted=wanted)
    except Exception as error:  # vLLM would end with whatever is raised here
        failure = f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"
        logger.warning_once("octet could not be put into vLLM: %s", failure)


def _stays_out() -> str | None:
    """Why nothing of Octet's is put into this vLLM; None where it is."""
    if reason := compat.unsupported_reason():
        return reason
    if (platform := compat.devices.platform()) in kernels.DEVICES:
        return None
    if platform:
        return f"vLLM computes on {platform}, which Octet knows nothing of"
    reason = compat.devices.no_gpu_reason() if compat.engine_device() == "cuda" else None
    return f"vLLM sees no device; {reason or 'it says why with VLLM_LOGGING_LEVEL=DEBUG'}"


def _register(logger: Any, *, wanted: bool) -> None:
    if (folder := sockets.own_folder()) is not None:
        compat.share_under_name_of(folder)
    if forkserver.server.forked:
        compat.processes.start_workers_in(forkserver.ForkContext())
        compat.processes.end_core_without_collecting()
    compat.extend_core()
    compat.count_ranks_uncompiled()
    compat.tokenizers.share_processors()
    compat.constraints.follow()
    _register_tool_parser()
    _register_quantization()
    device = compat.devices.platform()
    if device == "cpu":
        from octet.engine.vllm.inside import picture_attention

        picture_attention.register(active=wanted)
        compat.cpu_runner.use()
    active = "off"
    if not wanted:
        logger.info_once("octet kernels off: %s=off", kernels.SWITCH, scope="global")
    elif reason := kernels.unavailable_reason(device):
        logger.warning_once("octet kernels off: %s; vLLM's own kernels stay", reason, scope="global")
    else:
        compat.sleep_between_messages()
        compat.keep_compiled_models()
        _map_tensors_in_huge_pages(device)
        active = f"{octet.__version__} {kernels.variant(device)}"
        _register_kernels(device)
    compat.set_compile_factor(kernels.SWITCH, active)


def _map_tensors_in_huge_pages(device: str) -> None:
    """On CPUs, makes torch ask for huge pages for large tensors, in the processes that this one starts.

    Decoding reads every weight once a token, and address translation takes a part of that time. torch looks
    at the variable when it first allocates, which in this process it has done.
    """
    if device == "cpu":
        os.environ.setdefault(_HUGE_PAGES, "1")


def _register_tool_parser() -> None:
    from vllm.tool_parsers import ToolParserManager

    ToolParserManager.register_lazy_module(
        "gemma3", "octet.engine.vllm.inside.gemma3_tool_parser", "Gemma3ToolParser"
    )


def _register_quantization() -> None:
    from octet.engine.vllm.inside import octet_fp8

    octet_fp8.register()


def _register_kernels(device: str) -> None:
    if "QuantFP8" in compat.out_of_tree_ops():
        return
    from octet.engine.vllm.inside import (
        bf16_layers,
        fp8_vocabulary,
        fused,
        linear,
        output_layer,
        quant,
        rms_norm_layers,
        rotary,
    )
    from octet.engine.vllm.inside.vision import install

    quant.register()
    if device == "cuda":
        compat.kernels.fuse_norms_with_quantization(_quantizes_per_token)
    available = kernels.operators(device)
    if device == "cpu":
        output_layer.register()
        bf16_layers.register()
        install.register()
        elements = compat.inductor.wake_threads_for_work_only()
        compat.set_compile_factor("OCTET_ELEMENTS_PER_THREAD", str(elements))
    if "fp8_linear" in available:
        linear.register()
    fp8_vocabulary.register()
    if set(kernels.FUSED) <= set(available):
        fused.register(device)
        if device == "cpu":
            rms_norm_layers.register()
            rotary.register()


def _quantizes_per_token(config: Any) -> bool:
    from octet.engine.vllm.serving import model_info

    try:
        scheme = model_info.quantization(config)
    except ValueError:
        # vLLM says what is wrong with what cannot be read.
        return False
    return scheme is not None and scheme.scheme == model_info.FP8_DYNAMIC
