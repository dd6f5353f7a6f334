"""The vocabulary as a page of the documentation: `python -m melfed.common.data.vocabulary.page docs/vocabulary.md`."""

import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from isic_metadata.diagnosis_hierarchical import DiagnosisEnum

from melfed.common.data.vocabulary import archive, codes, missing, sex, sites, skin
from melfed.common.data.vocabulary.diagnoses import read_diagnosis
from melfed.common.data.vocabulary.entities import CODES, ENTITIES
from melfed.common.data.vocabulary.lexicon import FAMILIES, QUALIFIER_LISTS, Entry, Qualifier
from melfed.common.data.vocabulary.published import PUBLISHED
from melfed.common.data.vocabulary.sources import SOURCES

_INTRODUCTION = """# Vocabulary

What melfed makes of the words of tables. This page is made of the code that reads them (`common/data/vocabulary`, by
`python -m melfed.common.data.vocabulary.page docs/vocabulary.md`), and a test keeps it.

- A word that is not here is **unknown**, and an unknown word is neither a positive nor a negative. Unknown words are
  listed with their counts; a simulation does not start and a clinic's `doctor` and `approve` say no until each is
  mapped: `--diagnosis "WORD=mel"`, or in `clinic.yaml`
  ```yaml
  data:
    diagnoses:
      "WORD": mel          # any code below
      "OTHER WORD": leave_out
  ```
- Case, accents, hyphens, plurals and endings, British and American spelling do not matter.
- A name may stand beside other words that are known: sites, stages, thickness, subtypes, in any order. One word that is
  not known makes the whole text unknown.
- Doubt, denial and the past (`suspected melanoma`, `melanoma?`, `no melanoma`, `status post melanoma`) make a diagnosis
  **undecided**: neither a positive nor a negative, left out and counted. So do two different lesions in one text,
  unless a melanoma is said to have grown in a naevus.
- What a table says about a lesion is the set of things that it can be. A study's positives decide three ways: yes, no,
  or not said. `malignant` alone does not say whether it is a melanoma; such rows are left out of a melanoma study.

## Choices

- **Melanoma in situ, lentigo maligna, metastases, and melanomas of mucosae and of the eye are `mel`.** Most have a code
  of their own (`mel_in_situ`, `lentigo_maligna`, `mel_invasive`, `mel_metastasis`, `mel_ocular`), so that
  `data.positive` can pick among them, as `positive: [mel_invasive, mel_in_situ]`. Where a table says only *melanoma*,
  such a study does not know, and leaves the row out.
- **Superficial spreading and acral lentiginous melanoma** are `mel`: they can be in situ. Nodular, desmoplastic and
  lentigo maligna *melanoma* are `mel_invasive`.
- **Lesions of uncertain behaviour** (MELTUMP, AIMP, SAMPUS, atypical Spitz tumour, melanocytoma) are `melanocytic`,
  and **collisions with a malignant part** `collision`: undecided, though `isic-metadata` counts the latter as melanoma.
- **Naevi that are not melanocytic** (sebaceus, comedonicus, epidermal, flammeus, lipomatosus, Becker) are no `nv`.
- **Juvenile melanoma**, once the name of Spitz naevi, and *benign melanoma* are undecided.
- **MILK10k's `MAL_OTH`** may be a collision with a melanoma: undecided for a melanoma study unless its supplement says.
"""


def render() -> str:
    """The page."""
    code_rows = ((f"`{code.name}`", _code_text(code.name), f"`{code.coarse}`") for code in CODES.values())
    source_rows = ((key, source.name, source.version, source.where) for key, source in SOURCES.items())
    return "\n".join(
        (
            _INTRODUCTION,
            _section("Codes", _table(("code", "is", "counted under"), code_rows)),
            _section("Sources", _table(("key", "source", "version", "where"), source_rows)),
            *(_family(name, heads, whole) for name, (heads, whole) in FAMILIES.items()),
            _section("Words beside a name", _table(("words", "beside", "effect", "source"), _qualifiers())),
            _section("Published words", "What they become.", _table(("source", "words"), _published())),
            _section("Cells that say nothing", f"Source: usage. {_words(missing.MISSING)}."),
            _section("Hierarchy of the ISIC archive", "Source: archive.", _table(_BRANCH_HEAD, _branches())),
            _section("ICD-10", _ICD10, _coded(codes.ICD10)),
            _section("ICD-11", "Source: icd11.", _coded(codes.ICD11)),
            _section("ICD-O-3 morphology", _icdo(), _coded(codes.ICDO)),
            _sites(),
            _section("Skin types", _skin()),
            _sexes(),
        )
    )


