"""Words for diagnoses: what each is, and that nothing unknown or doubted becomes a negative."""

import random
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from melfed.common.data.vocabulary.diagnoses import LEAVE_OUT, checked_mapping, combine, read_diagnosis, read_levels
from melfed.common.data.vocabulary.entities import CODES, EVERYTHING, positive_entities
from melfed.common.data.vocabulary.lexicon import FAMILIES, QUALIFIERS
from melfed.common.errors import DataError

MEL = positive_entities(["mel"])

MELANOMAS = [
    "mel",
    "malignant melanoma",
    "Malignant Melanoma",
    "MALIGNANT MELANOMA, NOS",
    "nodular melanoma",
    "superficial spreading melanoma",
    "superficial spreading melanoma ssm",
    "SSM",
    "acral lentiginous melanoma",
    "ALM",
    "lentigo maligna melanoma",
    "LMM",
    "MM",
    "amelanotic melanoma",
    "desmoplastic melanoma",
    "naevoid melanoma",
    "nevoid malignant melanoma",
    "spitzoid melanoma",
    "metastatic melanoma",
    "melanoma metastasis",
    "melanoma in situ",
    "MIS",
    "lentigo maligna",
    "uveal melanoma",
    "mucosal melanoma",
    "subungual melanoma",
    "melanoma arising in a congenital nevus",
    "Melanoma ex naevo",
    "recurrent melanoma",
    "verrucous melanoma",
    "malignes Melanom",
    "malignes  Melanom (SSM), Clark-Level III, TD 0,7 mm, pT1a",
    "noduläres Melanom",
    "knotiges Melanom",
    "superfiziell spreitendes Melanom",
    "akrolentiginöses Melanom",
    "amelanotisches Melanom",
    "Lentigo-maligna-Melanom",
    "Hautmetastase eines Melanoms",
    "Melanommetastase",
    "Melanom auf Nävus",
    "Schleimhautmelanom",
    "sekundär knotiges MM",
    "mélanome malin",
    "mélanome nodulaire",
    "mélanome à extension superficielle",
    "mélanome acrolentigineux",
    "mélanome de Dubreuilh",
    "métastase cutanée de mélanome",
    "mélanome achromique",
    "melanoma maligno",
    "melanoma de extensión superficial",
    "melanoma lentiginoso acral",
    "melanoma espitzoide",
    "metástasis de melanoma",
    "melanoma a diffusione superficiale",
    "melanoma nodulare",
    "metastasi di melanoma",
    "melanoma extensivo superficial",
    "melanoma disseminativo superficial",
    "superficieel spreidend melanoom",
    "nodulair melanoom",
    "melanoommetastase",
    "Melanoma Invasive, Superficial spreading",
    "Malignant:Malignant melanocytic proliferations (Melanoma):Melanoma in situ",
    "melanoma (0.76 to 1.5 mm)",
    "melanoma, back",
    "Malignant melanoma of skin of scalp and/or neck (disorder)",
    "nodular-melanoma-(nm)",
    "malignant blue nevus",
    "C43.5",
    "C43",
    "c43.59",
    "ICD-10: C43.9",
    "C43.5 G",
    "D03.5",
    "8720/3",
    "M8743/3",
    "87203",
    "8742/2",
    "8721/6",
    "ICD-O-3: 8744/3",
    "C43.5 Malignant melanoma of trunk",
    "Malignant melanoma (8720/3)",
    "2C30.1",
]
NAEVI = [
    "nv",
    "nevus",
    "naevus",
    "Nævus",
    "Nävus",
    "nevi",
    "melanocytic nevus",
    "Melanocytic Nevi",
    "benign nevus",
    "Nevus, NOS, Compound",
    "blue nevus",
    "Spitz nevus",
    "Spitz-Nävus",
    "reed or spitz nevus",
    "halo naevus",
    "Clark nevus",
    "dysplastic nevus",
    "atypical nevus",
    "mildly dysplastic nevus",
    "dysplastic nevus with severe atypia",
    "compound nevus without atypia",
    "congenital nevus",
    "nevus spilus",
    "intradermal naevus",
    "Nävuszellnävus",
    "dysplastischer Nävus",
    "melanozytärer Nävus vom Compound-Typ",
    "naevus bleu",
    "nævus dysplasique",
    "nevo azul",
    "nevo melanocítico",
    "nevo displastico",
    "moedervlek",
    "mole",
    "Muttermal",
    "NEV",
    "pseudomelanoma",
    "D22.5",
    "8727/0",
    "8760/0",
    "nevus of Ota",
    "nevus 3 mm",
]
NOT_MELANOCYTIC = [
    "Nevus comedonicus",
    "naevus comedonicus",
    "comedonic nevus",
    "Nevus sebaceus",
    "sebaceous nevus",
    "Naevus sebaceus",
    "nevus sebaceous of jadassohn",
    "epidermal nevus",
    "linear epidermal nevus",
    "Lipomatous nevus",
    "nevus lipomatosus superficialis",
    "Nevus anemicus",
    "nevus flammeus",
    "strawberry nevus",
    "spider nevus",
    "becker nevus",
    "organoid nevus",
    "nevus depigmentosus",
    "connective tissue nevus",
    "ILVEN",
    "verrucous epidermal nevus",
]
UNDECIDED = [
    "melanoma?",
    "melanoma (?)",
    "? melanoma",
    "no melanoma",
    "not melanoma",
    "non-melanoma",
    "nonmelanoma",
    "melanoma excluded",
    "melanoma, to be excluded",
    "suspected melanoma",
    "suspicious for melanoma",
    "possible melanoma",
    "probable melanoma",
    "r/o melanoma",
    "rule out melanoma",
    "negative for melanoma",
    "melanoma or nevus",
    "melanoma vs nevus",
    "nevus / melanoma",
    "nevus with melanoma",
    "history of melanoma",
    "family history of melanoma",
    "status post melanoma",
    "s/p melanoma",
    "melanoma scar",
    "melanoma-like nevus",
    "nevus simulating melanoma",
    "juvenile melanoma",
    "benign melanoma",
    "V.a. Melanom",
    "Verdacht auf Melanom",
    "Z.n. Melanom",
    "Z. n. Melanom",
    "kein Melanom",
    "Melanom ausgeschlossen",
    "DD Melanom",
    "suspicion de mélanome",
    "pas de mélanome",
    "sospecha de melanoma",
    "sin melanoma",
    "sospetto melanoma",
    "nessun melanoma",
    "suspeita de melanoma",
    "sem melanoma",
    "verdenking melanoom",
    "geen melanoom",
    "suspicious nevus",
    "nevus vs seborrheic keratosis",
    "C43.5 V",
    "C43.5A",
    "C43.5 Z",
    "V.a. C43.5",
    "C43.5 nevus",
    "Z85.820",
    "D48.5",
    "MELTUMP",
    "STUMP",
    "SAMPUS",
    "IAMPUS",
    "AIMP",
    "AMP",
    "atypical Spitz tumor",
    "atypical Spitz nevus",
    "Atypical melanocytic neoplasm",
    "atypical melanocytic proliferation",
    "melanocytic lesion",
    "melanocytoma",
    "Melanocytic tumor of uncertain malignant potential",
    "Indeterminate",
    "8770/1",
    "8720",
    "metastasis",
    "Collision - At least one malignant proliferation",
    "collision tumor",
]
UNKNOWN = [
    "foo",
    "melanoma foo",
    "nevus foo",
    "foo nevus",
    "melanoma 0",
    "melanoma 1",
    "melanoma 90%",
    "probability of melanoma 0",
    "melenoma",
    "nevuss xyz",
    "0",
    "1",
    "class 3",
    "X99.9",
    "1234/5",
    "mel;nv;xyz",
    "normal skin",
    "melanoma nevus quux",
    "malignant nevus",
]


