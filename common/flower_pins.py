"""Flower's internals that melfed replaces or relies on, and a digest of each as it was when melfed was made for it.

One table for both sides, by the process that needs them. Each process compares its own at its start, so that another
Flower is refused there, with one line that names what changed, and never half adapted at run time. `docs/flower.md`
says of each why it is touched, and what to do at an upgrade.
"""

import hashlib
import importlib
import inspect
from collections.abc import Iterator, Mapping
from typing import Final

from melfed.common.errors import ServiceError

FLOWER: Final = "1.41.0"
"""The version that the digests are of."""

PINS: Final[Mapping[str, Mapping[str, str]]] = {
    "SuperNode": {
        "flwr.common.constant:ErrorCode": "4889fc3e5b669ac5",
        "flwr.common.constant:Status": "0fab628959108604",
        "flwr.supercore.error:FlowerError": "5791034e46095dd6",
        "flwr.supercore.exit.exit_handler:trigger_exit_handlers": "5703e77e3197160c",
        "flwr.supercore.heartbeat:HeartbeatSender": "27714c8e35121c84",
        "flwr.supercore.inflatable.inflatable_object:get_object_id": "1c9d6716beb15b07",
        "flwr.supercore.inflatable.inflatable_object:iterate_object_tree": "34c0fe845619356a",
        "flwr.supercore.inflatable.inflatable_utils:ObjectPullError": "58868c9b8beea08f",
        "flwr.supercore.inflatable.inflatable_utils:ObjectPushError": "8682a8237d3a7008",
        "flwr.supercore.inflatable.inflatable_utils:pull_objects": "31bb2de46b450e6a",
        "flwr.supercore.inflatable.inflatable_utils:validate_object_content": "86b85558c2b3596b",
        "flwr.supercore.object_store.in_memory_object_store:InMemoryObjectStore": "f0690484616df3c2",
        "flwr.supercore.object_store.object_store_factory:ObjectStoreFactory": "8737747562399b1a",
        "flwr.supercore.interceptors.http.utils:add_headers": "c797be6f4922a7f4",
        "flwr.supercore.object_store:ObjectStore": "6c361dcd45aa0289",
        "flwr.supercore.protobuf.client:ProtobufCall": "a47eacc5f8c4da11",
        "flwr.supercore.protobuf.client:ProtobufClient": "e2206492f910555f",
        "flwr.supercore.protobuf.client:ProtobufClientInterceptor": "7213e865bb9974ea",
        "flwr.supercore.protobuf.client:ProtobufRequestContext": "ac89e51d64bb230c",
        "flwr.supercore.retry.http_retry:make_simple_http_retry_invoker": "49e12326a4b17e26",
        "flwr.supercore.retry.retry_invoker:RetryInvoker": "c07ea29e28e98adf",
        "flwr.supercore.retry:RetryInvoker": "c07ea29e28e98adf",
        "flwr.supercore.retry:exponential": "f3b566f7b0b16c42",
        "flwr.supercore.run:RunNotRunningException": "c6cd25f48f7dab64",
        "flwr.supernode.cli.flower_supernode:flower_supernode": "e263e10452076b00",
        "flwr.supernode.fleet_http_client:FleetHttpClient": "9f33ca6d39a8f428",
        "flwr.supernode.fleet_http_connection:http_request_response": "b80ca36779c2657f",
        "flwr.supernode.nodestate.in_memory_nodestate:InMemoryNodeState": "ed77fee39416de33",
        "flwr.supernode.nodestate:NodeState": "51e9c3986a1e8d18",
        "flwr.supernode.start_client_internal:_insert_message": "a0c6f4605e993f04",
        "flwr.supernode.start_client_internal:_pull_and_store_message": "eaf5d0e36dc34e4c",
        "flwr.supernode.start_client_internal:_push_messages": "00bb86faffdec114",
        "flwr.supernode.start_client_internal:start_client_internal": "9e89a6eb68fbec68",
    },
    "messenger": {
        "flwr.app.message.arraychunk:ArrayChunk": "d62339be137806c3",
        "flwr.common.constant:FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE": "1e8c1c7e50e5595c",
        "flwr.common.constant:SubStatus": "3250f760cd3385b2",
        "flwr.supercore.constant:TaskType": "83fa24c88e9291ed",
        "flwr.supercore.exit.exit_handler:registered_exit_handlers": "4f53cda18c2baa0c",
        "flwr.supercore.fab:Fab": "140aff940cdb015e",
        "flwr.supercore.heartbeat:HeartbeatSender": "27714c8e35121c84",
        "flwr.supercore.inflatable.inflatable_object:InflatableObject": "3243f58ee817844e",
        "flwr.supercore.inflatable.inflatable_object:get_all_nested_objects": "409d9822fd87e1eb",
        "flwr.supercore.inflatable.inflatable_protobuf_utils:make_pull_object_fn_protobuf": "ede05e6314fa253a",
        "flwr.supercore.inflatable.inflatable_utils:pull_and_inflate_object_from_tree": "139811483a15e4a6",
        "flwr.supercore.interceptors:RuntimeTokenHttpInterceptor": "06cbf14d2ea81c27",
        "flwr.supercore.interceptors:RuntimeVersionHttpInterceptor": "32dc4f3d763a9ca0",
        "flwr.supercore.protobuf.client:ProtobufClientInterceptor": "7213e865bb9974ea",
        "flwr.supercore.retry.retry_invoker:RetryInvoker": "c07ea29e28e98adf",
        "flwr.supercore.retry:RetryInvoker": "c07ea29e28e98adf",
        "flwr.supercore.retry:constant": "9436c620ce7621b5",
        "flwr.supercore.run:Run": "2f1566491e6beccf",
        "flwr.supercore.runtime:RuntimeHttpClient": "9d66e89a62052127",
        "flwr.supercore.superexec.executor.types:ExecutionSpec": "a52aad6399c9a5ec",
        "flwr.supercore.superexec.executor.types:Executor": "c6d3173df690f03e",
        "flwr.supercore.superexec.executor.types:LaunchResult": "52068f09cea4222e",
        "flwr.supercore.superexec.run_superexec:run_superexec": "d11f4e7fbc8f0b12",
        "flwr.supernode.runtime.run_clientapp:pull_task_input": "5607a23e1673ee87",
        "flwr.supernode.runtime.run_clientapp:push_message": "07cb512c93e065a9",
        "flwr.supernode.runtime.run_clientapp:run_clientapp": "6ce09559f3a2f5dc",
    },
    "SuperLink": {
        "flwr.server.superlink.linkstate.sql_linkstate:SqlLinkState._cleanup_expired_task_tokens": "34301eae2ee4a008",
        "flwr.server.superlink.linkstate.sql_linkstate:SqlLinkState.create_node": "a36b039d00ea55cb",
        "flwr.server.superlink.linkstate.sql_linkstate:SqlLinkState.query": "9367f7be3f8be737",
        "flwr.server.superlink.linkstate.sql_linkstate:SqlLinkState.store_traffic": "cc82e5eaf2bb9665",
        "flwr.server.superlink.linkstate:LinkState": "6f0a7cf3ec720761",
        "flwr.supercore.error:ApiErrorCode": "d5e9ed6a18a359fc",
        "flwr.supercore.error:FlowerError": "5791034e46095dd6",
        "flwr.supercore.inflatable.inflatable_object:UnexpectedObjectContentError": "50d568d80b8c8bab",
        "flwr.supercore.inflatable.inflatable_object:get_object_id": "1c9d6716beb15b07",
        "flwr.supercore.inflatable.inflatable_utils:validate_object_content": "86b85558c2b3596b",
        "flwr.supercore.object_store.object_store_factory:ObjectStoreFactory": "8737747562399b1a",
        "flwr.supercore.object_store.sql_object_store:SqlObjectStore": "4c553d469e5fb89c",
        "flwr.supercore.object_store:object_store_factory": "8b82de0f9f664f79",
        "flwr.supercore.sql_mixin:SQLITE_PRAGMAS": "f940cbaa04ab08fd",
        "flwr.supercore.sql_mixin:SqlMixin": "b52171be48ce8581",
        "flwr.superlink.cli.flower_superlink:SuperLinkLifespan": "a2c1f2f11725c17f",
        "flwr.superlink.cli.flower_superlink:_parse_superlink_lifespan_config": "ef9b8a405905038e",
        "flwr.superlink.main:_get_middleware": "acdbc2dce1520f8f",
        "flwr.superlink.main:create_app": "ee966b630c8ba8b5",
        "flwr.superlink.servicer.fleet.fleet_handlers:activate_node": "0370edbbeb924eac",
        "flwr.superlink.servicer.fleet.fleet_handlers:get_run": "004ad390c8b38c0e",
        "flwr.superlink.servicer.fleet.fleet_handlers:pull_object": "78f6d45fda46df47",
        "flwr.superlink.servicer.fleet.fleet_handlers:push_messages": "70c2fe927c6693b0",
        "flwr.superlink.servicer.fleet.fleet_handlers:push_object": "df7e96f1188e0a40",
    },
    "superexec": {
        "flwr.supercore.constant:TaskType": "83fa24c88e9291ed",
        "flwr.supercore.retry.http_retry:MAX_RETRY_DELAY": "f5ca38f748a1d6ea",
        "flwr.supercore.retry.http_retry:make_simple_http_retry_invoker": "49e12326a4b17e26",
        "flwr.supercore.superexec.executor.types:ExecutionSpec": "a52aad6399c9a5ec",
        "flwr.supercore.superexec.executor.types:Executor": "c6d3173df690f03e",
        "flwr.supercore.superexec.executor.types:LaunchResult": "52068f09cea4222e",
        "flwr.supercore.superexec.run_superexec:get_executor": "891abfc53747803d",
        "flwr.supercore.superexec.run_superexec:run_superexec": "d11f4e7fbc8f0b12",
    },
    "ServerApp": {
        "flwr.app.message.arraychunk:ArrayChunk": "d62339be137806c3",
        "flwr.common.constant:ErrorCode": "4889fc3e5b669ac5",
        "flwr.common.serde_utils:metadata_from_proto": "ba4de188f828add2",
        "flwr.supercore.inflatable.inflatable_object:InflatableObject": "3243f58ee817844e",
        "flwr.supercore.inflatable.inflatable_object:get_all_nested_objects": "409d9822fd87e1eb",
        "flwr.supercore.inflatable.inflatable_object:get_object_body": "221a88d535135f90",
        "flwr.supercore.inflatable.inflatable_object:get_object_head_values_from_object_content": "d9288c47e775b67a",
        "flwr.supercore.inflatable.inflatable_object:iterate_object_tree": "34c0fe845619356a",
        "flwr.supercore.inflatable.inflatable_protobuf_utils:make_pull_object_fn_protobuf": "ede05e6314fa253a",
        "flwr.supercore.inflatable.inflatable_utils:ObjectPullError": "58868c9b8beea08f",
        "flwr.supercore.inflatable.inflatable_utils:ObjectUnavailableError": "0ac490e7a5ba03fa",
        "flwr.supercore.inflatable.inflatable_utils:inflate_object_from_contents": "93b98a2ea3f35c4f",
        "flwr.supercore.retry.http_retry:MAX_RETRY_DELAY": "f5ca38f748a1d6ea",
        "flwr.supercore.retry.http_retry:make_simple_http_retry_invoker": "49e12326a4b17e26",
        "flwr.superlink.grid.http_grid:HttpGrid": "72e288cdc292c3fd",
        "flwr.superlink.runtime:run_serverapp": "2cf00cc3bc7ef87c",
    },
    "control": {
        "flwr.supercore.control:ControlHttpClient": "ee524b3741ae8cf8",
        "flwr.supercore.interceptors:RuntimeVersionHttpInterceptor": "32dc4f3d763a9ca0",
    },
    "doctor": {
        "flwr.supercore.error:FlowerError": "5791034e46095dd6",
        "flwr.supercore.interceptors.http.utils:add_headers": "c797be6f4922a7f4",
        "flwr.supercore.primitives.asymmetric:public_key_to_bytes": "552b787ae3438eaf",
        "flwr.supercore.protobuf.client:ProtobufCall": "a47eacc5f8c4da11",
        "flwr.supercore.protobuf.client:ProtobufRequestContext": "ac89e51d64bb230c",
        "flwr.supercore.runtime_version_compatibility:RuntimeVersionMetadata": "34b1c5192929dbab",
        "flwr.supernode.fleet_http_client:FleetHttpClient": "9f33ca6d39a8f428",
        "flwr.supernode.node_auth_http_interceptor:NodeAuthHttpInterceptor": "a032beb3c41bf1bb",
    },
    "local simulation": {
        "flwr.app.metadata:Metadata": "c100545b53869976",
        "flwr.common.constant:ErrorCode": "4889fc3e5b669ac5",
        "flwr.common.constant:PARTITION_ID_KEY": "177d54c2f7c1203d",
        "flwr.supercore.task_identity:TaskIdentity": "49ac1df12b140345",
    },
    "simulation": {
        "flwr.common.constant:ErrorCode": "4889fc3e5b669ac5",
        "flwr.common.constant:PARTITION_ID_KEY": "177d54c2f7c1203d",
        "flwr.server.superlink.fleet.vce.backend.raybackend:RayBackend": "2ad67054433feddf",
        "flwr.server.superlink.fleet.vce.vce_api:start_vce": "2d5e267f893950a7",
        "flwr.server.superlink.fleet.vce.vce_api:worker": "60f308688ba34fb5",
        "flwr.simulation.ray_transport.ray_actor:VirtualClientEngineActor": "a64283908b1ec170",
        "flwr.simulation.ray_transport.ray_actor:pool_size_from_resources": "dec698571d396dc8",
        "ray._private.worker:listen_error_messages": "047b588a11128971",
        "ray.job_config:JobConfig": "7c0d495368de67d0",
    },
}
"""SHA-256 (16 digits) of the source of each part (of a constant: of its value), by process and by `module:name`."""


def check_flower(process: str) -> None:
    """Compare Flower's parts with those that melfed was made for.

    Args:
        process: one of `PINS`; its parts are imported.

    Raises:
        ServiceError: naming the first that differs.
    """
    for reference, _ in changed(PINS[process]):
        whose = "Ray" if reference.startswith("ray.") else "Flower"
        raise ServiceError(
            f"{whose}'s {reference} is not the one that melfed's {process} was made for; install flwr=={FLOWER} and "
            "start again"
        )


def changed(parts: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield each part that differs from its digest, with the digest that it has now; "" where there is no such part."""
    for reference, expected in parts.items():
        found = _digest(reference)
        if found != expected:
            yield reference, found


def _digest(reference: str) -> str:
    module, _, name = reference.partition(":")
    try:
        part = importlib.import_module(module)
        for attribute in name.split("."):
            part = getattr(part, attribute)
    except (ImportError, AttributeError):
        return ""
    try:
        source = inspect.getsource(part)
    except (OSError, TypeError):
        source = repr(part)  # a constant
    return hashlib.sha256(source.encode()).hexdigest()[:16]
