"""Which of a simulation's images show nobody: rendered ones, of which anything may go with a model."""

from collections.abc import Sequence

from melfed.client.data.clinic_data import ClinicData
from melfed.client.data.split import Part
from melfed.common.data.images.decoder import Pixels
from melfed.common.data.images.store import ImageStore
from melfed.common.data.origin import is_synthetic
from melfed.common.study.protocol import StudyProtocol
from melfed.server.results.seen import MOST_SHOWN, ShownImages
from melfed.simulations.partition.virtual_clinics import VirtualClinics

_HELD_OUT = MOST_SHOWN // 3


def shown_images(study: StudyProtocol, virtual: VirtualClinics) -> ShownImages | None:
    """Return training and validation images whose features may be told of; None where there are none, or no use.

    No image of a real person is among them: whether a folder holds rendered ones is said by the folder itself
    (`melfed.common.data.origin`), and that others are public is said by nothing in a study or a run.

    Args:
        study: what is run. Without one model of all clinics there is nothing to take statistics of; a model that needs
            age, sex and site scores no picture; one of one round has the statistics of its own moments.
        virtual: its clinics.
    """
    if not is_synthetic(virtual.root) or study.federation.mode in {"local", "one_round"} or study.model.metadata:
        return None
    held_out = _pixels(virtual.clinics, "validation", _HELD_OUT)
    return ShownImages(_pixels(virtual.clinics, "train", MOST_SHOWN - len(held_out)), held_out)


def _pixels(clinics: Sequence[ClinicData], part: Part, most: int) -> list[Pixels]:
    """Return at most so many images of a part, by an even step over their names."""
    names = sorted(record.image for clinic in clinics for record in getattr(clinic, part))
    chosen = names[:: max(1, -(-len(names) // most))]
    if not chosen:
        return []
    place = clinics[0]
    store = ImageStore.open(place.cache, place.root, chosen, place.image_size, place.links)
    return list(store.batch(chosen))
