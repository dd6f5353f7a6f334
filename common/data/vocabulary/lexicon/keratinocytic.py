"""Basal and squamous cell carcinomas, their precursors, and benign keratoses."""

from typing import Final

from melfed.common.data.vocabulary.lexicon.entry import Entry, Qualifier

HEADS: Final = (
    Entry(
        "basal cell carcinoma | basal cell cancer | basal cell epithelioma | basalioma | basaliom | basaliome "
        "| carcinoma basal cell | basalzellkarzinom | basalzellcarcinom | basalzellenkarzinom | basalzelliges "
        "karzinom | basocellular carcinoma | carcinoma basocellular | carcinome basocellulaire | carcinoma "
        "basocelular | carcinoma basocellulare | epithelioma basocellulaire | epitelioma basocelular | "
        "epitelioma basocellulare | basaalcelcarcinoom | basocellulair carcinoom | basalcellcarcinoma | "
        "carcinoma de celulas basales | carcinoma a cellule basali | rodent ulcer | ulcus rodens | "
        "fibroepithelioma of pinkus | pinkus tumor",
        "bcc",
        "who",
    ),
    Entry("bcc", "bcc", "isic2019"),
    Entry(
        "squamous cell carcinoma | squamous cell cancer | carcinoma squamous cell | squamous carcinoma | "
        "epidermoid carcinoma | spinocellular carcinoma | plattenepithelkarzinom | plattenepithelcarcinom | "
        "spinaliom | spinalioma | spinozellulaeres karzinom | stachelzellkarzinom | carcinome epidermoide | "
        "carcinome spinocellulaire | carcinoma espinocelular | carcinoma epidermoide | carcinoma de celulas "
        "escamosas | carcinoma escamoso | carcinoma spinocellulare | carcinoma squamocellulare | carcinoma a "
        "cellule squamose | epitelioma espinocelular | epithelioma spinocellulaire | carcinoma escamocelular "
        "| plaveiselcelcarcinoom | spinocellulair carcinoom",
        "scc",
        "who",
    ),
    Entry("verrucous carcinoma | carcinoma cuniculatum | buschke loewenstein tumor", "scc_invasive", "archive"),
    Entry("scc", "scc", "isic2019"),
    Entry("squamous cell carcinoma and keratoacanthoma | sccka", "sccka", "milk10k"),
    Entry(
        "baso squamous carcinoma | basosquamous carcinoma | metatypical carcinoma",
        "malignant_keratinocytic",
        "archive",
    ),
    Entry(
        "bowen disease | bowens disease | bowen | m bowen | morbus bowen | bowen krankheit | maladie de bowen "
        "| enfermedad de bowen | morbo di bowen | malattia di bowen | doenca de bowen | ziekte van bowen | "
        "bowenoid carcinoma in situ | carcinoma in situ | carcinoma in situ of skin | intraepidermal "
        "carcinoma | intraepithelial carcinoma | intraepidermal squamous cell carcinoma | carcinome in situ | "
        "carcinoom in situ | erythroplasia of queyrat | erythroplasia queyrat | erythroplasie de queyrat | "
        "sccis | iec | bowenoid papulosis | bowenoide papulose",
        "bowen",
        "who",
    ),
    Entry(
        "keratoacanthoma | keratoakanthom | keratoacanthome | keratoacanthoom | queratoacantoma | "
        "cheratoacantoma | ceratoacantoma | keratoakanthoma",
        "ka",
        "who",
    ),
    Entry(
        "actinic keratosis | solar keratosis | solar or actinic keratosis | keratosis actinic | keratosis "
        "solar | aktinische keratose | keratose actinique | queratosis actinica | cheratosi attinica | "
        "queratose actinica | ceratose actinica | keratosis actinica | actinische keratose | keratosis "
        "senilis actinica | actinic keratoses | actinic cheilitis | solar cheilitis | solar or actinic "
        "cheilitis | cheilitis actinica | queilitis actinica | cheilite actinique | aktinische cheilitis",
        "ak",
        "who",
    ),
    Entry("ack", "ak", "pad-ufes-20"),
    Entry("ak", "ak", "isic2019"),
    Entry("akiec", "akiec", "ham10000"),
    Entry(
        "seborrheic keratosis | seborrhoic keratosis | keratosis seborrheic | seborrhoische keratose | "
        "seborrhoeische keratose | seborrheische keratose | keratose seborrheique | queratosis seborreica | "
        "cheratosi seborroica | queratose seborreica | ceratose seborreica | verruca seborrhoica | verruca "
        "seborrheica | verruga seborreica | verrue seborrheique | verruca seborroica | seborrheic wart | "
        "seborrhoische warze | seborrhoeische wrat | seborroische keratose | verruca senilis | alterswarze | "
        "ouderdomswrat | basal cell papilloma | stucco keratosis | stuccokeratosis | stukkokeratose | "
        "dermatosis papulosa nigra | inverted follicular keratosis",
        "sk",
        "who",
    ),
    Entry("sek", "sk", "pad-ufes-20"),
    Entry("sk | seb k | seb keratosis", "sk", "usage"),
    Entry("bkl", "bkl", "ham10000"),
    Entry(
        "benign keratosis | benign keratosis like lesion | benign keratosis like | benign keratoses | "
        "pigmented benign keratosis | benign keratinocytic lesion | gutartige keratose | keratosis benign",
        "bkl",
        "archive-legacy",
    ),
    Entry(
        "lichen planus like keratosis | lichen planus like | lichenoid keratosis | benign lichenoid keratosis "
        "| lplk | lpk | blk | keratosis lichenoid | lichenoide keratose | lichen planus artige keratose | "
        "keratose lichenoide | queratosis liquenoide | cheratosi lichenoide | queratose liquenoide",
        "lplk",
        "who",
    ),
    Entry(
        "solar lentigo | lentigo solar | solar lentigines | lentigo solaris | actinic lentigo | lentigo "
        "actinica | lentigo senilis | senile lentigo | lentigo senil | lentigo solaire | lentigo actinique | "
        "lentigine solare | lentigo attinica | age spot | liver spot | altersfleck | sun spot",
        "solar_lentigo",
        "who",
    ),
)
WHOLE: Final = (
    Entry("bzk | cbc", "bcc", "usage"),
    Entry("pek | cec | cscc", "scc", "usage"),
    Entry("ka", "ka", "usage"),
    Entry("sl", "solar_lentigo", "usage"),
    Entry(
        "actinic keratosis intraepidermal carcinoma | actinic keratoses and intraepithelial carcinoma | "
        "actinic keratoses solar keratoses or intraepithelial carcinoma bowens disease | actinic keratoses "
        "solar keratoses or intraepithelial carcinoma bowen disease",
        "akiec",
        "ham10000",
    ),
)

