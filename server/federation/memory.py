"""What memory a run takes on the coordinator's machine, told before it begins.

Measured with `python -m melfed.simulations.benchmarks.update`; `docs/operations.md` has the table. The ServerApp holds
the global model as it is sent, the sum of the updates in whole numbers (twice the bytes of a model) and one update; at
its two ends a second process, with torch, holds the network and the model.
"""

from typing import Final

from melfed.common.errors import RunError
from melfed.common.optimizers import OPTIMIZERS
from melfed.common.process.memory import available_memory
from melfed.common.study.protocol import StudyProtocol

BASE_BYTES: Final = 250 * 2**20
"""The ServerApp without a model, and pieces of messages on their way."""
TORCH_BYTES: Final = 850 * 2**20
"""The process that builds the network and writes it at the end, without them."""
_ROUND: Final = 4.5
"""Models in a round: as it is sent, the sum, an update, and a part of one for what is checked and added."""
_GB: Final = 1e9


def require_memory(study: StudyProtocol, clinics: int) -> None:
    """Refuse a run that does not fit in the memory that this machine has left.

    Args:
        study: the run's.
        clinics: how many take part.

    Raises:
        RunError: it does not; says what it needs, what there is, and what to do.
    """
    needed, there = needed_memory(study, clinics), available_memory()
    if needed > there:
        less = " or federation.robust none" if study.federation.robust != "none" else ""
        raise RunError(
            f"study {study.name} needs {needed / _GB:.1f} GB of this server's memory with {clinics} clinics, and "
            f"{there / _GB:.1f} GB are left; end other programs, take a larger server, or a study with less to learn "
            f"(model.train, model.backbone){less}"
        )


def needed_memory(study: StudyProtocol, clinics: int) -> int:
    """Return how many bytes the processes of a run take at most, beside the server's own that run always.

    Args:
        study: the run's.
        clinics: how many take part.
    """
    learnt, whole = network_bytes(study)
    spec = study.federation
    models = _ROUND + 2 * len(OPTIMIZERS[spec.algorithm].moments)
    if spec.tail_average > 0:
        models += 2
    if spec.compression != "none":
        models += 1
    if spec.robust != "none":
        models += clinics  # it looks at all updates of a round together
    return round(BASE_BYTES + max(models * learnt, TORCH_BYTES + whole + 2 * learnt))


def network_bytes(study: StudyProtocol) -> tuple[int, int]:
    """Return the bytes of what a study's network learns, and of all of it."""
    from melfed.common.model.classifier import outline  # torch

    network = outline(study.model)
    sizes = [(parameter.requires_grad, 4 * parameter.numel()) for parameter in network.parameters()]
    buffers = sum(buffer.numel() * buffer.element_size() for buffer in network.buffers())
    return sum(size for learns, size in sizes if learns), sum(size for _, size in sizes) + buffers
