"""Where vLLM sees no device, or one that Octet has no kernels for: nothing is raised, and one line says
why.
"""

import itertools
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from octet.cli.doctor import doctor
from octet.doctor import Status, examine
from octet.engine.vllm import compat, kernels, plugin
from octet.engine.vllm.compat import devices
from octet.engine.vllm.launch import startup
from octet.engine.vllm.launch.args import parse_engine_args
from octet.errors import StartupError

NO_DRIVER = "no NVIDIA driver is loaded"
OTHERS = ["", "rocm", "xpu", "tpu", "neuron", "hpu", "meta", "out-of-tree", "CPU", "CUDA"]


def pretended(name: str, kind: str) -> Any:
    """A platform of vLLM's, as it stands in `vllm.platforms.current_platform`."""
    from vllm.platforms.interface import Platform, PlatformEnum, UnspecifiedPlatform

    if kind == "UNSPECIFIED":
        return UnspecifiedPlatform()
    # ROCm's devices are called "cuda".
    device = "cuda" if kind == "ROCM" else name
    members = {"_enum": PlatformEnum[kind], "device_name": name, "device_type": device}
    return type("Pretended", (Platform,), members)()


PLATFORMS = [("", "UNSPECIFIED"), ("rocm", "ROCM"), ("xpu", "XPU"), ("tpu", "TPU"), ("neuron", "OOT")]


@pytest.fixture
def cuda_build(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine's CUDA build, on this machine without a GPU."""
    monkeypatch.setattr(compat, "installed_distributions", lambda: {"vllm": "0.32.0"})
    monkeypatch.setattr(devices, "has_cuda_build", lambda: True)
    monkeypatch.setattr("torch.version.cuda", "13.0")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    monkeypatch.setattr(devices, "_DRIVER_VERSION", SimpleNamespace(exists=lambda: False))


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []

    def warn(text: str, *args: Any, **_: Any) -> None:
        lines.append(text % args)

    logger = SimpleNamespace(warning_once=warn, info_once=warn)
    monkeypatch.setattr("vllm.logger.init_logger", lambda _: logger)
    return lines


def test_a_machine_has_a_gpu_or_a_reason_of_one_line_why_not() -> None:
    for visible, driver, control, cuda in itertools.product(
        (None, "", "-1", "7", "GPU-1234"),
        (None, "NVRM version: 580.1\nGCC"),
        (True, False),
        ("12.8", "13.0", "14.0"),
    ):
        text = devices.explain(visible, driver, control, cuda)
        assert "\n" not in text
        assert "NVIDIA driver" in text
        assert ("CUDA_VISIBLE_DEVICES" in text) == (driver is not None and control and visible is not None)
        assert ("--gpus" in text) == (driver is not None and not control)
    assert "580 or newer" in devices.explain(None, None, False, "13.0")
    assert "525 or newer" in devices.explain(None, None, False, "12.8")
    assert NO_DRIVER in devices.explain("", None, True, "13.0")


@pytest.mark.parametrize("device", OTHERS)
def test_nothing_runs_on_devices_without_kernels(device: str) -> None:
    assert kernels.operators(device) == ()
    reason = kernels.unavailable_reason(device)
    assert reason is not None
    assert (device or "no device") in reason
    assert kernels.describe(device) == ""


@pytest.mark.parametrize(("name", "kind"), PLATFORMS)
def test_octet_stays_out_of_other_platforms(
    name: str, kind: str, monkeypatch: pytest.MonkeyPatch, warnings: list[str]
) -> None:
    monkeypatch.setattr("vllm.platforms._current_platform", pretended(name, kind))
    monkeypatch.setattr(plugin, "_register", lambda *_, **__: pytest.fail("something was put into vLLM"))
    assert devices.platform() == name
    plugin.register()
    (line,) = warnings
    assert "octet does nothing here" in line
    assert (f"vLLM computes on {name}" if name else "vLLM sees no device") in line
    assert plugin.failure is None


@pytest.mark.usefixtures("cuda_build")
def test_the_plugin_says_what_is_wrong_with_the_driver(
    monkeypatch: pytest.MonkeyPatch, warnings: list[str]
) -> None:
    monkeypatch.setattr("vllm.platforms._current_platform", pretended("", "UNSPECIFIED"))
    plugin.register()
    (line,) = warnings
    assert NO_DRIVER in line


STEPS = [
    "compat.extend_core",
    "compat.constraints.follow",
    "compat.set_compile_factor",
    "_register_quantization",
]


@pytest.mark.parametrize("step", STEPS)
def test_nothing_that_goes_wrong_ends_vllm_and_octet_serve_tells(
    step: str, monkeypatch: pytest.MonkeyPatch, warnings: list[str]
) -> None:
    def fail(*_: Any) -> None:
        raise AttributeError("module 'vllm' has changed\nentirely")

    monkeypatch.setattr(f"octet.engine.vllm.plugin.{step}", fail)
    plugin.register()
    assert warnings[-1] == "octet could not be put into vLLM: AttributeError: module 'vllm' has changed"
    with pytest.raises(StartupError, match=r"module 'vllm' has changed$"):
        startup._require_kernels()
    monkeypatch.undo()
    plugin.register()
    assert plugin.failure is None
    startup._require_kernels()


@pytest.mark.usefixtures("cuda_build")
def test_a_start_without_a_gpu_is_one_line(tmp_path: Any) -> None:
    with pytest.raises(
        StartupError, match=rf"^no GPU can be used: {NO_DRIVER}; CUDA 13\.0 needs .* 580 or newer"
    ):
        parse_engine_args([str(tmp_path)])


@pytest.mark.usefixtures("cuda_build")
def test_the_doctor_names_the_driver_and_what_to_try() -> None:
    report = examine()
    finding = next(f for f in report.findings if f.subject == "torch")
    assert finding.status is Status.ERROR
    assert NO_DRIVER in finding.detail
    assert "580 or newer: install it" in finding.remedy
    assert report.kernels["device"] == "cuda"
    result = CliRunner().invoke(doctor)
    assert result.exit_code == 1
    assert result.exception is None or isinstance(result.exception, SystemExit)


@pytest.mark.usefixtures("cuda_build")
def test_the_doctor_tells_the_size_of_a_model_that_no_gpu_can_hold() -> None:
    from octet import demo

    finding = next(f for f in examine(str(demo.PATH)).findings if f.subject == "model's size")
    assert finding.status is Status.WARNING
    assert finding.detail.endswith("of weights, and no GPU to hold them")


def test_a_cpu_torch_beside_vllms_name_computes_on_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM built from source for CPUs has the CUDA package's name."""
    monkeypatch.setattr(compat, "installed_distributions", lambda: {"vllm": "0.32.0+cpu"})
    for built, device in ((False, "cpu"), (True, "cuda")):
        monkeypatch.setattr(devices, "has_cuda_build", lambda built=built: built)
        assert compat.engine_device() == device
