"""Melanomas.

Documented choices: lentigo maligna, melanoma in situ, metastases and melanomas of mucosae and of the eye are `mel`,
each under a code of its own, so that `data.positive` can pick among them. Superficial spreading and acral melanomas
are not said to be invasive by their name; nodular, desmoplastic and lentigo maligna *melanoma* are.
"""

from typing import Final

from melfed.common.data.vocabulary.lexicon.entry import Entry, Qualifier

HEADS: Final = (
    Entry("mel", "mel", "isic2019"),
    Entry("melanoma | melanom | melanome | melanoom | melanomata | melanoms", "mel", "who"),
    Entry(
        "melanocarcinoma | nevocarcinoma | naevocarcinome | melanosarcoma | melanoblastoma | hautmelanom | "
        "huidmelanoom | nevomelanoma",
        "mel",
        "usage",
    ),
    Entry(
        "malignant melanocytic proliferations | malignant melanocytic proliferation | malignant melanocytic "
        "tumor | malignant melanocytic neoplasm | malignant melanocytic lesion | maligner melanozytaerer "
        "tumor",
        "mel",
        "archive",
    ),
    Entry("mm | malm | ssm | ssmm", "mel", "usage"),
    Entry("alm | almm", "mel", "usage"),
    Entry("schleimhautmelanom | slijmvliesmelanoom", "mel", "usage"),
    Entry("nmm | lmm", "mel_invasive", "usage"),
    Entry(
        "lentigo maligna melanoma | lentigo maligna malignant melanoma | melanome de type lentigo maligna "
        "invasif | lentigomaligna melanom | melanoma lentigo maligna invasive | lentigo maligna melanoom",
        "mel_invasive",
        "who",
    ),
    Entry("malignant blue nevus | blue nevus malignant | maligner blauer naevus", "mel_invasive", "icdo"),
    Entry("malignant spitz tumor | spitz melanoma", "mel", "who"),
    Entry(
        "melanoma lentigo maligna | melanoma lentigo maligno | melanome de dubreuilh | melanome lentigo malin",
        "mel",
        "usage",
    ),
    Entry("lm", "lentigo_maligna", "usage"),
    Entry("lentigo maligna | lentigo malin | lentigo maligno | malignant lentigo", "lentigo_maligna", "who"),
    Entry(
        "hutchinson melanotic freckle | hutchinson freckle | melanotic freckle of hutchinson | precancerous "
        "melanosis | melanosis praecancerosa | melanosis circumscripta praeblastomatosa | melanosis "
        "circumscripta praecancerosa | melanose de dubreuilh | melanosis dubreuilh | dubreuilh melanosis | "
        "morbus dubreuilh | melanosi di dubreuilh | praecanceroese melanose",
        "lentigo_maligna",
        "icdo",
    ),
    Entry("mis | mmis | melanoma insitu", "mel_in_situ", "usage"),
    Entry(
        "melanommetastase | melanomhautmetastase | melanoommetastase | melanomfiliae | melanommetastasen",
        "mel_metastasis",
        "usage",
    ),
    Entry(
        "melanoma satellite | satellitmetastase melanom | in transit melanoma | in transit metastase melanom",
        "mel_metastasis",
        "usage",
    ),
    Entry("aderhautmelanom | uveamelanom | irismelanom | bindehautmelanom | oogmelanoom", "mel_ocular", "usage"),
)
WHOLE: Final[tuple[Entry, ...]] = ()

