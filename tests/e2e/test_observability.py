"""`octet serve` with the real vLLM, as operators see it: metrics, a trace, the log, load reports."""

import asyncio
import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from octet.v1 import chat_service_pb2_grpc
from tests.collector import Collector, collector
from tests.deploy_metrics import queries
from tests.e2e.conftest import ENGINE_FLAGS, MODEL
from tests.http import get
from tests.integration.conftest import ask
from tests.integration.test_load_reports import report
from tests.promql import selectors

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAID = "What is the capital of France?"


@dataclass
class Observed:
    """A server that has answered one chat."""

    target: str
    metrics_url: str
    collector: Collector
    log: list[str]


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Observed]:
    flags = ("--port", "0", "--metrics-port", "0", "--log-format", "json")
    with collector() as collecting:
        otlp = ("--otlp-traces-endpoint", collecting.endpoint)
        command = [sys.executable, "-m", "octet", "serve", MODEL, *ENGINE_FLAGS, *flags, *otlp]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert process.stderr is not None
        log: list[str] = []
        try:
            metrics_url = until(process.stderr, log, r"metrics on (http://[^\"]+)")
            target = until(process.stderr, log, r"serving \S+ on ([\d.:]+)")
            # Nobody must wait for somebody to read.
            rest = threading.Thread(target=lambda: log.extend(process.stderr or ()))
            rest.start()
            chat(target)
            yield Observed(target, metrics_url, collecting, log)
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
            rest.join(10)
            for line in log:
                json.loads(line)
        finally:
            process.kill()
            process.wait()
            process.stderr.close()


def until(stream: Any, log: list[str], pattern: str) -> str:
    for line in stream:
        log.append(line)
        if match := re.search(pattern, line):
            return match[1]
    raise AssertionError("".join(log))


def chat(target: str) -> None:
    with grpc.insecure_channel(target) as channel:
        stub = chat_service_pb2_grpc.ChatServiceStub(channel)
        metadata = (("traceparent", f"00-{TRACE}-{PARENT}-01"), ("x-request-id", "r1"))
        assert list(stub.StreamChat(ask(SAID), metadata=metadata, timeout=60))


def test_one_trace_goes_from_the_caller_into_the_engine(observed: Observed) -> None:
    names = {"octet.v1.ChatService/StreamChat", "queue", "translate", "generate", "llm_request"}
    spans = observed.collector.wait_for(TRACE, names)
    assert spans.keys() == names
    root = spans["octet.v1.ChatService/StreamChat"]
    assert root.parent_span_id.hex() == PARENT
    for name in ("queue", "translate", "generate"):
        assert spans[name].parent_span_id == root.span_id
    assert spans["llm_request"].parent_span_id == spans["generate"].span_id
    attributes = {item.key: item.value for item in root.attributes}
    assert attributes["rpc.response.status_code"].string_value == "OK"
    assert attributes["octet.request_id"].string_value == "r1"
    assert attributes["gen_ai.usage.output_tokens"].int_value > 0
    assert observed.collector.services == {"octet"}
    assert SAID not in str(spans)


def test_every_query_that_we_publish_finds_its_metric(observed: Observed) -> None:
    names, labels = set(), {}
    for family in text_string_to_metric_families(get(observed.metrics_url)):
        name = family.name + ("_total" if family.type == "counter" else "")
        names |= {name} if family.type != "histogram" else {f"{name}_{s}" for s in ("bucket", "count", "sum")}
        for sample in family.samples:
            labels[sample.name] = set(sample.labels)
    read = [selector for query in queries() for selector in selectors(query)]
    assert {name for name, _ in read if name.startswith("vllm:")}
    for name, selected in read:
        assert name in names, name
        # Prometheus itself adds the instance; what has not happened yet has no labels yet.
        assert selected - {"instance"} <= labels.get(name, selected), name


def test_the_engine_counts_what_we_count(observed: Observed) -> None:
    values = {
        sample.name: sample.value
        for family in text_string_to_metric_families(get(observed.metrics_url))
        for sample in family.samples
        if not sample.name.endswith("_bucket")
    }
    # The warm-up request is the engine's alone.
    assert 0 < values["octet_generated_tokens_total"] <= values["vllm:generation_tokens_total"] - 2
    assert values["octet_time_to_first_token_seconds_count"] >= 1


def test_vllm_logs_in_our_format_from_all_its_processes(observed: Observed) -> None:
    lines = [json.loads(line) for line in observed.log]
    assert {"octet", "vllm"} <= {line["logger"].partition(".")[0] for line in lines}
    assert "EngineCore" in {line.get("process") for line in lines}
    (call,) = [line for line in lines if line.get("request_id") == "r1"]
    assert call["trace_id"] == TRACE
    assert call["generated_tokens"] > 0
    assert SAID not in json.dumps(lines)


def test_load_reports_hold_the_engines_cache(observed: Observed) -> None:
    said, _ = asyncio.run(report(observed.target))
    assert "kv_cache" in said.utilization
    assert 0 < said.application_utilization <= 1
