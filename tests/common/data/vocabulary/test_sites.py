"""Words for body sites."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from isic_metadata.anatom_site_hierarchical import AnatomSiteEnum

from melfed.common.data.vocabulary.sites import BRANCHES, SITES, WORDS, branch_site, read_site, read_site_levels
from melfed.common.data.vocabulary.spelling import stems

PATHS = sorted(member.value for member in AnatomSiteEnum)

PUBLISHED = {
    # PAD-UFES-20, Derm7pt, MILK10k, HAM10000, the archive's older exports
    "ABDOMEN": "anterior torso",
    "ARM": "upper extremity",
    "BACK": "posterior torso",
    "CHEST": "anterior torso",
    "EAR": "head/neck",
    "FACE": "head/neck",
    "FOOT": "lower extremity",
    "FOREARM": "upper extremity",
    "HAND": "upper extremity",
    "LIP": "head/neck",
    "NECK": "head/neck",
    "NOSE": "head/neck",
    "SCALP": "head/neck",
    "THIGH": "lower extremity",
    "abdomen": "anterior torso",
    "acral": "palms/soles",
    "back": "posterior torso",
    "buttocks": "lower extremity",
    "genital areas": "oral/genital",
    "head neck": "head/neck",
    "lower limbs": "lower extremity",
    "upper limbs": "upper extremity",
    "head_neck_face": "head/neck",
    "lower_extremity": "lower extremity",
    "upper_extremity": "upper extremity",
    "trunk": "torso",
    "genital": "oral/genital",
    "Head & Neck": "head/neck",
    "left upper back": "posterior torso",
    "Right Arm - Upper": "upper extremity",
    "Torso Front Top Half": "anterior torso",
    "Rücken": "posterior torso",
    "linker Unterschenkel": None,
    "Unterschenkel links": "lower extremity",
    "Fußsohle": "palms/soles",
    "plante du pied": "palms/soles",
    "espalda": "posterior torso",
    "cuero cabelludo": "head/neck",
    "spalla": "upper extremity",
    "onderbeen": "lower extremity",
    "couro cabeludo": "head/neck",
}


@pytest.mark.parametrize(("word", "site"), PUBLISHED.items())
def test_a_word(word: str, site: str | None) -> None:
    assert read_site(word).value == site


@pytest.mark.parametrize("site", SITES)
def test_a_site_is_itself(site: str) -> None:
    assert (read_site(site).value, read_site(site).reading) == (site, "known")


@pytest.mark.parametrize("path", PATHS)
def test_every_site_of_the_archive_is_read(path: str) -> None:
    levels = path.split(":")
    found = read_site_levels([*levels, None, ""]).value
    assert found == branch_site(path)
    tops = {"Head and neck": {"head/neck", "oral/genital"}, "Anogenital region": {"oral/genital"}}
    tops |= {"Trunk": {"torso", "anterior torso", "posterior torso", "lateral torso"}}
    tops |= {f"{limb} extremity": {f"{limb.lower()} extremity", "palms/soles"} for limb in ("Upper", "Lower")}
    assert found in tops[levels[0]]


def test_palms_and_soles_are_below_hand_and_foot() -> None:
    assert read_site_levels(["Upper extremity", "Hand", "Palm of hand", "Thenar eminence"]).value == "palms/soles"
    assert read_site_levels(["Lower extremity", "Foot", "Sole of foot"]).value == "palms/soles"
    assert read_site_levels(["Lower extremity", "Foot", "Toes"]).value == "lower extremity"


def test_an_unknown_level_does_no_harm() -> None:
    assert read_site_levels(["Trunk", "Posterior trunk", "A level of tomorrow"]).value == "posterior torso"
    assert read_site_levels(["A region of tomorrow"]).reading == "unknown"
    assert read_site_levels([None, ""]).reading == "missing"


@pytest.mark.parametrize(
    ("word", "reading"), [("", "missing"), ("unknown", "missing"), ("nail", "missing"), ("moon", "unknown")]
)
def test_what_is_no_site(word: str, reading: str) -> None:
    assert (read_site(word).value, read_site(word).reading) == (None, reading)


def test_no_word_has_two_sites() -> None:
    seen: dict[tuple[str, ...], str] = {}
    for site, words in WORDS.items():
        for word in words.split("|"):
            assert seen.setdefault(stems(word), site) == site, word
    assert set(WORDS) == set(SITES) >= set(BRANCHES.values())


@settings(deadline=None)  # a busy machine
@given(st.text(max_size=30))
def test_any_text_is_read_without_an_error(text: str) -> None:
    assert read_site(text).value in (*SITES, None)
