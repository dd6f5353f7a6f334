"""A second holder of a clinic's key: noticed by its requests, told once, and no clinic that was started anew."""

import asyncio
import json
import os
import ssl
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.proto.fleet_pb2 import ActivateNodeRequest, DeactivateNodeRequest
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supercore.interceptors.http.utils import add_headers
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.runtime_version_compatibility import RuntimeVersionMetadata
from flwr.superlink.servicer.fleet import fleet_handlers
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor
from hypothesis import given
from hypothesis import strategies as st

from melfed.common.messages import PROCESS_HEADER
from melfed.server.clinics.certificates import key_header
from melfed.server.clinics.registry import read_clinics
from melfed.server.config import ServerConfig
from melfed.server.flower.key_holders import (
    ADDRESS_HEADER,
    AGAIN_SECONDS,
    ALIVE_SECONDS,
    KEY_HEADER,
    MOST_PROCESSES,
    POLLED,
    KeyHolders,
    Source,
    Watching,
    watch,
)
from tests.server.coordinator import make_kits, node_key, record_of
from tests.server.flower_stack import superlink

A, B, C = (Source(name, f"10.0.0.{number}") for number, name in enumerate("abc", 1))


class Clock:
    def __init__(self) -> None:
        self.now = 0.0
        self.told: list[tuple[str, str, str, str]] = []
        self.holders = KeyHolders(
            lambda key, source, other, how: self.told.append((key, source.address, other, how)), self
        )

    def __call__(self) -> float:
        return self.now

    def polls(self, *sources: Source, every: float = 3.0, key: str = "k") -> None:
        for source in sources:
            self.now += every
            self.holders.polled(key, source)


def test_a_clinic_that_polls_and_is_started_anew_is_one() -> None:
    clock = Clock()
    clock.polls(*[A] * 20, *[B] * 20, *[C] * 20)
    assert clock.told == []


def test_two_that_poll_in_turn_are_told_once_an_hour_with_both_addresses() -> None:
    clock = Clock()
    clock.polls(A, A, B)
    assert clock.told == [], "it may have been started anew"
    clock.polls(A)
    assert clock.told == [("k", A.address, B.address, "both ask in turn")]
    clock.polls(*[B, A] * 100)
    assert len(clock.told) == 1
    clock.now += AGAIN_SECONDS
    clock.polls(B, A, B)
    assert len(clock.told) == 2


def test_they_are_told_apart_at_one_address_too() -> None:
    clock = Clock()
    clock.polls(A, Source("other", A.address), A)
    assert clock.told == [("k", A.address, A.address, "both ask in turn")]


def test_one_that_comes_back_after_long_is_no_second_one() -> None:
    """Such as a machine that was away while another took its place."""
    clock = Clock()
    clock.polls(A, B)
    clock.now += ALIVE_SECONDS
    clock.polls(A)
    assert clock.told == []


def test_clinics_are_apart() -> None:
    clock = Clock()
    for _ in range(5):
        clock.polls(A, key="one")
        clock.polls(B, key="two")
    assert clock.told == []


def test_one_that_is_refused_while_another_is_online_is_told() -> None:
    clock = Clock()
    clock.holders.refused("k", B)
    clock.polls(A)
    clock.holders.refused("k", A)
    assert clock.told == [], "nobody is online, or it is the one itself"
    clock.holders.refused("k", B)
    assert clock.told == [("k", B.address, A.address, "refused while the other is online")]


@given(st.lists(st.tuples(st.sampled_from("abcdefghijkl"), st.floats(0, 200)), max_size=60))
def test_it_is_told_only_of_two_that_live_and_keeps_little(steps: list[tuple[str, float]]) -> None:
    clock = Clock()
    last: dict[str, float] = {}
    before = ""
    for name, wait in steps:
        told = len(clock.told)
        clock.polls(Source(name, ""), every=wait)
        if len(clock.told) > told:
            assert before != name
            assert clock.now - last[name] <= ALIVE_SECONDS
        last[name], before = clock.now, name
        assert len(clock.holders._keys["k"].heard) <= MOST_PROCESSES


def ask(app: Watching, path: str, **headers: str) -> None:
    scope = {"type": "http", "path": path, "headers": [(k.encode(), v.encode()) for k, v in headers.items()]}
    asyncio.run(app(scope, None, None))  # type: ignore[arg-type]


async def nothing(*_: Any) -> None:
    """In the place of the rest of SuperLink."""