_MEL = frozenset({"mel"})
QUALIFIERS: Final = (
    Qualifier(
        "superficial spreading | superficially spreading | superficial spread | superficiell spreitend | "
        "superfiziell spreitend | oberflaechlich spreitend | extension superficielle | a extension "
        "superficielle | superficiel extensif | disseminativo superficial | expansivo superficial | "
        "superficial expansivo | de propagacion superficial | superficial | superficiel | oberflaechlich | "
        "superficial extensivo | extensivo superficial | extension superficial | de extension superficial | "
        "disseminacao superficial | espalhamento superficial | de espalhamento superficial | de disseminacao "
        "superficial | a diffusione superficiale | diffusione superficiale | superficieel spreidend | "
        "oppervlakkig spreidend | oppervlakkig groeiend",
        _MEL,
    ),
    Qualifier(
        "acral lentiginous | lentiginous acral | acrolentiginous | acral-lentiginous | akrolentiginoes | "
        "akrolentigenes | akral lentiginoes | acrolentigineux | acral lentiginoso | lentiginoso acral | "
        "lentigginoso acrale | acrale lentigginoso | acro lentigineux | acrolentigineus | acral lentigineux | "
        "acro lentiginoso | acrolentiginoso | acral | akral | acrale | subungual | unguial | ungueal | nail "
        "apparatus | nail unit | plantar | palmar | volar",
        _MEL,
    ),
    Qualifier(
        "amelanotic | amelanotisch | amelanotico | amelanotique | achromic | achromique | acromico | "
        "hypomelanotic | hypopigmented | non pigmented | nonpigmented | unpigmented | depigmented | pigmented "
        "| pigmentiert | pigmentado | pigmentato | pigmente | heavily pigmented | hyperpigmented",
        _MEL,
    ),
    Qualifier(
        "spindle cell | spindled | epithelioid cell | epithelioid | mixed epithelioid and spindle cell | "
        "spindelzellig | epitheloidzellig | balloon cell | small cell | clear cell | signet ring cell | "
        "myxoid | rhabdoid | type a | type b | cell",
        _MEL,
    ),
    Qualifier(
        "naevoid | nevoid | espitzoide | naevoid | nevoide | naevoides | spitzoid | spitzoide | blue nevus "
        "like | resembling blue nevus | originating from blue nevus | animal type | animal | pigment "
        "synthesizing | verrucous | polypoid | pedunculated | minimal deviation | regressing | regressive | "
        "regressed | with regression | without regression | ulcerated | ulzeriert | ulcere | ulcerado | "
        "ulcerato | with ulceration | without ulceration | ohne ulzeration | mit ulzeration | non ulcerated | "
        "lentiginous | in regression | with partial regression | sin ulceracion | con ulceracion | sans "
        "ulceration | avec ulceration | senza ulcerazione | con ulcerazione | sem ulceracao | com ulceracao | "
        "zonder ulceratie | met ulceratie",
        _MEL,
    ),
    # Alone it is the label of many a class of "no melanoma".
    Qualifier("nm", _MEL, "invasive"),
    Qualifier(
        "nodular | sekundaer knotig | secondary nodular | sekundaer nodulaer | nodulaer | nodulaire | "
        "nodulare | nodulair | knotig | neurotropic | neurotrop | desmoplastic | desmoplasico | desmoplastico "
        "| desmoplastique | desmoplastisch | sarcomatoid",
        _MEL,
        "invasive",
        source="who",
    ),
    Qualifier(
        "de novo | nevus associated | naevus associated | naevusassoziiert | nevoassociato | multiple | "
        "second | synchronous | unclassified | unclassifiable | not classified | nicht klassifizierbar | of "
        "unknown subtype | of unknown primary | unknown primary | overlapping | childhood | paediatric | "
        "pediatric | of childhood | braf | braf mutated | braf mutant | nras | nras mutated | v600e | braf "
        "v600e | wild type | wildtype | mutated | radial growth phase | vertical growth phase | in radial "
        "growth phase | in vertical growth phase | on chronically sun exposed skin | on chronically sun "
        "damaged skin | low csd | high csd | sun exposed | thin | thick | early | advanced | hereditary | "
        "familial | stage | tumorprogredient",
        _MEL,
    ),
    Qualifier("lentigo maligna type | lentigo maligna typ | type lentigo maligna | vom typ lentigo maligna", _MEL),
    Qualifier(
        "mucosal | mucosa | mucosae | muqueux | mucoso | mucosal lentiginous | schleimhaut | of mucous "
        "membrane | vulvar | anorectal | sinonasal | nasal cavity",
        _MEL,
    ),
    Qualifier(
        "uveal | uvea | ocular | okulaer | oculaire | oculare | eye | eyeball | auge | choroid | choroidal | "
        "choroideal | aderhaut | iris | ciliary body | intraocular | conjunctiva | conjunctival | retina | "
        "orbit | orbital",
        _MEL,
        "ocular",
    ),
    Qualifier(
        "metastatic | metastasis | metastases | metastasized | metastase | metastasen | metastasiert | "
        "metastasierend | metastasierte | metastatique | metastatico | metastasico | metastatisch | "
        "gemetastaseerd | metastasiertes | filiae | filia | hautmetastase | hautmetastasen | huidmetastase | "
        "cutaneous metastasis | lymphknotenmetastase | in transit metastasis | satellite metastasis | "
        "satellite | secondary | sekundaer | metastatizzato | metastatizado | metastatizante | metastasise | "
        "metastasizing | epidermotropic metastatic",
        frozenset({"mel", "scc", "bcc", "mal_oth", "metastasis"}),
        "metastasis",
    ),
)
