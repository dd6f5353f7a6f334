"""Names of columns: as published, as clinics write them, and those near enough to ask about."""

import difflib
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Final

NAMES: Final[dict[str, tuple[str, ...]]] = {
    "image": (
        *("image", "imageid", "imagename", "imagefile", "imagepath", "imagefilename", "img", "imgid", "imgname"),
        *("file", "filename", "filepath", "path", "photo", "picture", "bild", "bildname", "bilddatei", "datei"),
        *("dateiname", "imagen", "immagine", "fichier", "afbeelding", "sopinstanceuid", "accessionnumber"),
        *("bilddateiname", "bildid", "bildpfad", "foto", "fotodatei", "nomfichier", "nomdufichier", "nomimage"),
        *("archivo", "nombrearchivo", "nombredearchivo", "idimagen", "imagenid", "nomefile", "idimmagine"),
        *("arquivo", "nomearquivo", "nomedoarquivo", "ficheiro", "imagem", "idimagem", "bestand", "bestandsnaam"),
    ),
    "patient_id": (
        *("patientid", "patient", "patid", "patno", "patnr", "patientno", "patientnr", "patientnumber", "patientnum"),
        *("patientidentifier", "patientcode", "patientkey", "patientpseudonym", "pid", "ptid", "subjectid", "subject"),
        *("subjectnumber", "participantid", "participant", "personid", "idpatient", "mrn", "medicalrecordnumber"),
        *("hospitalnumber", "nhsnumber", "patienten", "patientenid", "patientennr", "patientennummer"),
        *("patientennummern", "patientenkennung", "patnummer", "pseudonym", "fallpatient", "idpaciente", "paciente"),
        *("pacienteid", "idpaziente", "paziente", "pazienteid", "numeropatient", "nopatient", "patientnummer"),
        *("patientencode", "patientenkode", "patientenschlussel", "patientenpseudonym", "pseudonymid"),
        *("numerodepatient", "numpatient", "codepatient", "identifiantpatient", "identifiantdupatient", "ipp"),
        *("codigopaciente", "codigodepaciente", "numeropaciente", "numerodepaciente", "nhc", "iddopaciente"),
        *("numerohistoriaclinica", "numerodehistoriaclinica", "codicepaziente", "numeropaziente", "prontuario"),
        *("codigodopaciente", "numerodopaciente", "numerodoprontuario"),
    ),
    "lesion_id": (
        *("lesionid", "lesion", "lesionno", "lesionnr", "lesionnumber", "lesionidentifier", "idlesion", "moleid"),
        *(
            "nevusid",
            "naevusid",
            "laesion",
            "laesionid",
            "laesionsid",
            "laesionnr",
            "lasion",
            "lasionid",
            "lesionnummer",
        ),
        *("idlesione", "lesioneid", "lesionpatientid", "laesionsnummer", "lasionsnummer", "lasionsid", "lasionnr"),
        *("numerolesion", "numerodelesion", "codelesion", "codigolesion", "lesione", "numerolesione", "lesao"),
        *("idlesao", "lesaoid", "numerolesao", "numerodalesao", "laesie", "laesieid", "laesienummer"),
    ),
    "diagnosis": (
        *("diagnosis", "dx", "diagnose", "diagnostic", "diagnostico", "diagnosi", "diagnosename", "diagnosistext"),
        *("finaldiagnosis", "histology", "histologicaldiagnosis", "histopathology", "histodiagnosis", "histologie"),
        *("pathology", "pathologicaldiagnosis", "finding", "befund", "icd10", "icd", "icdcode", "icd10code"),
        *("icdo3", "icdo", "morphology", "snomed", "disease", "condition"),
        *("enddiagnose", "hauptdiagnose", "histologischediagnose", "histologischerbefund", "diagnosticfinal"),
        *("diagnostichistologique", "diagnosticofinal", "diagnosticohistologico", "histologia", "diagnosifinale"),
        *("diagnosiistologica", "istologia", "histopatologia", "anatomiapatologica", "einddiagnose"),
    ),
    "dup_group": ("dupgroup", "duplicategroup"),
    "age": (
        *("age", "ageapprox", "ageapproximate", "patientage", "patientsage", "ageyears", "ageatdiagnosis", "alter"),
        *("patientenalter", "alterjahre", "edad", "eta", "idade", "leeftijd", "ageans", "alder", "alterinjahren"),
        *("agepatient", "agedupatient", "edadpaciente", "edaddelpaciente", "etapaziente", "idadepaciente"),
    ),
    "sex": (
        *("sex", "gender", "patientsex", "patientssex", "geschlecht", "sexe", "sexo", "sesso", "geslacht", "kon"),
        *("genre", "genero", "genere"),
    ),
    "site": (
        *("site", "anatomsitegeneral", "localization", "localisation", "location", "bodysite", "bodypart", "region"),
        *("anatomicsite", "anatomicalsite", "anatomsite", "bodypartexamined", "lokalisation", "korperstelle"),
        *("localizacion", "localizzazione", "localizacao", "lokalisatie", "koerperstelle", "korperregion"),
        *("koerperregion", "siteanatomique", "sitecorporel", "localizacionanatomica", "sede", "sedeanatomica"),
        *("localizacaoanatomica", "regiaoanatomica", "lichaamsdeel", "locatie"),
    ),
    "source": (
        *("source", "clinic", "center", "centre", "hospital", "institution", "dataset", "klinik", "zentrum"),
        *("krankenhaus", "standort", "einrichtung", "hopital", "etablissement", "centro", "clinica", "ospedale"),
        *("instituicao", "ziekenhuis", "kliniek", "centrum"),
    ),
    "image_type": ("imagetype", "modality", "imagemodality", "bildtyp"),
    "skin_type": (
        *("skintype", "fitzpatrick", "fitzpatrickskintype", "fitzpatricktype", "fitzpatrickscale", "fitspatrick"),
        *("fototyp", "phototype", "hauttyp", "fototipo", "huidtype", "tipodepiel", "tipodepele", "tipodipelle"),
    ),
    "monk": ("monk", "monkskintone", "monkscale", "mst"),
    "skin_tone_class": ("skintoneclass",),
    "ita": ("ita", "individualtypologyangle"),
    "manipulated": ("imagemanipulation",),
}
"""Keys of columns by what they hold, the best first."""

