"""Body sites: the words of published tables and of clinics, brought to the nine sites that melfed tells apart.

The ISIC archive's hierarchy is read from its own package; which of its branches is which site is said here. Palms and
soles, and what is called acral, are `palms/soles`; a hand or foot without more is its limb, as the archive and ISIC
2019 have it.
"""

from collections.abc import Iterable
from functools import cache
from typing import Final

from isic_metadata.anatom_site_hierarchical import AnatomSiteEnum

from melfed.common.data.vocabulary.missing import says_nothing
from melfed.common.data.vocabulary.spelling import plain, stems
from melfed.common.data.vocabulary.terms import Term

SITES: Final = (
    "head/neck",
    "upper extremity",
    "lower extremity",
    "torso",
    "anterior torso",
    "posterior torso",
    "lateral torso",
    "palms/soles",
    "oral/genital",
)

BRANCHES: Final = {
    "Head and neck": "head/neck",
    "Head and neck:Head:Face:Mouth": "oral/genital",
    "Trunk": "torso",
    "Trunk:Anterior trunk": "anterior torso",
    "Trunk:Lateral trunk": "lateral torso",
    "Trunk:Posterior trunk": "posterior torso",
    "Upper extremity": "upper extremity",
    "Upper extremity:Hand:Palm of hand": "palms/soles",
    "Lower extremity": "lower extremity",
    "Lower extremity:Foot:Sole of foot": "palms/soles",
    "Anogenital region": "oral/genital",
}
"""The site of a branch of the archive and of everything below it that has no site of its own."""
WORDS: Final = {
    "head/neck": (
        "head/neck | head neck | head neck face | head | neck | scalp | face | facial | ear | nose | lip | "
        "cheek | forehead | temple | chin | eyelid | jaw | mandible | nape | eyebrow | periocular | perioral "
        "| scalp and neck | head and face | helix | vertex | postauricular | preauricular | canthus | kopf | "
        "hals | kopf hals | gesicht | kopfhaut | capillitium | ohr | nase | lippe | wange | stirn | schlaefe "
        "| kinn | nacken | augenlid | lid | tete | cou | tete et cou | visage | cuir chevelu | oreille | nez "
        "| levre | joue | front | tempe | menton | nuque | paupiere | cabeza | cuello | cabeza y cuello | "
        "cara | cuero cabelludo | oreja | nariz | labio | mejilla | frente | sien | menton | nuca | parpado | "
        "testa | collo | testa e collo | viso | volto | cuoio capelluto | orecchio | naso | labbro | guancia "
        "| fronte | tempia | mento | palpebra | cabeca | pescoco | cabeca e pescoco | face | rosto | couro "
        "cabeludo | orelha | bochecha | testa | queixo | hoofd | hals | hoofd hals | gezicht | hoofdhuid | "
        "oor | neus | lip | wang | voorhoofd | slaap | kin | nek | ooglid"
    ),
    "upper extremity": (
        "upper extremity | upper extremities | upper limb | upper limbs | arm | arms | forearm | upper arm | "
        "lower arm | elbow | shoulder | wrist | hand | hands | dorsal hand | dorsum of hand | back of hand | "
        "finger | fingers | thumb | fingernail | oberarm | unterarm | obere extremitaet | ellenbogen | "
        "schulter | handgelenk | handruecken | daumen | bras | avant bras | membre superieur | membres "
        "superieurs | coude | epaule | poignet | main | doigt | pouce | dos de la main | brazo | antebrazo | "
        "extremidad superior | miembro superior | codo | hombro | muneca | mano | dedo de la mano | braccio | "
        "avambraccio | arto superiore | arti superiori | gomito | spalla | polso | dito della mano | braco | "
        "antebraco | membro superior | cotovelo | ombro | pulso | mao | dedo da mao | bovenarm | onderarm | "
        "bovenste extremiteit | elleboog | schouder | pols | vinger | duim"
    ),
    "lower extremity": (
        "lower extremity | lower extremities | lower limb | lower limbs | leg | legs | lower leg | upper leg "
        "| thigh | knee | shin | calf | ankle | foot | feet | dorsal foot | dorsum of foot | back of foot | "
        "toe | toes | toenail | buttock | buttocks | hip | gluteal | heel dorsal | instep | pretibial | "
        "popliteal | bein | beine | oberschenkel | unterschenkel | untere extremitaet | knie | wade | "
        "schienbein | knoechel | fuss | fussruecken | zehe | gesaess | huefte | jambe | cuisse | membre "
        "inferieur | membres inferieurs | genou | mollet | cheville | pied | orteil | fesse | hanche | pierna "
        "| muslo | extremidad inferior | miembro inferior | rodilla | pantorrilla | tobillo | pie | dedo del "
        "pie | nalga | gluteo | cadera | gamba | coscia | arto inferiore | arti inferiori | ginocchio | "
        "polpaccio | caviglia | piede | dito del piede | gluteo | anca | perna | coxa | membro inferior | "
        "joelho | panturrilha | tornozelo | pe | dedo do pe | nadega | quadril | been | bovenbeen | onderbeen "
        "| onderste extremiteit | knie | kuit | enkel | voet | teen | bil | heup"
    ),
    "torso": (
        "torso | trunk | truncal | body | stamm | rumpf | koerperstamm | tronc | tronco | torse | torace e "
        "dorso | romp | stam"
    ),
    "anterior torso": (
        "anterior torso | anterior trunk | torso front | torso front top half | torso front bottom half | "
        "chest | abdomen | abdominal | breast | sternum | belly | stomach | thorax | umbilicus | navel | "
        "clavicle | decollete | front of trunk | ventral trunk | brust | bauch | dekollete | nabel | "
        "brustkorb | mamma | poitrine | ventre | sein | nombril | pecho | vientre | seno | ombligo | torax | "
        "petto | addome | ventre | mammella | ombelico | torace | peito | abdome | barriga | mama | umbigo | "
        "borst | buik | navel"
    ),
    "posterior torso": (
        "posterior torso | posterior trunk | torso back | torso back top third | torso back middle third | "
        "torso back bottom third | back | upper back | lower back | mid back | scapula | lumbar | "
        "interscapular | shoulder blade | loin | ruecken | oberer ruecken | unterer ruecken | schulterblatt | "
        "dos | haut du dos | bas du dos | lombaire | espalda | dorso | schiena | costas | rug | onderrug | "
        "bovenrug"
    ),
    "lateral torso": "lateral torso | lateral trunk | flank | flanks | axilla | armpit | side of trunk | "
    "flanke | achsel | flanc | aisselle | flanco | axila | costado | fianco | ascella | "
    "flank | oksel",
    "palms/soles": (
        "palms/soles | palms soles | palm | palms | sole | soles | palmar | plantar | acral | acral palms or "
        "soles | palm of hand | sole of foot | palms and soles | heel | handflaeche | handinnenflaeche | "
        "fusssohle | sohle | ferse | akral | paume | plante du pied | plante | talon | palma | planta | palma "
        "de la mano | planta del pie | planta do pe | talon del pie | palmo | pianta del piede | pianta | "
        "tallone | palmo plantar | palmoplantar | calcanhar | handpalm | voetzool | hiel"
    ),
    "oral/genital": (
        "oral/genital | oral genital | oral or genital | genital | genitals | genital areas | genital area | "
        "genitalia | oral | mouth | anus | anal | perianal | anogenital | anogenital region | vulva | vagina "
        "| penis | scrotum | glans | groin genital | perineum | oral mucosa | mucosa | tongue | palate | "
        "gingiva | genitale | genitalbereich | mund | mundschleimhaut | schleimhaut | organes genitaux | "
        "bouche | muqueuse | genitales | boca | mucosa oral | genitali | bocca | genitais | genitalien | mond "
        "| slijmvlies | mucoso"
    ),
}
"""The words of each site, with ` | ` between them; case, accents and endings do not matter."""
NAILS: Final = "nail | nails | nail nos | acral nos | nagel | ongle | una | unghia | unha"
"""Words that say that it is acral, but not whether hand or foot: understood, and no site."""


