"""What a clinic's monitoring reads: counts, seconds and bytes, and ε where it is told."""

import urllib.request

import pytest

from melfed.client.worker.prometheus import WorkerMetrics, gpu_memory
from melfed.common.errors import ServiceError


def test_everything_is_counted() -> None:
    metrics = WorkerMetrics()
    metrics.request("train", "answered")
    metrics.request("train", "answered")
    metrics.request("describe", "declined")
    metrics.trained(1.5)
    metrics.trained(2.0)
    metrics.traffic(received=10)
    metrics.traffic(received=1, sent=5)
    value = metrics.registry.get_sample_value
    assert value("melfed_requests_total", {"kind": "train", "outcome": "answered"}) == 2
    assert value("melfed_requests_total", {"kind": "describe", "outcome": "declined"}) == 1
    assert (value("melfed_rounds_total"), value("melfed_training_seconds_total")) == (2, 3.5)
    assert (value("melfed_received_bytes_total"), value("melfed_sent_bytes_total")) == (11, 5)
    assert value("melfed_gpu_memory_bytes") == gpu_memory()


def test_an_epsilon_is_absent_until_it_is_known_and_where_it_is_not_told() -> None:
    metrics, silent = WorkerMetrics(), WorkerMetrics(budget=False)
    assert metrics.registry.get_sample_value("melfed_epsilon_left") is None
    for each in (metrics, silent):
        each.privacy(1.25, 0.75)
        each.privacy(1.5, 0.5)
    names = ("melfed_epsilon_spent", "melfed_epsilon_left")
    assert [metrics.registry.get_sample_value(name) for name in names] == [1.5, 0.5]
    assert [silent.registry.get_sample_value(name) for name in names] == [None, None]


def test_it_answers_on_loopback_for_as_long_as_the_body_lasts() -> None:
    metrics = WorkerMetrics()
    metrics.trained(2.0)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with metrics.served(0) as port:
        with opener.open(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            assert b"melfed_training_seconds_total 2.0" in answer.read()
        taken = rf"^metrics_port {port} on 127.0.0.1 cannot be used: .* in clinic.yaml"
        with pytest.raises(ServiceError, match=taken), metrics.served(port):
            pass
    with pytest.raises(OSError, match="refused"):
        opener.open(f"http://127.0.0.1:{port}/metrics", timeout=10)
