"""Melanocytic naevi, naevi that are none, and melanocytic lesions whose behaviour is uncertain.

Naevi that are not melanocytic (of sebaceous glands, follicles, epidermis, vessels, fat) are no `nv`: the archive's
`diagnosis_2` decides. Lesions of uncertain behaviour (MELTUMP, AIMP, atypical Spitz tumour) are `melanocytic`, which is
neither melanoma nor not. *Juvenile melanoma* was once the name of Spitz naevi, so alone it settles nothing.
"""

from typing import Final

from melfed.common.data.vocabulary.lexicon.entry import Entry, Qualifier

HEADS: Final = (
    Entry(
        "nevus | naevus | nevi | naevi | nevo | naevo | nevos | naevos | neve | nevuses | naevuses | naevuli",
        "nv",
        "who",
    ),
    Entry(
        "naevuszellnaevus | naevuszellnaevi | naevozellulaerer naevus | nzn | melanozytennaevus | "
        "pigmentnaevus | spitznaevus | halonaevus | compoundnaevus | junktionsnaevus | blue naevus | "
        "spilusnaevus | clarknaevus | reednaevus | suttonnaevus | naevocytennaevus | naevusnaevocellularis | "
        "kongenitalnaevus",
        "nv",
        "usage",
    ),
    Entry("mole | moles | muttermal | leberfleck | moedervlek | grain de beaute | lunar", "nv", "usage"),
    Entry(
        "atypical mole | dysplastic mole | pseudomelanoma | nevomelanocytic nevus | benign juvenile melanoma",
        "nv",
        "usage",
    ),
    Entry(
        "dermal melanocytosis | mongolian spot | mongolenfleck | nevus of ota | nevus of ito | nevus ota | nevus ito",
        "nv",
        "archive",
    ),
    Entry("pigmented spindle cell tumor | pigmented spindle cell tumor of reed | spitz reed", "nv", "who"),
    Entry("proliferative nodule in congenital melanocytic nevi without atypia", "nv", "archive"),
    Entry("benign melanocytic proliferation | benign melanocytic proliferations", "benign_melanocytic", "archive"),
    Entry(
        "benign melanocytic lesion | benign melanocytic tumor | benign melanocyte",
        "benign_melanocytic",
        "fitzpatrick17k",
    ),
    Entry("lentiginous melanocytic proliferation", "benign_melanocytic", "archive"),
    Entry(
        "meltump | melanocytic tumor of uncertain malignant potential | stump | spitzoid tumor of uncertain "
        "malignant potential | sampus | iampus | aimp | amp | amh | superficial atypical melanocytic "
        "proliferation of uncertain significance | intraepidermal atypical melanocytic proliferation of "
        "uncertain significance | atypical intraepidermal melanocytic proliferation | atypical "
        "intraepithelial melanocytic proliferation | atypical intraepidermal melanocytic hyperplasia",
        "melanocytic",
        "who",
    ),
    Entry(
        "indeterminate melanocytic proliferations | indeterminate melanocytic proliferation | indeterminate "
        "melanocytic lesion | atypical melanocytic neoplasm | atypical pigmented spindle cell tumor | "
        "atypical proliferative nodules in congenital melanocytic nevus | atypical proliferative nodule",
        "melanocytic",
        "archive",
    ),
    Entry(
        "atypical spitz tumor | atypical spitz nevus | atypical spitzoid tumor | atypical spitzoid neoplasm | "
        "atypical spitzoid proliferation | atypical spitzoid lesion | atypical spitzoid melanocytic "
        "proliferation | spitz tumor | spitz melanocytoma | spitzoid tumor | spitzoid lesion | spitzoid "
        "neoplasm | spitzoid melanocytic proliferation | atypischer spitz tumor | atypischer spitznaevus | "
        "atypischer spitz naevus | tumor de spitz atipico | tumeur de spitz atypique | tumore di spitz "
        "atipico | tumor spitzoide atipico | atypical spindle cell nevus of reed | atypical spindle cell "
        "nevus | nevus spitz atypical | nevo de spitz atipico | naevus de spitz atypique",
        "melanocytic",
        "who",
    ),
    Entry(
        "atypical melanocytic proliferation | atypical melanocytic proliferations | atypical melanocytic "
        "lesion | atypical melanocytic hyperplasia | atypical melanocytic tumor | atypical lentiginous "
        "melanocytic proliferation | atypical junctional melanocytic proliferation | atypical junctional "
        "melanocytic hyperplasia | atypical lentiginous proliferation | atypical lentigo | atypical solar "
        "lentigo | lentigo with atypia | lentiginous hyperplasia | atypical compound melanocytic "
        "proliferation | severely atypical melanocytic proliferation | atypische melanozytaere proliferation "
        "| proliferacion melanocitica atipica | proliferation melanocytaire atypique | proliferazione "
        "melanocitaria atipica | proliferacao melanocitica atipica | atypische melanocytaire proliferatie | "
        "atypical cellular blue nevus | atypical blue nevus | atypical deep penetrating nevus",
        "melanocytic",
        "usage",
    ),
    Entry(
        "melanocytic lesion | melanocytic proliferation | melanocytic tumor | melanocytic neoplasm | "
        "melanocytic hyperplasia | melanocytic dysplasia | melanozytaere laesion | melanozytaerer tumor | "
        "lesion melanocytaire | lesion melanocitica | tumeur melanocytaire | lesione melanocitaria | lesao "
        "melanocitica | borderline melanocytic tumor | borderline melanocytic lesion | borderline melanoma | "
        "melanocytoma | melanozytom | pigmented epithelioid melanocytoma | pem | bap1 inactivated melanocytic "
        "tumor | bap 1 inactivated melanocytic tumor | bapoma | wnt activated deep penetrating melanocytoma",
        "melanocytic",
        "who",
    ),
    Entry(
        "juvenile melanoma | melanoma juvenile | juveniles melanom | benign melanoma | melanoma benign", "open", "usage"
    ),
)
WHOLE: Final = (
    Entry("nv | nev | nevocytic nevi", "nv", "ham10000"),
    Entry("cmn", "nv", "usage"),
    Entry("common nevus | atypical nevus", "nv", "ph2"),
    Entry("reed or spitz nevus | spitz or reed nevus", "nv", "derm7pt"),
    Entry("nevus atypical dysplastic or clark", "nv", "archive"),
    Entry("spitz | spitzoid | melanocytic", "melanocytic", "usage"),
    Entry("ast", "melanocytic", "usage"),
)

