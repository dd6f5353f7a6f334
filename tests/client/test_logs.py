"""Both audit logs of a clinic as one."""

from pathlib import Path

import pytest

from melfed.client.config.folders import prepare_messenger, prepare_worker
from melfed.client.logs import logs, records
from melfed.common.audit.events import Event
from melfed.common.audit.log import AuditLog
from melfed.common.errors import StorageError
from tests.client.clinics import a_clinic


def test_records_name_their_log(tmp_path: Path) -> None:
    config = a_clinic(tmp_path)
    with pytest.raises(StorageError, match="there is no audit log yet; it begins with the first event"):
        logs(config)
    prepare_messenger(config)
    AuditLog(config.messenger_audit_log, "s").record(Event.CONNECTION_LOST, reason="no route")
    assert logs(config) == [config.messenger_audit_log]
    prepare_worker(config)
    AuditLog(config.audit_log, "w").record(Event.WORKER_STARTED, version="1")
    assert sorted((row["log"], row["id"]) for row in records(config)) == [("messenger", 1016), ("worker", 1001)]
