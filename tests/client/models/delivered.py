"""Models as the coordinator sends them, for the tests of what a clinic does with them."""

from pathlib import Path
from typing import Any

from melfed.client.config.clinic import ClinicConfig
from melfed.client.models.deliveries import Deliveries
from melfed.client.rpc import worker_pb2 as pb
from melfed.client.worker.service import read_sealed
from melfed.common.audit.log import AuditLog
from melfed.common.export.facts import ModelFacts
from melfed.common.export.signature import Signed, sign
from melfed.common.model.classifier import Classifier, trainable_tensors
from melfed.common.study.protocol import StudyProtocol
from melfed.common.tensors import Tensors, to_bytes
from tests.client.clinics import a_clinic
from tests.client.small import small_model, small_study
from tests.common.signing import AUTHORITY, COORDINATOR, HOST

STUDY = small_study()
MODEL: Classifier = small_model(STUDY)
TENSORS: Tensors = trainable_tensors(MODEL)
RUN = "0123456789abcdef"
FACTS = ModelFacts.of(STUDY, run=RUN)


def clinic_for_models(folder: Path, **policy: Any) -> ClinicConfig:
    """A clinic that has approved `STUDY`, with the consortium's CA in its kit."""
    rules = {"epsilon": 3.0, "studies": [STUDY.digest], **policy}
    config = a_clinic(folder, coordinator={"host": HOST, "port": 9}, policy=rules)
    config.ca_certificate.write_bytes(AUTHORITY.certificate)
    config.worker_state.mkdir(parents=True, exist_ok=True)
    return config


def deliveries(config: ClinicConfig) -> Deliveries:
    return Deliveries(config, lambda: config.policy, read_sealed, AuditLog(config.audit_log, "worker"))


def signed(tensors: Tensors = TENSORS, facts: str = FACTS.model_dump_json()) -> Signed:
    return sign(to_bytes(tensors), facts, COORDINATOR.key, COORDINATOR.certificate)


def question(study: StudyProtocol = STUDY, facts: str = FACTS.model_dump_json(), **changes: Any) -> pb.Question:
    made = changes.pop("signed", None) or signed(facts=facts)
    delivery = pb.Delivery(facts=facts, signature=made.signature, certificate=made.certificate)
    fields = {"study": study.model_dump_json(), "digest": study.digest, "run": RUN, "delivery": delivery, **changes}
    return pb.Question(**fields)