_HINTS: Final = {
    "patient_id": ("patient", "subject", "patid", "paciente", "paziente", "mrn", "proband", "pseudonym", "participant"),
    "lesion_id": ("lesion", "laesion"),
    "diagnosis": ("diagnos", "histolog", "patholog"),
}
_ABOUT: Final = ("age", "sex", "gender", "name", "birth", "alter", "geschlecht", "history", "type", "date", "confirm")
"""Words of columns that tell something of a patient or lesion, rather than who or which it is."""

_NEAR: Final = 0.84
_LONGEST: Final = 128
"""Characters by which names are told apart: no column is called longer than that."""


def column_key(name: str) -> str:
    """Return a column's name as it is compared: letters and digits alone, in lower case, without accents.

    >>> column_key("Patienten-ID"), column_key("PatientID"), column_key("patient_id")
    ('patientenid', 'patientid', 'patientid')
    """
    split = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", name[:_LONGEST]).casefold())
    return "".join(character for character in split if character.isalnum())


def near_names(columns: Sequence[str], read: Iterable[str], meanings: Iterable[str]) -> list[tuple[str, str]]:
    """Return columns that nobody reads and what they may be meant for.

    Args:
        columns: the names in a table.
        read: those that are read.
        meanings: what no column was found for (keys of `NAMES`).

    Returns:
        Pairs of a column's name and a meaning, such as `("Patientenkürzel", "patient_id")`.
    """
    taken = set(read)
    free = [name for name in columns if name and name not in taken]
    return [(name, meaning) for meaning in meanings for name in free if _looks_like(column_key(name), meaning)]


def _looks_like(key: str, meaning: str) -> bool:
    if any(hint in key for hint in _HINTS.get(meaning, ())) and not any(word in key for word in _ABOUT):
        return True
    return bool(difflib.get_close_matches(key, NAMES[meaning][:1], n=1, cutoff=_NEAR))
