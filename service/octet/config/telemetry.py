"""What operators see: metrics, traces, the log."""

from dataclasses import dataclass

from octet.config.checks import at_least

LOG_FORMATS = ("text", "json")
LOG_LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True)
class TelemetryConfig:
    """Metrics, traces and logs.

    Attributes:
        metrics_host: address of the port for Prometheus and probes.
        metrics_port: the port itself; 0 takes a free one, None opens none.
        otlp_traces_endpoint: where traces are sent by OTLP; None leaves it to OpenTelemetry's environment
            variables.
        load_reports: whether chats' trailers say how busy the server is.
        log_format: text or json.
        log_level: the least severe level that is logged.
        log_prompts: how many characters of each prompt and of each answer are logged; 0 logs neither.
    """

    metrics_host: str = "127.0.0.1"
    metrics_port: int | None = None
    otlp_traces_endpoint: str | None = None
    load_reports: bool = True
    log_format: str = "text"
    log_level: str = "info"
    log_prompts: int = 0

    def check(self) -> None:
        """Raises ValueError with the flag's name when a setting makes no sense."""
        if self.metrics_port is not None and not 0 <= self.metrics_port <= 65535:
            raise ValueError(f"--metrics-port: {self.metrics_port} is not between 0 and 65535")
        if self.log_format not in LOG_FORMATS:
            raise ValueError(f"--log-format: {self.log_format} is none of {', '.join(LOG_FORMATS)}")
        if self.log_level not in LOG_LEVELS:
            raise ValueError(f"--log-level: {self.log_level} is none of {', '.join(LOG_LEVELS)}")
        at_least(0, "--log-prompts", self.log_prompts)