@pytest.mark.parametrize("word", MELANOMAS, ids=str.strip)
def test_a_melanoma(word: str) -> None:
    found = read_diagnosis(word)
    assert (found.reading, found.code, found.target(MEL)) == ("known", "mel", 1)


@pytest.mark.parametrize("word", NAEVI, ids=str.strip)
def test_a_melanocytic_naevus(word: str) -> None:
    found = read_diagnosis(word)
    assert (found.reading, found.code, found.target(MEL)) == ("known", "nv", 0)


@pytest.mark.parametrize("word", NOT_MELANOCYTIC, ids=str.strip)
def test_a_naevus_that_is_not_melanocytic_is_no_nv(word: str) -> None:
    found = read_diagnosis(word)
    assert found.reading == "known"
    assert found.could_be <= CODES["ben_oth"].entities | CODES["vasc"].entities
    assert found.target(positive_entities(["nv"])) == 0


@pytest.mark.parametrize("word", UNDECIDED, ids=str.strip)
def test_doubt_denial_and_the_past_are_neither(word: str) -> None:
    found = read_diagnosis(word)
    assert (found.reading, found.target(MEL)) == ("undecided", None)


@pytest.mark.parametrize("word", UNKNOWN, ids=str.strip)
def test_an_unknown_word_is_neither(word: str) -> None:
    found = read_diagnosis(word)
    assert (found.reading, found.code, found.target(MEL)) == ("unknown", None, None)
    assert found.word == word.strip()


