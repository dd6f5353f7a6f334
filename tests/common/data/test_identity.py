import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from melfed.common.data.identity import doubt, normal_id, scoped_id
from melfed.common.data.tables.cells import is_unknown

NUMBERS = st.integers(0, 10**15).map(str)
WORDS = st.from_regex(r"[A-Za-zÄÖÜäöüßéñ]{1,4}[-_/ ]?[0-9]{1,6}[A-Za-z]?", fullmatch=True)
NOBODY = ["", " ", "-1", "-1.0", "-99", "− 9", "anonymous", "Anonym", "XXX", "n/a", "NA", "N.A.", "nan", "<NA>"]
NOBODY += [
    "NULL",
    "unknown",
    "Unbekannt",
    "k.A.",
    "keine Angabe",
    "#NV",
    "#N/A",
    "?",
    "-",
    "--",
    ".",
    "…",
    "\u200b",
    "xx",
]

RESPELLINGS = {
    "spaces around": lambda t: f" \t{t}\u00a0",
    "upper case": str.upper,
    "lower case": str.lower,
    "decomposed": lambda t: unicodedata.normalize("NFD", t),
    "full width": lambda t: "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in t),
    "byte order mark": lambda t: "\ufeff" + t,
    "text in a spreadsheet": lambda t: "'" + t,
    "quoted": lambda t: f'"{t}"',
    "another hyphen": lambda t: t.replace("-", "–"),
    "soft hyphen": lambda t: t[:1] + "\u00ad" + t[1:],
    "two spaces": lambda t: t.replace(" ", "  "),
    "zero width space": lambda t: t[:1] + "\u200b" + t[1:] + "\u200d",
    "no-break space": lambda t: "\u00a0" + t.replace(" ", "\u202f"),
    "direction marks": lambda t: "\u200e" + t + "\u202c",
    "typographic quotes": lambda t: f"„{t}“",
    "line end": lambda t: t + "\r\n",
}
NUMBER_RESPELLINGS = {
    "float": lambda t: t + ".0",
    "float with a comma": lambda t: t + ",00",
    "float without digits": lambda t: t + ".",
    "leading zeros": lambda t: "00" + t,
    "arabic digits": lambda t: "".join(chr(0x660 + int(c)) for c in t),
    "full width digits": lambda t: "".join(chr(0xFF10 + int(c)) for c in t),
    "scientific notation": lambda t: f"{t[0]}.{t[1:] or '0'}E+{len(t) - 1:02d}",
    "scientific with a comma": lambda t: f"{t[0]},{t[1:] or '0'}e+{len(t) - 1}",
}


@pytest.mark.parametrize("name", RESPELLINGS)
@given(st.one_of(NUMBERS, WORDS))
def test_no_spelling_splits_a_person(name, text):
    assert normal_id(RESPELLINGS[name](text)) == normal_id(text) is not None


@pytest.mark.parametrize("name", NUMBER_RESPELLINGS)
@given(NUMBERS)
def test_no_spelling_of_a_number_splits_a_person(name, text):
    assert normal_id(NUMBER_RESPELLINGS[name](text)) == text
    assert normal_id(RESPELLINGS["spaces around"](NUMBER_RESPELLINGS[name](text))) == text


@given(st.lists(st.sampled_from([*RESPELLINGS.values()]), max_size=4), st.one_of(NUMBERS, WORDS))
def test_nor_do_several_at_once(respellings, text):
    spelled = text
    for respell in respellings:
        spelled = respell(spelled)
    assert normal_id(spelled) == normal_id(text)


@given(st.text(max_size=12))
def test_a_normal_id_is_its_own(text):
    normal = normal_id(text)
    assert normal is None or normal_id(normal) == normal


@given(NUMBERS, NUMBERS)
def test_two_numbers_are_two_people(one, other):
    assert (normal_id(one) == normal_id(other)) == (one == other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        *(("1,000", "1"), ("1.000", "1000"), ("1,234", "1234"), ("1 234", "1234"), ("3-Mar", "3-3"), ("1e5", "100000")),
        *(("1.25e+01", "12"), ("1e+400", "2e+400"), ("2024-03-03 00:00:00", "3-3"), ("0x10", "10"), ("II", "2")),
        *(("12", "1.2"), ("P12", "P-12"), ("P12", "12"), ("1 12", "11 2"), ("12a", "12"), ("P012", "P12")),
    ],
)
def test_what_may_be_two_people_stays_two(one, other):
    assert normal_id(one) != normal_id(other)


@pytest.mark.parametrize("text", NOBODY)
def test_marks_of_nobody(text):
    assert normal_id(text) is None


@pytest.mark.parametrize("text", ["0", "NV", "KA", "X", "None of us 1", "AB", "xyz", "Nan Goldin"])
def test_people_whose_ids_look_like_marks(text):
    assert normal_id(text) == text.lower()


@pytest.mark.parametrize(
    "text",
    [
        *("#VALUE!", "#REF!", "#WERT!", "\\N", "(null)", "NA_character_", "nicht bekannt", "ohne Angabe", "o. A."),
        *("non connu", "Non renseignée", "sans objet", "no consta", "sin datos", "no disponible", "non disponibile"),
        *("não informado", "NÃO DISPONÍVEL", "sem dados", "niet bekend", "n.v.t.", "geen", "anonimizado", "- 1,0"),
    ],
)
def test_marks_of_nobody_of_spreadsheets_and_other_languages(text):
    assert normal_id(text) is None or is_unknown(text)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        *(
            ("1.2E+05", "scientific"),
            ("1,23457e+11", "scientific"),
            ("1,234", "thousands"),
            ("12 345 678", "thousands"),
        ),
        *(("3-Mar", "dates"), ("Mrz 24", "dates"), ("3-févr", "dates"), ("2024-03-03 00:00:00", "dates")),
        *(("03.03.2024", "dates"), ("3/3/24", "dates")),
    ],
)
def test_what_a_spreadsheet_made_is_doubted(text, word):
    assert word in (doubt(text) or "")


@given(st.one_of(NUMBERS, st.from_regex(r"[PQ][A-Za-z]{0,2}[-_/]?[0-9]{1,6}[A-Za-z]?", fullmatch=True)))
def test_ids_as_they_were_given_are_not_doubted(text):
    assert doubt(text) is None


@given(st.text(max_size=20))
def test_a_doubted_id_is_still_an_id(text):
    if doubt(text) is not None:
        assert normal_id(text) is not None


def test_a_long_number_as_data_frames_write_it():
    assert normal_id("1e+16") == normal_id("10000000000000000") == "1" + 16 * "0"


SOURCES = st.from_regex(r"[a-z%:/]{1,6}", fullmatch=True)


@given(SOURCES, SOURCES, SOURCES, SOURCES)
def test_scoped_ids_are_equal_only_where_source_and_id_are(source, other_source, name, other):
    assert (scoped_id(source, name) == scoped_id(other_source, other)) == ((source, name) == (other_source, other))


def test_a_source_in_another_spelling_is_the_same():
    assert scoped_id("Klinik Süd", "7") == scoped_id("KLINIK SU\u0308D ", "7")
