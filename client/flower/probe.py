"""Asks the coordinator's SuperLink whether it knows this clinic's key; a process of its own, since it loads Flower.

Flower has no question for that. But SuperLink looks the key up before it looks at the heartbeat interval of an
activation: one that no node may have (0 s) is refused with code 2003 where the key is registered, and with code 2004
where it is not. Neither changes anything: the clinic is not activated, and one that runs is not disturbed. What has no
valid signature and time is refused with status 401 before that.
"""

import json
import os
import ssl
import sys
from collections.abc import Sequence

from melfed.common.flower_pins import check_flower

REGISTERED, UNKNOWN_KEY, INCOMPATIBLE = 2003, 2004, 1001
"""Flower's codes (`flwr.supercore.error.ApiErrorCode`), 1.41."""

SECONDS = 8.0
IMPOSSIBLE_INTERVAL = 0.0


def probe(host: str, port: int, authority: str, certificate: str, key: str, node_key: str) -> dict[str, object]:
    """Return how the coordinator answers: `status` of HTTP, `code` of Flower (None without one), `detail`.

    Args:
        host: the coordinator's name.
        port: its port.
        authority: file of the CA certificate.
        certificate: file of the clinic's TLS certificate.
        key: file of its private key.
        node_key: file of the key that Flower knows the clinic by.

    Raises:
        OSError: a file cannot be read.
        ValueError: a file does not hold what it should.
        httpx.HTTPError: there is no connection.
        ServiceError: Flower is another one.
    """
    os.environ.update({"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"})
    check_flower("doctor")
    import httpx
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import load_ssh_private_key
    from flwr.proto.fleet_pb2 import ActivateNodeRequest
    from flwr.supercore.interceptors.http.utils import add_headers
    from flwr.supercore.primitives.asymmetric import public_key_to_bytes
    from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext
    from flwr.supercore.runtime_version_compatibility import RuntimeVersionMetadata
    from flwr.supernode.fleet_http_client import FleetHttpClient
    from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

    class Version:
        """Says which Flower asks. Flower's own interceptor ends the process where versions do not match."""

        def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
            """Add the headers."""
            add_headers(context.request, dict(RuntimeVersionMetadata.from_local_component("SuperNode").as_metadata()))
            return call_next(context)

    with open(node_key, "rb") as file:  # noqa: PTH123 (a name from the command line)
        private = load_ssh_private_key(file.read(), None)
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise ValueError("no elliptic curve key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(authority)
    context.load_cert_chain(certificate, key, password="")  # nobody is there to be asked for a passphrase
    signs = NodeAuthHttpInterceptor(private, private.public_key())
    with FleetHttpClient(
        f"https://{f'[{host}]' if ':' in host else host}:{port}",
        interceptors=[Version(), signs],
        verify=context,
        timeout=SECONDS,
    ) as client:
        public = public_key_to_bytes(private.public_key())
        try:
            client.ActivateNode(ActivateNodeRequest(public_key=public, heartbeat_interval=IMPOSSIBLE_INTERVAL))
        except httpx.HTTPStatusError as error:
            return {"status": error.response.status_code, **_flower_error(error.response.text)}
    return {"status": 200, "code": None, "detail": ""}


def main(arguments: Sequence[str]) -> int:
    """Print the answer as JSON, or `error`, the kind of what went wrong; the arguments are those of `probe`."""
    host, port, *files = arguments
    try:
        answer = probe(host, int(port), *files)
    except Exception as error:  # noqa: BLE001 (it is told, by its kind)
        answer = {"error": type(error).__name__}
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


def _flower_error(text: str) -> dict[str, object]:
    from flwr.supercore.error import FlowerError

    error = FlowerError.from_json(text)
    if error is None:
        return {"code": None, "detail": ""}
    return {"code": int(error.code), "detail": error.public_details or error.message}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