_BCC = frozenset({"bcc"})
_SCC = frozenset({"scc", "bcc", "mal_oth"})
QUALIFIERS: Final = (
    Qualifier(
        "nodular | nodulaer | nodulaire | nodulare | superficial | superficiell | superficiel | superficiale "
        "| oberflaechlich | superficialis | pigmented | pigmentiert | pigmentado | pigmentato | pigmente | "
        "sclerosing or morpheaform | morpheaform | morpheiform | morphoeiform | morpheic | sclerosing | "
        "sclerodermiform | sklerodermiform | infiltrating | infiltrative | micronodular | fibroepithelial | "
        "fibroeipthelial | adenoid | cystic | solid | solid cystic | ulcerated | ulzeriert | rodent | "
        "combined subtypes | with adnexal differentiation | with sarcomatoid differentiation | mixed | "
        "multifocal | sklerosierend | nodulocystic | nodulo cystic | nodular ulcerated | cell | nevoid | "
        "keratotic | exulcerated",
        _BCC,
    ),
    Qualifier(
        "well differentiated | moderately differentiated | poorly differentiated | well | moderately | poorly "
        "| differentiated | gut differenziert | maessig differenziert | schlecht differenziert | keratinizing "
        "| keratinising | acantholytic | adeno squamous | adenosquamous | clear cell | sarcomatoid | spindle "
        "cell | verrucous | keratoacanthoma type | desmoplastic | ulcerated | undifferentiated | bowenoid | "
        "bowens disease type",
        _SCC,
    ),
    Qualifier(
        "hypertrophic | hyperkeratotic | atrophic | pigmented | bowenoid | lichenoid | acantholytic | "
        "proliferative | inflamed | early | hyperkeratotisch | hypertroph | pigmentiert | field cancerization",
        frozenset({"ak", "akiec"}),
    ),
    Qualifier(
        "clonal | irritated | irritiert | gereizt | irritee | irritada | irritata | inflamed | acanthotic | "
        "akanthotisch | hyperkeratotic | reticulated | retikulaer | adenoid | pigmented | pigmentiert | "
        "pigmentado | pigmentato | pigmente | flat | thick | early | traumatized | regressing | regressive | "
        "regressed | multiple | senile | papillomatous | melanoacanthoma type",
        frozenset({"bkl"}),
    ),
)