@pytest.mark.parametrize(
    ("word", "code"),
    [
        ("melanoma in situ", "mel_in_situ"),
        ("Melanoma in situ, Lentigo maligna type", "lentigo_maligna"),
        ("lentigo maligna", "lentigo_maligna"),
        ("lentigo maligna melanoma", "mel_invasive"),
        ("nodular melanoma", "mel_invasive"),
        ("Lentigo maligna, invasive", "mel_invasive"),
        ("superficial spreading melanoma", "mel"),
        ("malignant melanoma in precancerous melanosis", "mel"),
        ("metastatic melanoma", "mel_metastasis"),
        ("sekundär knotiges Melanom", "mel_invasive"),
        ("malignant melanoma of choroid", "mel_ocular"),
        ("melanoma of soft parts", "other_malignant"),
        ("squamous cell carcinoma in situ", "bowen"),
        ("Bowen's disease", "bowen"),
        ("Actinic keratosis / Bowen's disease", "akiec"),
        ("squamous cell carcinoma", "scc"),
        ("invasive SCC", "sccka"),
        ("C44.311", "bcc"),
        ("C44.92", "scc"),
        ("C44.5", "malignant_epidermal"),
        ("seborrhoeic keratosis", "sk"),
        ("basal cell carcinoma, nodular, nose", "bcc"),
        ("malignant", "malignant"),
        ("benign", "benign"),
    ],
)
def test_the_precise_code(word: str, code: str) -> None:
    assert read_diagnosis(word).fine == code


def test_positives_pick_among_the_melanomas() -> None:
    invasive = positive_entities(["mel_invasive"])
    in_situ = positive_entities(["mel_in_situ"])
    assert [read_diagnosis(word).target(invasive) for word in ("nodular melanoma", "lentigo maligna", "melanoma")] == [
        1,
        0,
        None,
    ]
    assert [read_diagnosis(word).target(in_situ) for word in ("nodular melanoma", "lentigo maligna", "melanoma")] == [
        0,
        1,
        None,
    ]
    no_metastases = positive_entities(["mel_invasive", "mel_in_situ"])
    assert [read_diagnosis(word).target(no_metastases) for word in ("melanoma metastasis", "8720/3", "nevus")] == [
        0,
        1,
        0,
    ]


def test_malignant_alone_does_not_say_whether_it_is_a_melanoma() -> None:
    assert read_diagnosis("malignant").target(MEL) is None
    assert read_diagnosis("malignant").target(positive_entities(["malignant"])) == 1
    assert read_diagnosis("bcc").target(positive_entities(["malignant"])) == 1
    assert read_diagnosis("benign").target(MEL) == 0


def test_a_collision_hides_whatever_is_asked_for() -> None:
    collision = read_diagnosis("Collision - At least one malignant proliferation")
    assert collision.target(positive_entities(["bcc"])) is None
    assert collision.target(positive_entities(["malignant"])) == 1
    assert read_diagnosis("MAL_OTH").target(MEL) is None
    assert read_diagnosis("Merkel cell carcinoma").target(MEL) == 0


LEVELS = [
    (("Malignant", "Malignant melanocytic proliferations (Melanoma)", "Melanoma in situ", None, ""), "mel_in_situ", 1),
    (("Malignant", "Malignant melanocytic proliferations (Melanoma)", "A subtype of tomorrow"), "mel", 1),
    (("Malignant", "A branch of tomorrow"), "malignant", None),
    (("Benign", "Benign melanocytic proliferations", "Nevus"), "nv", 0),
    (("Benign", "A branch of tomorrow"), "benign", 0),
    (("Benign", "Benign melanocytic proliferations", "Pigmented epithelioid melanocytoma"), "nv", 0),
    (("Indeterminate", "Indeterminate melanocytic proliferations", "Atypical Spitz tumor"), "melanocytic", None),
    (("Indeterminate", "Indeterminate epidermal proliferations", "Solar or actinic keratosis"), "ak", 0),
    (("Malignant", "Collision - At least one malignant proliferation", None), "collision", None),
    (("benign", "nevus"), "nv", 0),
    (("benign", "other"), "benign", 0),
    (("malignant", "other"), "malignant", None),
    (("Benign", "melanoma"), None, None),
]


@pytest.mark.parametrize(("levels", "code", "target"), LEVELS, ids=str)
def test_levels_refine_each_other(levels: tuple[str | None, ...], code: str | None, target: int | None) -> None:
    found = read_levels(levels)
    assert (found.fine, found.target(MEL)) == (code, target)


