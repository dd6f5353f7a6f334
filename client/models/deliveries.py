"""A finished model that the coordinator sends: whether the clinic takes it, whether it is what it should be, and where
it is kept. No image is read for it, and nothing is said of any patient: the answer is that it was taken, or why not.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from melfed.client.config.clinic import ClinicConfig
from melfed.client.config.policy import ClinicPolicy
from melfed.client.models.store import ModelStore
from melfed.client.rpc import worker_pb2 as pb
from melfed.client.rpc.api import Received
from melfed.common.audit.events import Event
from melfed.common.audit.log import AuditLog
from melfed.common.errors import DeclinedError, MelfedError, PolicyError, RunError, StudyError
from melfed.common.export.facts import ModelFacts, read_facts
from melfed.common.export.signature import Signed, check_signature
from melfed.common.study.protocol import StudyProtocol
from melfed.common.tensors import to_bytes

if TYPE_CHECKING:
    from melfed.common.model.classifier import Classifier

Receive = Callable[[], Mapping[str, Received]]
MOST_FACTS = 1 << 20
"""Characters of what is told of a model, at most."""


class Deliveries:
    """Takes models for one clinic, from any number of threads."""

    def __init__(
        self,
        config: ClinicConfig,
        policy: Callable[[], ClinicPolicy],
        read: Callable[[str], StudyProtocol],
        audit: AuditLog,
    ) -> None:
        """Begin to take models.

        Args:
            config: the clinic's.
            policy: the clinic's, read anew for every model.
            read: returns the study that a question brings; raises StudyError where it is none.
            audit: where every model is written down, taken or not.
        """
        self._config, self._policy, self._study, self._audit = config, policy, read, audit
        self._store = ModelStore(config.models)

    def take(self, question: pb.Question, receive: Receive) -> None:
        """Keep the model that a question brings.

        Args:
            question: with the study, the run, what is told of the model, and the coordinator's signature.
            receive: returns the tensors that learnt; called once the policy lets the model in.

        Raises:
            DeclinedError: the policy takes no models, or none of this study.
            StudyError: not signed by this consortium's coordinator, altered, or of another study than it says.
            TensorError: the tensors are not those of the study's network.
            MelfedError: of another class: it cannot be kept.
        """
        about: dict[str, str | int] = {
            "digest": question.digest[:64],
            "run": question.run[:200],
            "flower_run": question.flower_run,
        }
        try:
            study = self._study(question.study)
            about |= {"study": study.name}
            if question.digest != study.digest:
                raise StudyError(f"the model is of study {question.digest[:12]}, but brings {study.digest[:12]}")
            check_takes(self._policy(), study)
            name = self._keep(study, question, receive())
            # Nothing is answered that is not in the audit log.
            self._audit.record(Event.MODEL_TAKEN, **about, model=name)
        except MelfedError as error:
            told = {"reason": str(error), "error": type(error).__name__}
            self._audit.record_or_hold(Event.MODEL_REFUSED, **about, **told)
            raise

    def _keep(self, study: StudyProtocol, question: pb.Question, tensors: Mapping[str, Received]) -> str:
        sent = question.delivery
        try:
            authority = self._config.ca_certificate.read_bytes()
        except OSError as error:
            raise PolicyError(f"{self._config.ca_certificate}: cannot be read: {error.strerror}; see the kit") from None
        signed = Signed(sent.signature, sent.certificate)
        host = self._config.coordinator.host
        signer = check_signature(to_bytes(tensors), sent.facts, signed, authority, host)
        facts = facts_for(sent.facts, study, question.run)
        model = network(study, self._config, tensors)
        state = {name: value.detach().cpu().numpy() for name, value in model.state_dict().items()}
        arrays = {name: np.ascontiguousarray(array) for name, array in state.items()}
        return self._store.save(arrays, facts, study, signer).name


def check_takes(policy: ClinicPolicy, study: StudyProtocol) -> None:
    """Check that a clinic takes the model of a study.

    Raises:
        DeclinedError: says which key of its policy forbids it.
    """
    if policy.models == "none":
        raise DeclinedError("this clinic takes no models (policy.models is none)")
    approved = policy.studies == "any" or study.digest in policy.studies
    if policy.models == "approved" and not approved:
        raise DeclinedError(
            f"the model is of a study that is not approved here (digest {study.digest}), and this clinic takes no "
            "others (policy.models is approved)"
        )


def facts_for(text: str, study: StudyProtocol, run: str) -> ModelFacts:
    """Return what is told of a model, held against the study and the run that it came with. Raises StudyError."""
    if len(text) > MOST_FACTS:
        raise StudyError(f"what is told of the model has {len(text)} characters; at most {MOST_FACTS} are read")
    try:
        facts = read_facts(text, "the model")
    except RunError as error:
        raise StudyError(str(error)) from None
    expected = ModelFacts.of(study)
    for key in ("study", "name", "backbone", "image_size", "positive", "metadata"):
        if (told := getattr(facts, key)) != (own := getattr(expected, key)):
            raise StudyError(f"the model says that its {key} is {str(told)[:80]}, and its study {str(own)[:80]}")
    if facts.run != run:
        raise StudyError(f"the model says that it is of run {facts.run[:20]}, but was sent as of {run[:20]}")
    return facts


def network(study: StudyProtocol, config: ClinicConfig, tensors: Mapping[str, Received]) -> "Classifier":
    """Return the study's network with these values of what learnt. Raises TensorError, WeightsError."""
    from melfed.common.model.classifier import load_trainable
    from melfed.common.study.build import build_study_classifier

    model = build_study_classifier(study, config.weights_folder)
    load_trainable(model, tensors)
    return model