def read_site(word: str) -> Term[str]:
    """One of `SITES`, from a word of a table; left and right and the words of position do not matter."""
    text = word.strip()
    value = _site(text)
    if value is None and (shorter := " ".join(part for part in plain(text).split() if part not in _POSITIONS)):
        value = _site(shorter)
    if value is not None:
        return Term(text, value, "known")
    missing = says_nothing(text) or stems(text) in _SILENT
    return Term(text, None, "missing" if missing else "unknown")


def read_site_levels(levels: Iterable[str | None]) -> Term[str]:
    """The site that several cells say, each more precisely than the one before: the archive's `anatom_site_1` to 5.

    The deepest level that is in the vocabulary decides.
    """
    terms = [read_site(level) for level in levels if level]
    known = [term for term in terms if term.value is not None]
    return (
        known[-1] if known else next((term for term in terms if term.reading == "unknown"), Term("", None, "missing"))
    )


def branch_site(path: str) -> str | None:
    """The site of a path of the archive (`Trunk:Posterior trunk`); None where the archive has a new region."""
    levels = path.split(":")
    return next(
        (BRANCHES[above] for end in range(len(levels), 0, -1) if (above := ":".join(levels[:end])) in BRANCHES), None
    )


def _site(text: str) -> str | None:
    return _by_stems().get(stems(text)) or _archive().get(plain(text))


@cache
def _by_stems() -> dict[tuple[str, ...], str]:
    return {stems(word): site for site, words in WORDS.items() for word in words.split("|")}


@cache
def _archive() -> dict[str, str]:
    found: dict[str, str] = {}
    for path in sorted((member.value for member in AnatomSiteEnum), key=lambda value: value.count(":")):
        if site := branch_site(path):
            found.setdefault(plain(path.rsplit(":", maxsplit=1)[-1]), site)
            found[plain(path)] = site
    return found


_POSITIONS: Final = (
    *("left", "right", "l", "r", "li", "re", "upper", "lower", "mid", "middle", "outer", "inner", "medial", "lateral"),
    *(
        "proximal",
        "distal",
        "anterior",
        "posterior",
        "dorsal",
        "ventral",
        "the",
        "of",
        "side",
        "region",
        "area",
        "skin",
    ),
    *("links", "rechts", "gauche", "droit", "droite", "izquierdo", "izquierda", "derecho", "derecha", "sinistro"),
    *("sinistra", "destro", "destra", "esquerdo", "esquerda", "direito", "direita"),
)
PHRASES: Final = " | ".join(
    [*WORDS.values(), NAILS, *_POSITIONS, *(member.value.rsplit(":", maxsplit=1)[-1] for member in AnatomSiteEnum)]
)
"""Every word of a site or position, with ` | ` between them: they may stand beside a diagnosis."""
_SILENT: Final = frozenset(stems(word) for word in NAILS.split("|"))
