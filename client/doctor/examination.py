"""The clinic's doctor: everything that can keep a clinic from taking part, examined within a minute or so.

No check changes anything, at the clinic or at the coordinator. What they say holds counts, and never the name of an
image or of a patient.
"""

from collections.abc import Callable
from itertools import chain

from melfed.client.config.clinic import ClinicConfig
from melfed.client.doctor.data import DataDoctor
from melfed.client.doctor.kit import own_certificate, same_data, state_steps
from melfed.client.doctor.machine import disk, machine_steps
from melfed.client.doctor.network import SECONDS, NetworkDoctor
from melfed.common.doctor.steps import Check, Step, examine_steps


def examine(
    config: ClinicConfig, on_check: Callable[[Check], None] | None = None, seconds: float = SECONDS
) -> list[Check]:
    """Return what the doctor finds; nothing raises, and each check is bounded in time.

    Args:
        config: the clinic's.
        on_check: called with each check as soon as it is known.
        seconds: longest wait for one answer of the network.
    """
    data, network = DataDoctor(config), NetworkDoctor(config, seconds)
    machine = machine_steps(config, lambda: data.images)
    steps = chain(state_steps(config), data.steps(), machine, network.steps())
    return examine_steps(steps, on_check)


def examine_briefly(config: ClinicConfig, seconds: float = SECONDS) -> list[Check]:
    """Return what the doctor finds of what changes while a clinic runs: what `status` must not call ready otherwise.

    Data that are gone or others than the ledger's, a full disk, a certificate that has ended, a coordinator that cannot
    be reached or does not let this clinic in. Seconds, where the table is of a usual size; changes nothing.

    Args:
        config: the clinic's.
        seconds: longest wait for one answer of the network.
    """
    data, network = DataDoctor(config), NetworkDoctor(config, seconds)
    return examine_steps(
        (
            Step("certificate", lambda: own_certificate(config)),
            Step("data folder", data.folder, 20),
            Step("table", data.table, 60, needs=("data folder",)),
            Step("data", lambda: same_data(config), 60, needs=("table",)),
            Step("disk", lambda: disk(config, 0)),
            Step("outbound port", network.outbound, 4 * seconds),
            Step("TLS", network.tls, 4 * seconds, needs=("outbound port",)),
            Step("door", network.door, 4 * seconds, needs=("TLS",)),
        )
    )
