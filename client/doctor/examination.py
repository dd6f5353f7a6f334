"""The clinic's doctor: everything that can keep a clinic from taking part, examined within a minute or so.

No check changes anything, at the clinic or at the coordinator. What they say holds counts, and never the name of an
image or of a patient.
"""

from collections.abc import Callable
from itertools import chain

from melfed.client.config.clinic import ClinicConfig
from melfed.client.doctor.data import DataDoctor
from melfed.client.doctor.kit import state_steps
from melfed.client.doctor.machine import machine_steps
from melfed.client.doctor.network import SECONDS, NetworkDoctor
from melfed.common.doctor.steps import Check, examine_steps


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