_NV = frozenset({"nv"})
_MELANOCYTIC = frozenset({"nv", "melanocytic"})
QUALIFIERS: Final = (
    Qualifier(
        "melanocytic | melanozytaer | melanocytaire | melanocitico | melanocitario | melanocytair | "
        "nevocellular | nevocytic | naevocellulaire | naevocytaire | nevocitico | nevo cellular | "
        "nevomelanocytic | naevozellulaer | naevoider | pigmentary | pigmentaire | pigmentario | cell | zell",
        _NV,
    ),
    Qualifier(
        "compound | compuesto | composto | compose | samengesteld | junction | junctional | junktional | "
        "juncional | jonctionnel | giunzionale | union | de union | grensvlak | dermal | intradermal | "
        "dermisch | dermaler | dermique | intradermique | dermico | intradermico | dermoepidermal | korial | "
        "corial | dermo epidermique",
        _MELANOCYTIC,
    ),
    Qualifier(
        "dysplastic | displasico | displastico | dysplasique | dysplastisch | atypical | atypique | atipico | "
        "atypisch | clark | clarks | mildly | moderately | severely | mild | moderate | severe | low grade | "
        "high grade | leicht | maessig | schwer | mit dysplasie | dysplasia | atypia | with atypia | with "
        "dysplasia | with severe atypia | with architectural disorder | architectural disorder | without "
        "atypia | no atypia | ohne atypien | sans atypie | sin atipia | senza atipia | sem atipia | zonder "
        "atypie | leve | moderado | grave | severo | legere | moderee | lieve | grad | grade | geringgradig | "
        "mittelgradig | hochgradig",
        _NV,
    ),
    Qualifier(
        "common | commun | comun | comune | comum | banal | banaler | gewoehnlich | acquired | erworben | "
        "congenital | kongenital | angeboren | congenito | congenitaal | congenitale | aangeboren | "
        "congenital type | congenital like | with congenital features | by history | by histopathological "
        "pattern | by history and histopathological pattern | giant | riesen | small | medium | large | "
        "medium sized | gigante | geant | bathing trunk | tardive",
        _MELANOCYTIC,
    ),
    Qualifier(
        "blue | blau | blauer | bleu | azul | blu | blauw | cellular | zellreich | plaque type | sclerosing | "
        "sclerosed | spitz | of spitz | de spitz | di spitz | van spitz | reed | of reed | de reed | di reed "
        "| spindle cell | spindelzell | pigmented spindle cell | spindle and epithelioid cell | epithelioid | "
        "epithelioid cell | desmoplastic | balloon cell | magnocellular | deep penetrating | tief "
        "penetrierend | penetrante profundo | combined | kombiniert | combinado | combine | combinato | bap 1 "
        "deficient | bap1 deficient | inverted type a",
        _MELANOCYTIC,
    ),
    Qualifier(
        "halo | sutton | of sutton | de sutton | meyerson | unna | miescher | spilus | speckled | speckled "
        "lentiginous | lentiginous | lentiginoes | lentigineux | lentiginoso | zosteriform | agminated | "
        "cockade | cockarde | eclipse | recurrent | persistent | rezidiv | recidivante | recurrente | "
        "recidivant | regressing | acral | of special anatomic site | special site | genital | flexural | "
        "milk line | umbilical | papillomatous | papillomatoes | papilomatoso | papillomateux | nodular | "
        "hypopigmented | nonpigmented | non pigmented | amelanotic | inflamed | irritated | traumatized | "
        "excoriated | pigmented | pigmentiert | pigmentado | pigmentato | pigmente | hairy | behaart | "
        "pilosus | pigmentosus | globular | reticular | homogeneous | starburst | symmetric | flat | raised | "
        "old | neuronevus | neurotized | ancient | stable | regular | irregular | sessile | pedunculated",
        _NV,
    ),
    # Naevi that are not melanocytic.
    Qualifier(
        "sebaceus | sebaceous | sebace | sebaceo | talgdruesen | of jadassohn | jadassohn | de jadassohn | "
        "organoid | epidermal | epidermaler | epidermique | epidermico | epidermolytic | verrucous | "
        "verrucosus | verrukoes | verruqueux | verrucoso | inflammatory linear verrucous epidermal | ilven | "
        "linear | unilateral | unius lateris | systematized | keratotic | comedonicus | comedonic | komedo | "
        "comedonien | comedonico | follicular | hair follicle | woolly hair | white sponge | spongiosus | "
        "eccrine | ekkrin | apocrine | porokeratotic | mucinosus | becker | beckers | of becker | de becker | "
        "lipomatous | lipomatosus | lipomatosus superficialis | lipomatodes | lipomateux | connective tissue "
        "| bindegewebs | collagen | elastic | elasticus | depigmentosus | depigmented | achromic | achromicus "
        "| achromique | acromico | smooth muscle | cartilaginous | basaloid follicular",
        _NV,
        "turn",
        "ben_oth",
        "archive",
    ),
    Qualifier(
        "flammeus | vinosus | simplex | araneus | stellatus | spider | vascular | vascularis | vaskulaer | "
        "vasculaire | vascolare | sanguineus | telangiectatic | teleangiectaticus | strawberry | capillary | "
        "angiomatosus | angiomatous | cavernous | anemicus | anaemicus | anemic | anemico | anemique | port "
        "wine",
        _NV,
        "turn",
        "vasc",
        "archive",
    ),
)