_BRANCH_HEAD = ("branch", "code", "names in it")
_ICD10 = (
    "Source: icd10. The longest beginning decides. A letter V, A or Z after the code (suspected, ruled out, state "
    "after; ICD-10-GM) makes it undecided."
)


def _icdo() -> str:
    behaviours = "; ".join(f"/{key} {text}: `{code}`" for key, (code, text) in codes.ICDO_MELANOCYTIC.items())
    return (
        f"Source: icdo. Of 8720 to 8799 the behaviour decides: {behaviours}. Without a behaviour: `melanocytic`. "
        "These go before:"
    )


def _sites() -> str:
    return _section(
        "Sites",
        "Sources: usage, archive, archive-legacy, derm7pt, pad-ufes-20, milk10k, ham10000.",
        _table(("site", "words"), ((f"`{site}`", _words(words)) for site, words in sites.WORDS.items())),
        f"Acral, but no site: {_words(sites.NAILS)}. Branches of the archive:",
        _table(("branch", "site"), ((path, f"`{site}`") for path, site in sites.BRANCHES.items())),
    )


def _sexes() -> str:
    return _section(
        "Sex",
        "Source: usage.",
        _table(("sex", "words"), ((value, _words(words)) for value, words in sex.WORDS.items())),
        f"Neither, and not known to the network: {_words(sex.OTHER)}.",
    )


def _section(title: str, *paragraphs: str) -> str:
    return "\n\n".join((f"## {title}", *(paragraph.rstrip("\n") for paragraph in paragraphs))) + "\n"


def _code_text(name: str) -> str:
    code = CODES[name]
    if code.entities == {name}:
        return code.text
    listed = ", ".join(entity for entity in ENTITIES if entity in code.entities)
    return f"{code.text} ({listed}){'' if code.decided else '; undecided'}"


def _family(name: str, heads: Iterable[Entry], whole: Iterable[Entry]) -> str:
    rows = [(f"`{entry.code}`", _words(entry.words), entry.source) for entry in heads]
    rows += [(f"`{entry.code}`", f"{_words(entry.words)} (as the whole text)", entry.source) for entry in whole]
    return _section(name, _table(("code", "names", "source"), sorted(rows, key=lambda row: row[0])))


def _published() -> Iterable[tuple[str, str]]:
    for source, words in PUBLISHED.items():
        yield source, "; ".join(f"{word} `{_becomes(word)}`" for word in map(str.strip, words.split("|")))


def _becomes(word: str) -> str:
    return read_diagnosis(word).fine or "undecided"


def _qualifiers() -> Iterable[tuple[str, str, str, str]]:
    for qualifiers in QUALIFIER_LISTS:
        for qualifier in qualifiers:
            words = "all words of sites, below" if qualifier.words == sites.PHRASES else _words(qualifier.words)
            yield words, ", ".join(sorted(qualifier.to)), _effect(qualifier), qualifier.source


def _effect(qualifier: Qualifier) -> str:
    texts = {"hedge": "undecided", "link": "the melanoma counts, not the naevus", "turn": f"`{qualifier.code}`"}
    return texts.get(qualifier.effect, qualifier.effect or "none")


def _branches() -> Iterable[tuple[str, str, str]]:
    below: dict[str, list[str]] = defaultdict(list)
    for path in (member.value for member in DiagnosisEnum):
        levels = path.split(":")
        branch = next(up for end in range(len(levels), 0, -1) if (up := ":".join(levels[:end])) in archive.BRANCHES)
        if branch != path:
            below[branch].append(levels[-1])
    for branch, code in archive.BRANCHES.items():
        yield branch, f"`{code}`", "; ".join(below[branch])


def _coded(entries: Mapping[str, tuple[str, str]]) -> str:
    return _table(("begins with", "is", "code"), ((key, text, f"`{code}`") for key, (code, text) in entries.items()))


def _skin() -> str:
    limits = ", ".join(f"{limit:g}" for limit in skin.ITA_LIMITS)
    monk = ", ".join(f"{tone}: {skin_type}" for tone, skin_type in enumerate(skin.MONK, 1))
    return (
        "Fitzpatrick's I to VI as 1 to 6 (`III`, `3`, `3.0`, `type III`); -1 and 0 are not known. Other scales are "
        f"brought to it, which is an approximation: the individual typology angle by its limits of {limits} degrees; "
        f"the Monk scale by the angle of its published colours ({monk}); "
        "MILK10k's `skin_tone_class` as 6 minus the class."
    )


def _words(words: str) -> str:
    return ", ".join(word.strip() for word in words.split("|"))


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(render(), encoding="utf-8")
