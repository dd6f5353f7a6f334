import pytest

from melfed.common.data.records import read_table
from melfed.common.data.tables.columns import NAMES, column_key
from melfed.common.errors import DataError
from tests.common.lesions import one_line, read_rows, touch, write


@pytest.mark.parametrize(
    "name",
    [
        *("patient_id", "PatientID", "patient", "Patient ID", "pat_id", "PAT-ID", "subject_id", "Patienten-ID", "MRN"),
        *("Patientennummer", "Patient Number", "id_paciente", "ID paziente", "PatientenID", "medical_record_number"),
    ],
)
def test_near_names_of_patients(tmp_path, name):
    records = read_rows([write(tmp_path / "t.csv", f"image,target,{name},source", "a,0,P7,A", "b,1,p7 ,A")])[1]
    assert {record.patient_id for record in records} == {"a:p7"}


@pytest.mark.parametrize(
    ("meaning", "names"),
    [
        ("patient_id", "Patienten-Code; Patientenschlüssel; Numéro de patient; Identifiant du patient; IPP; NHC"),
        ("patient_id", "Código de paciente; Número paciente; Codice paziente; Número do paciente; Prontuário"),
        ("patient_id", "Patiëntnummer; Patiënt-ID; ＰａｔｉｅｎｔＩＤ; patient\u00adid; Patient\u00a0ID"),
        ("lesion_id", "Läsions-Nummer; Numéro de lésion; Número lesión; Lesione; Lesão; Laesie-ID"),
        (
            "diagnosis",
            "Histologische Diagnose; Diagnostic histologique; Diagnóstico; Diagnosi istologica; Einddiagnose",
        ),
        ("age", "Alter in Jahren; Âge; Edad; Età; Idade; Leeftijd"),
        ("sex", "Geschlecht; Sexe; Genre; Sexo; Género; Sesso; Genere; Geslacht"),
        ("site", "Körperstelle; Koerperregion; Site anatomique; Localización anatómica; Sede; Lichaamsdeel"),
        ("source", "Krankenhaus; Hôpital; Clínica; Ospedale; Instituição; Ziekenhuis"),
        ("image", "Bild-ID; Nom du fichier; Archivo; Nome file; Arquivo; Bestandsnaam"),
    ],
)
def test_columns_in_seven_languages(meaning, names):
    for name in names.split(";"):
        key = column_key(name)
        assert key in NAMES[meaning], name


def test_a_name_is_of_one_meaning():
    keys = [key for keys in NAMES.values() for key in keys]
    assert len(keys) == len(set(keys))


@pytest.mark.parametrize("name", ["Patientenkürzel", "patient_hash", "my_patient_no_2", "patient_idd", "Subject code"])
def test_names_that_may_be_meant_are_asked_about(tmp_path, name):
    write(tmp_path / "t.csv", f"image,target,{name},patient_age", "a.jpg,0,P7,50", "b.jpg,1,P7,50")
    touch(tmp_path, "a.jpg", "b.jpg")
    table = read_table(tmp_path)
    assert [record.patient_id for record in table.records] == [None, None]
    (report,) = table.tables
    assert f"t.csv: the column {name} is not read; if it is the patient_id, call it so" in report.questions
    assert not any("patient_age" in question for question in report.questions)


def test_two_columns_that_may_both_be_meant_are_refused(tmp_path):
    path = write(tmp_path / "t.csv", "image,target,MRN,subject_id", "a,0,P7,1", "b,1,P7,2")
    with pytest.raises(
        DataError, match=r"t.csv: subject_id and MRN may both be patient_id; call the right one"
    ) as error:
        read_rows([path])
    one_line(error)


def test_the_published_name_goes_before_near_ones(tmp_path):
    path = write(tmp_path / "t.csv", "image,target,MRN,patient_id,source", "a,0,1,P7,A", "b,1,2,P7,A")
    assert {record.patient_id for record in read_rows([path])[1]} == {"a:p7"}


def test_what_each_column_was_taken_for_is_told(tmp_path):
    write(tmp_path / "t.csv", "Bild,Diagnose,Alter,Farbe", "a.jpg,Melanom,50,rot", "b.jpg,Nävus,1960,blau")
    touch(tmp_path, "a.jpg", "b.jpg")
    (report,) = read_table(tmp_path).tables
    assert report.used == {"Bild": "image", "Diagnose": "diagnosis", "Alter": "age"}
    assert report.unread == {"age": {"1960": 1}}


def test_keys_are_letters_and_digits():
    assert all(key == column_key(key) for keys in NAMES.values() for key in keys)
    assert column_key("Körper_stelle ") == "korperstelle"