def test_what_the_doctor_asks_is_not_counted_and_names_are_kept_short() -> None:
    clock = Clock()
    app = Watching(nothing, clock.holders)
    for process in ("a", "b" * 10_000, "a"):
        ask(app, "/v1/fleet/activate-node", **{KEY_HEADER: "k", PROCESS_HEADER: process, ADDRESS_HEADER: "1.2.3.4"})
    assert clock.told == []
    for process in ("a", "b" * 10_000, "a"):
        ask(app, min(POLLED), **{KEY_HEADER: "k", PROCESS_HEADER: process, ADDRESS_HEADER: "1.2.3.4"})
    assert [told[1:3] for told in clock.told] == [("1.2.3.4", "1.2.3.4")]
    assert max(map(len, clock.holders._keys["k"].heard)) <= 64
    ask(app, min(POLLED))
    assert set(clock.holders._keys) == {"k"}, "without a key nothing is kept"


def test_the_server_writes_down_whose_key_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_kits(tmp_path / "kits", "ab")

    def refuse(request: object, state: object) -> None:
        raise FlowerError(ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED, "it is online")

    monkeypatch.setattr(fleet_handlers, "activate_node", refuse)
    holders = watch(config)
    (key,) = (key_header(record.node_key) for record in read_clinics(config.clinics) if record.name == "b")

    async def activate(*_: Any) -> None:
        with pytest.raises(FlowerError):
            fleet_handlers.activate_node(request=None, state=None)

    holders.polled(key, A)
    app = Watching(activate, holders)
    ask(app, "/v1/fleet/activate-node", **{KEY_HEADER: key, PROCESS_HEADER: "b", ADDRESS_HEADER: "10.9.9.9"})
    (row,) = map(json.loads, config.audit_log.read_text().splitlines())
    told = {name: row[name] for name in ("id", "who", "clinic", "address", "other", "how")}
    assert told == {
        "id": 2022,
        "who": "superlink",
        "clinic": "b",
        "address": "10.9.9.9",
        "other": A.address,
        "how": "refused while the other is online",
    }


class Holder:
    """A SuperNode's requests with a clinic's key, past the edge, whose headers it has."""

    def __init__(self, config: ServerConfig, name: str, process: str, address: str) -> None:
        key = serialization.load_ssh_private_key(node_key(config, name).read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(config.ca_certificate)
        self.headers = {PROCESS_HEADER: process, ADDRESS_HEADER: address}
        signs = NodeAuthHttpInterceptor(key, key.public_key())
        where, interceptors = f"https://{config.superlink}", [self, signs]
        self.client = FleetHttpClient(where, interceptors=interceptors, verify=context, timeout=20)
        self.public = public_key_to_bytes(key.public_key())

    def intercept(self, context: Any, call_next: Any) -> Any:
        add_headers(context.request, self.headers)
        add_headers(context.request, dict(RuntimeVersionMetadata.from_local_component("SuperNode").as_metadata()))
        return call_next(context)

    def come_online(self) -> int:
        request = ActivateNodeRequest(public_key=self.public, heartbeat_interval=10)
        return int(self.client.ActivateNode(request).node_id)

    def poll(self, node: int) -> bool:
        request = SendNodeHeartbeatRequest(node=Node(node_id=node), heartbeat_interval=10)
        return bool(self.client.SendNodeHeartbeat(request).success)


def test_a_real_superlink_refuses_the_second_or_serves_both_and_either_is_an_event(tmp_path: Path) -> None:
    config, before = make_kits(tmp_path / "kits", "ab"), dict(os.environ)
    try:
        with superlink(config) as control:
            for name in "ab":
                control.register(record_of(config, name))
            first, second = Holder(config, "a", "1", "10.0.0.1"), Holder(config, "a", "2", "10.0.0.2")
            assert first.poll(first.come_online())
            with pytest.raises(httpx.HTTPStatusError):
                second.come_online()
            first, second = Holder(config, "b", "1", "10.0.0.1"), Holder(config, "b", "2", "10.0.0.2")
            node = first.come_online()
            assert first.poll(node)
            second.client.DeactivateNode(DeactivateNodeRequest(node_id=node))
            assert second.come_online() == node, "Flower takes both for one"
            assert second.poll(node)
            assert first.poll(node)
    finally:
        os.environ.clear()
        os.environ.update(before)
    rows = [json.loads(line) for line in config.audit_log.read_text().splitlines()]
    assert [tuple(row[name] for name in ("id", "clinic", "address", "other", "how")) for row in rows] == [
        (2022, "a", "10.0.0.2", "10.0.0.1", "refused while the other is online"),
        (2022, "b", "10.0.0.1", "10.0.0.2", "both ask in turn"),
    ]
