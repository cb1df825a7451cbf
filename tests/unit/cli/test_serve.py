"""What `octet serve` makes of its command line."""

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from octet.cli import serve as serve_module
from octet.cli.serve import serve
from octet.config import ServerConfig
from octet.errors import StartupError


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the server would be started with."""
    seen: dict[str, Any] = {}

    def serve_engine(config: ServerConfig, engine_args: list[str]) -> None:
        seen.update(config=config, engine_args=engine_args)

    monkeypatch.setattr(serve_module, "serve_vllm", serve_engine)
    return seen


def run(*arguments: str, **environment: str) -> Any:
    return CliRunner().invoke(
        serve, arguments, env={"OCTET_API_KEY": None, "OCTET_API_KEYS": None, **environment}
    )


MODEL_CARD = (
    "BCCard/gemma-3-12b-it-FP8-Dynamic --tensor-parallel-size 4 --gpu-memory-utilization 0.9 "
    "--max-model-len 8192 --enforce-eager --api-key bccard --served-model-name gemma-3-12b-it"
)


def test_model_cards_command_line(started: dict[str, Any]) -> None:
    assert run(*MODEL_CARD.split()).exit_code == 0
    assert started["config"] == ServerConfig(api_key="bccard")
    assert started["engine_args"] == MODEL_CARD.replace(" --api-key bccard", "").split()


def test_flags_may_come_in_any_order(started: dict[str, Any]) -> None:
    result = run("--max-model-len", "100", "--port", "0", "some/model", "--drain-seconds=2", "-tp", "2")
    assert result.exit_code == 0
    assert (started["config"].port, started["config"].drain_seconds) == (0, 2.0)
    assert started["engine_args"] == ["--max-model-len", "100", "some/model", "-tp", "2"]


def test_every_setting_has_a_flag(started: dict[str, Any]) -> None:
    flags = (
        "--host 0.0.0.0 --port 1 --allow-insecure --max-message-bytes 2 --max-image-bytes 3 "
        "--max-image-pixels 4 --image-threads 5 --image-host a.test --image-host b.test:8443 "
        "--image-fetch-seconds 7 --grace-seconds 5 --drain-seconds 6 --no-reflection --api-keys-file keys "
        "--tls-certificate c --tls-key k --tls-client-ca ca --uds socket --uds-mode 600 "
        "--max-metadata-bytes 1025 --max-concurrent-streams 8 --window-bytes 1026 --keepalive-seconds 9 "
        "--keepalive-timeout-seconds 10 --min-ping-interval-seconds 11 --max-connection-age-seconds 12 "
        "--max-connection-age-grace-seconds 13 --write-timeout-seconds 14 --channelz "
        "--max-running-requests 15 --max-waiting-requests 0 --max-waiting-tokens 17 --max-waiting-images 18 "
        "--max-token-calls 19 --image-decode-seconds 20 --max-image-memory 21 --max-image-memory-per-key 22 "
        "--max-image-memory-per-request 23"
    )
    assert run(*flags.split()).exit_code == 0
    assert started["config"] == ServerConfig(
        host="0.0.0.0",
        port=1,
        api_keys_file="keys",
        allow_insecure=True,
        max_message_bytes=2,
        max_image_bytes=3,
        max_image_pixels=4,
        image_threads=5,
        image_hosts=("a.test", "b.test:8443"),
        image_fetch_seconds=7.0,
        grace_seconds=5.0,
        drain_seconds=6.0,
        max_running_requests=15,
        max_waiting_requests=0,
        max_waiting_tokens=17,
        max_waiting_images=18,
        max_token_calls=19,
        image_decode_seconds=20.0,
        max_image_memory=21,
        max_image_memory_per_key=22,
        max_image_memory_per_request=23,
        reflection=False,
        tls_certificate="c",
        tls_key="k",
        tls_client_ca="ca",
        uds="socket",
        uds_mode=0o600,
        max_metadata_bytes=1025,
        max_concurrent_streams=8,
        window_bytes=1026,
        keepalive_seconds=9.0,
        keepalive_timeout_seconds=10.0,
        min_ping_interval_seconds=11.0,
        max_connection_age_seconds=12.0,
        max_connection_age_grace_seconds=13.0,
        write_timeout_seconds=14.0,
        channelz=True,
    )
    assert started["engine_args"] == []


def test_defaults_are_the_configs(started: dict[str, Any]) -> None:
    assert run().exit_code == 0
    assert started["config"] == ServerConfig()


def test_key_from_the_environment(started: dict[str, Any]) -> None:
    assert run(OCTET_API_KEY="s3cret", OCTET_API_KEYS="a one\nb two").exit_code == 0
    assert started["config"] == ServerConfig(api_key="s3cret", api_keys="a one\nb two")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--host", "0.0.0.0"), "--host: 0.0.0.0 can be reached from other machines"),
        (("--api-key", ""), "--api-key: the key is empty"),
        (("--port", "70000"), "--port: 70000 is not between"),
        (("--uds-mode", "888"), "'888' is not a number in octal"),
        (("--no-tcp",), "--no-tcp: leaves nothing to listen on"),
        (("--port", "many"), "'many' is not a valid integer"),
    ],
)
def test_wrong_settings_are_wrong_usage(
    started: dict[str, Any], arguments: tuple[str, ...], message: str
) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert started == {}


def test_adapters_of_administrators_need_lora(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("ops key\n")
    config = ServerConfig(admin_keys_file=str(tmp_path / "keys"), adapter_root=str(tmp_path))
    with pytest.raises(StartupError, match="--adapter-root: adapters need --enable-lora"):
        serve_module._parse(config, [])
    assert serve_module._parse(config, ["--enable-lora"]).engine.enable_lora
