"""A Flower grid in this process: messages go straight to ClientApps. For tests of whole rounds without Ray."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from uuid import uuid4

from flwr.app import Context, Message, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.task_identity import TaskIdentity

from melfed.client.data.clinic_data import ClinicData
from melfed.client.flower import client_app
from melfed.client.worker.worker import ClinicWorker
from melfed.common.study.build import build_study_classifier, shared_tensors
from melfed.common.study.protocol import StudyProtocol
from melfed.common.tensors import Tensors
from melfed.server.federation.conductor import conductor
from melfed.server.federation.context import Conduct
from melfed.server.federation.observer import Observer
from melfed.server.flower.channel import FlowerChannel
from melfed.server.runs.folder import RunFolder
from melfed.server.runs.outcome import Outcome
from melfed.simulations.engine.partition_worker import Simulation


class SilentObserver:
    """An observer that draws nothing."""

    def __getattr__(self, name: str):
        return lambda *arguments: None


class InProcessGrid:
    """Answers each message at once, in the order of the pushes."""

    def __init__(self, simulation: Simulation, weights_dir: Path | None = None) -> None:
        # Flower's own grids set these before a ServerApp runs.
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
        self.workers = {
            node: ClinicWorker(
                clinic,
                simulation.study,
                weights_dir,
                protection=simulation.protection(clinic.name),
                states=simulation.states(clinic.name),
            )
            for node, clinic in enumerate(simulation.clinics, start=100)
        }
        self.app = client_app.make_app(lambda context, _message: self.workers[context.node_id])
        self.replies: dict[str, Message] = {}
        self.traffic: list[Message] = []

    def get_nodes(self) -> list[NodeInfo]:
        return [NodeInfo(node_id=node) for node in self.workers]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        identifiers = []
        for message in messages:
            identifier = str(uuid4())
            message.metadata.__dict__["_message_id"] = identifier
            node = message.metadata.dst_node_id
            context = Context(run_id=1, node_id=node, node_config={}, state=RecordDict(), run_config={})
            self.traffic.append(message)
            self.replies[identifier] = self.app(message=message, context=context)
            identifiers.append(identifier)
        return identifiers

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        return [self.replies.pop(identifier) for identifier in message_ids if identifier in self.replies]


def federate_here(
    study: StudyProtocol, clinics: Sequence[ClinicData], folder: RunFolder, weights_dir: Path | None = None
) -> Outcome:
    """Run a study's rounds in this process."""
    initial = shared_tensors(study, build_study_classifier(study, weights_dir))
    return conduct(
        InProcessGrid(Simulation(study, tuple(clinics), folder.ledgers), weights_dir), study, folder, initial
    )


def federate(
    simulation: Simulation,
    folder: RunFolder,
    initial: Tensors,
    observer: Observer,
    _engine: str,
    _ray_address: str | None = None,
) -> Outcome:
    """Stand in for `melfed.simulations.engine.engine.federate`."""
    return conduct(InProcessGrid(simulation), simulation.study, folder, initial, observer)


def conduct(
    grid: InProcessGrid, study: StudyProtocol, folder: RunFolder, initial: Tensors, observer: Observer | None = None
) -> Outcome:
    """Run a study's rounds over a grid."""
    rounds = conductor(study)(study, folder, initial, Conduct(len(grid.workers)), observer or SilentObserver())
    rounds.conduct(FlowerChannel(grid))
    assert rounds.outcome is not None
    return rounds.outcome