def test_an_unknown_level_is_named_only_where_it_matters() -> None:
    assert read_levels(("Malignant", "A branch of tomorrow")).word == "A branch of tomorrow"
    assert read_levels(("Malignant", "A branch of tomorrow")).reading == "unknown"
    assert read_levels(("Benign", "A branch of tomorrow")).reading == "known"


def test_a_contradiction_is_undecided_unless_both_are_benign() -> None:
    assert combine([read_diagnosis("nevus"), read_diagnosis("malignant")]).reading == "undecided"
    assert combine([read_diagnosis("nevus"), read_diagnosis("malignant")]).target(MEL) is None
    assert combine([read_diagnosis("bkl"), read_diagnosis("clear cell acanthoma")]).target(MEL) == 0


def test_a_binary_column_rules_out() -> None:
    assert read_diagnosis("").without("mel").target(MEL) is None, "a collision is still possible"
    assert read_diagnosis("").without("mel", "collision").target(MEL) == 0
    assert read_diagnosis("").without("malignant").target(MEL) == 0


def test_a_person_says_what_a_word_means() -> None:
    mapping = checked_mapping({"Klasse  A": "MEL", "class b": "nv", "class c": LEAVE_OUT, "nevus": "leave_out"})
    assert read_diagnosis("klasse a", mapping).target(MEL) == 1
    assert read_diagnosis("Class B ", mapping).target(MEL) == 0
    assert read_diagnosis("class c", mapping).reading == "undecided"
    assert read_diagnosis("nevus", mapping).target(MEL) is None, "a person's word goes first"
    assert read_diagnosis("class d", mapping).reading == "unknown"
    assert read_levels(("Malignant", "Klasse A"), mapping).target(MEL) == 1


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"foo": "melanom"}, r"data.diagnoses: 'foo' is mapped to 'melanom', which is no code \(did you mean mel\?\)"),
        ({"foo": "mel", "FOO": "nv"}, "data.diagnoses: 'FOO' is mapped to nv and to mel; keep one of the two"),
    ],
)
def test_a_mapping_that_cannot_be_is_refused(mapping: dict[str, str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        checked_mapping(mapping, "data.diagnoses")


NAMES = [
    name.strip() for heads, whole in FAMILIES.values() for entry in (*heads, *whole) for name in entry.words.split("|")
]
HEDGES = sorted(
    {" ".join(key) for key, senses in QUALIFIERS.items() if any(sense.effect == "hedge" for sense in senses)}
)


@settings(deadline=None)  # a busy machine
@given(st.sampled_from(NAMES), st.randoms(use_true_random=False))
def test_spelling_changes_nothing(name: str, chance: random.Random) -> None:
    spelled = unicodedata.normalize(chance.choice(("NFC", "NFD", "NFKC")), name)
    spelled = chance.choice((str.upper, str.title, str.lower))(spelled)
    spelled = spelled.replace(" ", chance.choice(("  ", "-", "_", " - ", "\t", "\u00a0")))
    spelled = chance.choice(("", " ", "\ufeff")) + spelled + chance.choice(("", " ", ".", ";"))
    assert read_diagnosis(spelled).could_be == read_diagnosis(name).could_be


@settings(deadline=None)  # a busy machine
@given(st.text(max_size=40))
def test_no_unknown_word_becomes_a_negative(text: str) -> None:
    found = read_diagnosis(text)
    if found.reading != "known":
        assert found.target(MEL) is None


@settings(deadline=None)  # a busy machine
@given(st.sampled_from(NAMES), st.text(alphabet="abcdefghijklmnopqrstuvwxyz", min_size=5, max_size=12))
def test_a_known_name_with_an_unknown_word_beside_it_is_unknown(name: str, word: str) -> None:
    """Random letters are words that nobody knows; the few that the lexicon has are passed over."""
    if read_diagnosis(f"melanoma {word}").reading == "unknown":
        for text in (f"{name} {word}", f"{word} {name}"):
            assert read_diagnosis(text).reading in ("unknown", "undecided"), text
            assert read_diagnosis(text).target(MEL) is None


@settings(deadline=None)  # a busy machine
@given(st.sampled_from(NAMES), st.sampled_from(HEDGES), st.booleans())
def test_doubt_beside_any_name_is_never_an_answer(name: str, doubt: str, before: bool) -> None:
    text = f"{doubt} {name}" if before else f"{name} {doubt}"
    found = read_diagnosis(text)
    if found.reading == "known":
        # Together they are another name of the lexicon: "non pigmented", "no invasivo".
        assert found.could_be <= read_diagnosis(name).could_be or read_diagnosis(name).reading != "known"
    else:
        assert found.target(MEL) is None


def test_nothing_known_is_everything_possible() -> None:
    for word in ("foo", "", "melanoma?"):
        assert read_diagnosis(word).could_be == EVERYTHING
