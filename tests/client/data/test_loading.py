"""A deployed clinic's images for a study: its own sources, the study's, what can be read, and parts of enough."""

import logging
from pathlib import Path

import pytest

from melfed.client.config.clinic import ClinicConfig
from melfed.client.data.clinic_data import PARTS
from melfed.client.data.loading import clinic_data
from melfed.client.data.split import simulation_key
from melfed.common.errors import DataError
from melfed.common.seeds import seed_for
from melfed.common.study.protocol import PrivacySpec, StudyProtocol
from melfed.simulations.partition.virtual_clinics import VirtualClinics, divide
from tests.client.clinics import a_clinic
from tests.client.data.own import a_study, table

CLINICS = ("phantom_east", "phantom_north", "phantom_south")


def refusal(study: StudyProtocol, folder: Path, own: Path, **data: object) -> str:
    config = a_clinic(folder / "kit", data={"folder": str(own), **data})
    with pytest.raises(DataError) as caught:
        clinic_data(config, study)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def with_key(config: ClinicConfig, key: bytes) -> None:
    """Give a clinic a secret, as a simulation has one."""
    path = config.ledger.with_suffix(".key")
    path.parent.mkdir(parents=True)
    path.write_bytes(key)


@pytest.mark.parametrize("name", CLINICS)
@pytest.mark.parametrize("named", ["all", list(CLINICS)])
def test_a_clinic_gets_the_parts_of_its_virtual_clinic(phantom: Path, tmp_path: Path, name: str, named: object) -> None:
    sources = "all" if named == "all" else tuple(named)  # type: ignore[arg-type]
    study = a_study(seed=7, sources=sources)
    virtual = {clinic.name: clinic for clinic in divide(study, phantom, tmp_path / "cache").clinics}[name]
    config = a_clinic(tmp_path / name, name=name, data={"folder": str(phantom), "sources": [name]})
    with_key(config, simulation_key(seed_for(7, "partition")))
    deployed = clinic_data(config, study)
    assert deployed.name == name
    for part in PARTS:
        assert getattr(deployed, part) == getattr(virtual, part)
        ours, theirs = deployed.load(part), virtual.load(part)
        assert (ours.pixels(range(len(ours))) == theirs.pixels(range(len(theirs)))).all()


def test_another_name_divides_anew(phantom: Path, tmp_path: Path, phantom_clinics: VirtualClinics) -> None:
    virtual = phantom_clinics.clinics[0]
    data = {"folder": str(phantom), "sources": [virtual.name]}
    deployed = clinic_data(a_clinic(tmp_path, name="elsewhere", data=data), a_study())
    assert {r.image for part in PARTS for r in getattr(deployed, part)} == {
        r.image for part in PARTS for r in getattr(virtual, part)
    }
    assert deployed.train != virtual.train


def test_what_cannot_be_read_is_left_out_and_its_name_stays_out_of_the_log(
    tmp_path: Path, own: Path, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[tuple[int, int]] = []
    config = a_clinic(tmp_path / "kit", data={"folder": str(own)})
    with caplog.at_level(logging.DEBUG):
        data = clinic_data(config, a_study(), lambda done, total: calls.append((done, total)))
    names = [r.image for part in PARTS for r in getattr(data, part)]
    assert len(names) == 24
    assert "secret-name.png" not in names
    assert calls[-1] == (25, 25)
    assert "1 of 25 images cannot be used" in caplog.text
    assert "secret" not in caplog.text
    assert data.cache.is_relative_to(config.worker_state)


def test_the_clinics_sources_come_before_the_studys(tmp_path: Path, own: Path) -> None:
    config = a_clinic(tmp_path / "kit", data={"folder": str(own), "sources": ["new"]})
    for sources in (("new", "elsewhere"), ("!old",), ("!elsewhere",), ("n*", "!elsewhere")):
        data = clinic_data(config, a_study(sources=sources))
        assert {r.source for part in PARTS for r in getattr(data, part)} == {"new"}


def test_a_study_of_other_sources_is_refused(tmp_path: Path, own: Path) -> None:
    said = refusal(a_study(sources=("old",)), tmp_path, own, sources=["new"])
    assert said.startswith("the study takes sources old, and this clinic's are new")
    assert "the study takes sources !*, and" in refusal(a_study(sources=("!*",)), tmp_path, own)


def test_too_few_images_are_refused_with_the_mend(tmp_path: Path, own: Path) -> None:
    said = refusal(a_study(minimum=24), tmp_path, own)
    assert "training images, and partition.minimum_images is 24" in said
    assert said.endswith("ask the coordinator for another partition.minimum_images or data.positive")


def test_no_usable_image_is_refused(tmp_path: Path, own: Path) -> None:
    (own / "table.csv").write_text(table("secret-name.png,1,p,new"))
    assert "would have 0 training images" in refusal(a_study(), tmp_path, own)
    assert "no such folder" in refusal(a_study(), tmp_path, tmp_path / "none")


PRIVATE = PrivacySpec(unit="patient", epsilon=3.0)


@pytest.mark.parametrize(
    ("rows", "sources", "minimum"),
    [
        (["secret-name.png,1,p,new"], "all", 4),
        (["0.png,1,p,new"], "all", 1000),
        ([f"{number}.png,0,p{number},new" for number in range(24)], "all", 4),
        (["0.png,1,,new", "1.png,0,p1,new"], "all", 4),
        (["0.png,1,p,new"], ("old",), 4),
        (["0.png,1,p,new"], ("!*",), 4),
    ],
    ids=["no usable image", "too few", "one class", "no patient id", "another source", "no source"],
)
def test_a_private_study_is_refused_for_no_data(
    tmp_path: Path, own: Path, rows: list[str], sources: object, minimum: int
) -> None:
    (own / "table.csv").write_text(table(*rows))
    study = a_study(minimum=minimum, sources=sources).model_copy(update={"privacy": PRIVATE})
    data = clinic_data(a_clinic(tmp_path / "kit", data={"folder": str(own)}), study)
    taken = [record for part in PARTS for record in getattr(data, part)]
    assert all(record.patient_id for record in taken)


def test_a_patient_more_moves_no_other(tmp_path: Path, own: Path) -> None:
    study = a_study().model_copy(update={"privacy": PRIVATE})
    rows = (own / "table.csv").read_text().splitlines()
    config = a_clinic(tmp_path / "kit", data={"folder": str(own)})
    with_it = clinic_data(config, study)
    (own / "table.csv").write_text("\n".join(row for row in rows if not row.startswith("7.png")) + "\n")
    without = clinic_data(config, study)
    for part in PARTS:
        assert [r for r in getattr(with_it, part) if r.image != "7.png"] == list(getattr(without, part))


def test_who_has_two_ids_is_one_patient_where_the_clinic_says_so(tmp_path: Path, own: Path) -> None:
    same = {"patients": [["p1", "p7"]]}
    data = clinic_data(a_clinic(tmp_path / "kit", data={"folder": str(own), "same": same}), a_study())
    found = {record.image: record.patient_id for part in PARTS for record in getattr(data, part)}
    assert found["1.png"] == found["7.png"] != found["2.png"]
