"""A clinic that was asked, has a ledger and a model, as its live page reads them; foreign words are hostile."""

from pathlib import Path

from melfed.client.config.clinic import ClinicConfig
from melfed.client.config.folders import prepare_messenger
from melfed.client.ledger.ledger import Ledger
from melfed.client.models.store import ModelStore
from melfed.client.privacy.accounting import Mechanism
from melfed.common.audit.events import Event
from melfed.common.audit.log import AuditLog
from tests.client.ledger.ledgers import DATA, charge, spend
from tests.client.models.delivered import FACTS, STUDY, TENSORS, clinic_for_models

HOSTILE = "<script>document.title='broken in'<b><img src=x onerror=document.title='broken-in'>"


def busy_clinic(folder: Path) -> ClinicConfig:
    """A clinic with two requests, one charge, one model, and a messenger that writes what it likes."""
    config = clinic_for_models(folder)
    prepare_messenger(config)
    log = AuditLog(config.audit_log, "worker")
    told = {"kind": "train", "digest": STUDY.digest, "run": "r", "round": 1}
    log.record(Event.REQUEST_ANSWERED, **told, seconds=1.5)
    log.record(Event.REQUEST_DECLINED, **told | {"round": 2}, reason=HOSTILE)
    forged = AuditLog(config.messenger_audit_log, HOSTILE)
    forged.record(Event.REQUEST_ANSWERED, kind="forged")
    with Ledger.open(config.ledger, DATA) as ledger:
        spend(ledger, charge(1, Mechanism(1.0, 2.0, 1), run=HOSTILE))
    ModelStore(config.models).save(TENSORS, FACTS.model_copy(update={"intended_use": HOSTILE}), STUDY, "ab" * 32)
    return config
