"""Who the patient is that only one of two clinics has, and how the others stand to that one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from melfed.client.data.split import Part
from tests.neighbours.clinics import Patient, Picture, crowd, in_part, patient, renamed
from tests.neighbours.studies import bystanders

SIZE = 10
"""Patients of an ordinary crowd."""


@dataclass(frozen=True)
class Situation:
    """Two clinics to be.

    Attributes:
        crowd: whom both have.
        one: whom one of them has besides.
        study: sections of the study that asks for just that.
    """

    crowd: tuple[Patient, ...]
    one: Patient
    study: Mapping[str, Mapping[str, object]] = field(default_factory=dict)


def plain(part: Part) -> Situation:
    """One picture, one melanoma."""
    return Situation(crowd(SIZE), in_part(part, lambda name: patient(name, [7], 1)))


def several_images(part: Part) -> Situation:
    """Five pictures, of both classes."""
    return Situation(crowd(SIZE), in_part(part, lambda name: patient(name, [7, 8, 9, 11, 12], 1, 0, 1, 0)))


def alone_in_class(part: Part) -> Situation:
    """The only melanoma."""
    others = tuple(renamed(who, target="0", diagnosis="nv") for who in crowd(SIZE))
    return Situation(others, in_part(part, lambda name: patient(name, [7, 8], 1)))


def shares_a_picture(part: Part) -> Situation:
    """The same file as another patient, and the table says so."""
    others = crowd(SIZE)
    look = others[1].pictures[0].look
    others = (others[0], renamed(others[1], dup_group="twins"), *others[2:])
    return Situation(others, in_part(part, lambda name: patient(name, [look, 8], 1, dup_group="twins")))


def shares_a_lesion(part: Part) -> Situation:
    """The lesion id of two others, who are tied by it to one another too."""
    others = tuple(renamed(who, lesion_id="L1") if number in (1, 2) else who for number, who in enumerate(crowd(SIZE)))
    return Situation(others, in_part(part, lambda name: patient(name, [7], 1, lesion_id="L1")))


def nearly_the_same(part: Part) -> Situation:
    """A picture that is another patient's but for a shade."""
    others = crowd(SIZE)
    look = others[2].pictures[0].look

    def shaded(name: str) -> Patient:
        who = patient(name, [look], 0)
        return replace(who, pictures=tuple(replace(picture, shade=1) for picture in who.pictures))

    return Situation(others, in_part(part, shaded))


def only_in_training(part: Part) -> Situation:
    """Nobody else is in the training part."""
    return Situation(bystanders(3), in_part(part, lambda name: patient(name, [7, 8], 1, 0)))


def only_patient(part: Part) -> Situation:
    """Without that one the table has a header and nothing else."""
    return Situation((), in_part(part, lambda name: patient(name, [7, 8], 1, 0)))


def alone_in_source(part: Part) -> Situation:
    """The only one of a source, which is the one that the study asks for."""
    one = in_part(part, lambda name: patient(name, [7, 8], 1, 0, source="elsewhere"))
    return Situation(crowd(SIZE), one, {"data": {"sources": ("elsewhere", "!nowhere*")}})


def only_of_a_diagnosis(part: Part) -> Situation:
    """The only one with the diagnosis that the study takes for positive."""
    one = in_part(part, lambda name: patient(name, [7], 0, diagnosis="vasc"))
    return Situation(crowd(SIZE), one, {"data": {"positive": ("vasc",)}})


def unknown_diagnosis(part: Part) -> Situation:
    """A diagnosis that does not tell whether it is what the study takes for positive."""
    one = in_part(part, lambda name: patient(name, [7, 8], 0, diagnosis="unk"))
    return Situation(crowd(SIZE), one, {"data": {"positive": ("bcc", "nv")}})


def nameless(part: Part) -> Situation:
    """No patient id: whose picture it is nobody knows."""
    return Situation(crowd(SIZE), in_part(part, lambda name: renamed(patient(name, [7, 8], 1), patient_id="")))


def unusable_files(part: Part) -> Situation:
    """A file that is none of a picture, an empty one, one that is missing, and a picture."""

    def broken(name: str) -> Patient:
        first, second, third, fourth = patient(name, [7, 8, 9, 11], 1).pictures
        spoilt = (replace(first, content=b"no picture"), replace(second, content=b""), replace(third, absent=True))
        return Patient(name, (*spoilt, fourth))

    return Situation(crowd(SIZE), in_part(part, broken))


def unusable_rows(part: Part) -> Situation:
    """Cells that nobody can read, too many of them, an age that is none, quotes that do not end."""

    def faulty(name: str) -> Patient:
        pictures = patient(name, [7, 8, 9, 11, 12], 1).pictures
        cells: tuple[Mapping[str, str], ...] = ({"target": "yes"}, {"target": ""}, {"age": "-3"}, {}, {"site": '"back'})
        spoilt = [replace(p, cells={**p.cells, **wrong}) for p, wrong in zip(pictures, cells, strict=True)]
        return Patient(name, (*spoilt[:3], replace(spoilt[3], more=",and,more"), spoilt[4]))

    return Situation(crowd(SIZE), in_part(part, faulty))


def names_anothers_picture(part: Part) -> Situation:
    """A row with the name of another patient's file."""
    others = crowd(SIZE)
    taken = others[3].pictures[0]

    def twice(name: str) -> Patient:
        own = patient(name, [7], 1)
        second = Picture(taken.name, taken.look, cells=own.pictures[0].cells)
        return replace(own, pictures=(*own.pictures, second))

    return Situation(others, in_part(part, twice))


def leads_out(part: Part) -> Situation:
    """Rows whose files are not below the data folder."""

    def away(name: str) -> Patient:
        own = patient(name, [7, 8, 9], 1)
        first, second, third = own.pictures
        moved = (replace(first, name="../away.png", absent=True), replace(second, name="/away.png", absent=True))
        return replace(own, pictures=(*moved, third))

    return Situation(crowd(SIZE), in_part(part, away))


SITUATIONS: dict[str, Callable[[Part], Situation]] = {
    make.__name__: make
    for make in (
        plain,
        several_images,
        alone_in_class,
        shares_a_picture,
        shares_a_lesion,
        nearly_the_same,
        only_in_training,
        nameless,
        unusable_files,
        alone_in_source,
        only_patient,
        only_of_a_diagnosis,
        unknown_diagnosis,
        unusable_rows,
        names_anothers_picture,
        leads_out,
    )
}
"""By name."""
