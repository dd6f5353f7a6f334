"""A private study, and a clinic that has paid for rounds of it, for the tests of what approvals cost."""

from melfed.client.config.clinic import ClinicConfig
from melfed.client.config.folders import prepare_worker
from melfed.client.worker.guard import Guard, Protection
from melfed.common.study.protocol import StudyProtocol
from tests.client.guards import DATA, Work, request
from tests.client.small import small_study

PRIVATE = small_study(privacy={"unit": "patient", "noise_multiplier": 8.0, "recipe": "manual"})


def spend(config: ClinicConfig, *rounds: int, run: str = "run", study: StudyProtocol = PRIVATE) -> None:
    prepare_worker(config)
    guard = Guard(study, Protection(config.ledger), DATA)
    for number in rounds:
        guard.pay("training", request(round_number=number, run=run), Work())
