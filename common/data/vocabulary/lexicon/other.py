"""Everything else: dermatofibroma, vessels, other benign lesions, other cancers, diseases that are no tumour."""

from typing import Final

from melfed.common.data.vocabulary.lexicon.entry import Entry, Qualifier

HEADS: Final = (
    Entry(
        "dermatofibroma | dermatofibrom | dermatofibrome | dermatofibroom | dermatofibromata | histiocytoma | "
        "histiozytom | histiocytome | istiocitoma | fibrous histiocytoma | benign fibrous histiocytoma | "
        "fibroma durum | fibroma en pastille",
        "df",
        "who",
    ),
    Entry("df", "df", "ham10000"),
    Entry(
        "hemangioma | haemangiom | hemangiome | hemangioom | emangioma | angioma | angiom | angiome | angioom "
        "| angiokeratoma | angiokeratom | angiokeratome | angioqueratoma | angiocheratoma | angioceratoma | "
        "lymphangioma | lymphangiom | linfangioma | hemangiolymphangioma | cherry angioma | senile angioma | "
        "spider angioma | vascular spider | rubinfleck | punto rubi | punto rubino | tache rubis",
        "vasc",
        "who",
    ),
    Entry(
        "vascular lesion | vascular skin lesion | vascular | vascular malformation | vaskulaere laesion | "
        "lesion vasculaire | lesion vascular | lesione vascolare | lesao vascular | gefaessfehlbildung | port "
        "wine stain | feuermal | salmon patch | storchenbiss | telangiectasia | telangiectases | "
        "teleangiektasie | telangiectasie | venous lake | arteriovenous hemangioma | arterio venous "
        "malformation | venous malformation | capillary malformation | capillary vascular malformation | "
        "glomus tumor | glomangioma | glomangiomyoma | angiolymphoid hyperplasia | angiolymphoid hyperplasia "
        "with eosinophilia | acroangiodermatitis of mali | acroangiodermatitis",
        "vasc",
        "archive",
    ),
    Entry("vasc", "vasc", "ham10000"),
    Entry(
        "pyogenic granuloma | granuloma pyogenic | granuloma pyogenicum | granuloma telangiectaticum | "
        "granuloma teleangiectaticum | lobular capillary hemangioma | botryomycome | botriomicoma | granuloma "
        "piogenico | granuloma piogenic | granulome pyogenique | pyogenes granulom | teleangiektatisches "
        "granulom",
        "vasc",
        "who",
    ),
    Entry(
        "hemorrhage | haemorrhage | einblutung | blutung | hematoma | haematoma | haematom | hematome | "
        "ematoma | subungual hematoma | subungual hemorrhage | subcorneal hematoma | subcorneal hemorrhage | "
        "black heel | talon noir | hemorragia | hemorragie | emorragia",
        "vasc",
        "archive",
    ),
    Entry(
        "lentigo | lentigines | lentigo nos | ink spot lentigo | lentigine | lentigo simplex | simple lentigo "
        "| lentigo simple | melanotic lentigo | reticulated black solar lentigo | reticulated lentigo",
        "lentigo",
        "archive-legacy",
    ),
    Entry(
        "ephelis | ephelides | freckle | freckles | sommersprosse | cafe au lait macule | cafe au lait spot | "
        "cafe au lait patch | cafe au lait macule or patch | cafe au lait fleck | cafe au lait | melanotic "
        "macule | labial melanotic macule | mucosal melanotic macule | mucosal melanosis | genital melanosis "
        "| genital melanotic macule | acral melanotic macule | vulvar melanosis | penile melanosis | "
        "melanosis | labial lentigo | flat melanotic pigmentation",
        "ben_oth",
        "archive",
    ),
    Entry("hyperpigmentation | postinflammatory hyperpigmentation | post inflammatory hyperpigmentation", "inf", "ddi"),
    Entry(
        "melanoacanthoma | clear cell acanthoma | large cell acanthoma | acantholytic acanthoma | "
        "epidermolytic acanthoma | acanthoma | klarzellakanthom | porokeratosis | porokeratosis of mibelli | "
        "disseminated actinic porokeratosis | disseminated superficial actinic porokeratosis | porokeratosis "
        "actinic | dsap | porokeratose | ilven | warty dyskeratoma | focal acral hyperkeratosis",
        "ben_oth",
        "archive",
    ),
    Entry(
        "acrochordon | skin tag | fibroepithelial polyp | soft fibroma | fibroma molle | fibroma | fibrom | "
        "fibrome | pendulous fibroma | fibrous papule | angiofibroma | angiofibroma or fibrous papule | "
        "angiofibrom | acquired digital fibrokeratoma | fibrokeratoma | fibropapilloma | papilloma | scar | "
        "keloid | hypertrophic scar | keloid scar | narbenkeloid | cheloide | queloide",
        "ben_oth",
        "archive",
    ),
    Entry(
        "sebaceous hyperplasia | talgdruesenhyperplasie | hyperplasie sebacee | hiperplasia sebacea | "
        "iperplasia sebacea | senile sebaceous hyperplasia | sebaceous adenoma | sebaceoma | fordyce spots | "
        "trichofolliculoma | trichoepithelioma | trichoepitheliom | desmoplastic trichoepithelioma | "
        "trichoblastoma | trichilemmoma | tricholemmoma | pilomatricoma | pilomatrixoma | pilomatrixom | "
        "fibrofolliculoma | trichodiscoma | adnexal tumor | benign adnexal tumor | poroma | eccrine poroma | "
        "hidradenoma | hidrocystoma | hidrocystom | syringoma | syringom | chondroid syringoma | spiradenoma "
        "| cylindroma | cylindoma | zylindrom | syringocystadenoma papilliferum | supernumerary nipple | "
        "accessory nipple",
        "ben_oth",
        "archive",
    ),
    Entry(
        "cyst | zyste | kyste | quiste | cisti | cisto | epidermal cyst | epidermoid cyst | epidermal "
        "inclusion cyst | infundibular cyst | infundibular or epidermal cyst | sebaceous cyst | pilar cyst | "
        "trichilemmal cyst | inclusion cyst | mucous cyst | digital mucous cyst | steatocystoma | atherom | "
        "atheroma | talgzyste | comedo | komedo | milia | milium | dilated pore | dilated pore of winer",
        "ben_oth",
        "archive",
    ),
    Entry(
        "lipoma | lipom | lipome | angiolipoma | neurofibroma | neurofibrom | neurofibrome | neuroma | "
        "schwannoma | granular cell tumor | leiomyoma | leiomyom | angioleiomyoma | piloleiomyoma | cellular "
        "neurothekeoma | neurothekeoma | dermatomyofibroma | nodular fasciitis | smooth muscle hamartoma | "
        "juvenile xanthogranuloma | xanthogranuloma | xanthoma | xanthomas | xanthelasma | verruciform "
        "xanthoma | reticulohistiocytosis | mastocytoma | mastocytosis | mastozytom | langerhans cell "
        "histiocytosis | accessory tragus | osteoma cutis | exogenous | tattoo | taetowierung | tattoo "
        "pigment | foreign body granuloma | foreign body",
        "ben_oth",
        "archive",
    ),
    Entry("ben oth | benoth | benign other", "ben_oth", "milk10k"),
    Entry(
        "benign collision | collision only benign proliferations | benign lesion | benign tumor | benign neoplasm",
        "benign",
        "archive",
    ),
    Entry(
        "wart | warts | warze | verrue | verruga | verruca | verruca vulgaris | viral wart | plantar wart | "
        "common wart | wrat | viruswarze | verruca plana | condyloma | condyloma acuminatum | condyloma "
        "accuminatum | molluscum | molluscum contagiosum | dellwarze",
        "inf",
        "archive",
    ),
    Entry(
        "inflammatory or infectious disease | inflammatory | infectious | inflammatory disease | inflammation | inf",
        "inf",
        "milk10k",
    ),
    Entry("non neoplastic | genodermatoses", "inf", "fitzpatrick17k"),
    Entry(
        "acanthosis nigricans | acne | acne vulgaris | acquired autoimmune bullous diseaseherpes gestationis "
        "| acrodermatitis enteropathica | allergic contact dermatitis | aplasia cutis | behcets disease | "
        "calcinosis cutis | cheilitis | dariers disease | dermatomyositis | drug eruption | drug induced "
        "pigmentary changes | dyshidrotic eczema | eczema | ehlers danlos syndrome | epidermolysis bullosa | "
        "erythema annulare centrifigum | erythema elevatum diutinum | erythema multiforme | erythema nodosum "
        "| factitial dermatitis | fixed eruptions | folliculitis | granuloma annulare | hailey hailey disease "
        "| hidradenitis | ichthyosis vulgaris | incontinentia pigmenti | keratosis pilaris | lichen "
        "amyloidosis | lichen planus | lichen simplex | livedo reticularis | lupus erythematosus | lupus "
        "subacute | lyme disease | mucinosis | myiasis | necrobiosis lipoidica | nematode infection | "
        "neurodermatitis | neurotic excoriations | neutrophilic dermatoses | papilomatosis confluentes and "
        "reticulate | paronychia | pediculosis lids | perioral dermatitis | photodermatoses | pityriasis "
        "lichenoides chronica | pityriasis rosea | pityriasis rubra pilaris | porphyria | prurigo nodularis | "
        "psoriasis | pustular psoriasis | rhinophyma | rosacea | sarcoidosis | scabies | scleroderma | "
        "scleromyxedema | seborrheic dermatitis | stasis edema | stevens johnson syndrome | striae | sun "
        "damaged skin | tick bite | tungiasis | urticaria | urticaria pigmentosa | vitiligo | xeroderma "
        "pigmentosum | neurofibromatosis | tuberous sclerosis",
        "inf",
        "fitzpatrick17k",
    ),
    Entry(
        "abrasions ulcerations and physical injuries | abscess | acne cystic | coccidioidomycosis | eczema "
        "spongiotic dermatitis | graft vs host disease | lymphocytic infiltrations | morphea | onychomycosis "
        "| reactive lymphoid hyperplasia | tinea pedis | tinea",
        "inf",
        "ddi",
    ),
    Entry(
        "dermatitis | ekzem | eczeme | atopic dermatitis | insect bite | herpes zoster | impetigo | "
        "chondrodermatitis | chondrodermatitis nodularis helicis | lichen sclerosus | lichen | callus | "
        "clavus",
        "inf",
        "usage",
    ),
    Entry(
        "merkel cell carcinoma | merkelzellkarzinom | carcinome a cellules de merkel | carcinoma de celulas "
        "de merkel | carcinoma a cellule di merkel | merkelcelcarcinoom | merkel cell proliferation | mcc | "
        "kaposi sarcoma | kaposi sarkom | sarcoma de kaposi | sarcome de kaposi | sarcoma di kaposi | "
        "angiosarcoma | angiosarkom | hemangioendothelioma | dermatofibrosarcoma protuberans | "
        "dermatofibrosarcoma | dfsp | atypical fibroxanthoma | atypisches fibroxanthom | afx | pleomorphic "
        "dermal sarcoma | malignant fibrous histiocytoma | leiomyosarcoma | liposarcoma | fibrosarcoma | "
        "sarcoma | epithelioid sarcoma | clear cell sarcoma | melanoma of soft parts | malignant melanoma of "
        "soft parts",
        "other_malignant",
        "who",
    ),
    Entry(
        "mycosis fungoides | sezary syndrome | lymphoma | lymphom | lymphome | linfoma | cutaneous lymphoma | "
        "malignant cutaneous lymphoma | b cell lymphoma | t cell lymphoma | cutaneous t cell lymphoma | "
        "cutaneous b cell lymphoma | subcutaneous t cell lymphoma | lymphomatoid papulosis | leukemia cutis | "
        "blastic plasmacytoid dendritic cell neoplasm | ctcl | cbcl",
        "other_malignant",
        "who",
    ),
    Entry(
        "paget disease | pagets disease | morbus paget | extramammary paget disease | extra mammary paget "
        "disease | empd | sebaceous carcinoma | talgdruesenkarzinom | porocarcinoma | eccrine porocarcinoma | "
        "hidradenocarcinoma | microcystic adnexal carcinoma | adnexal carcinoma | apocrine carcinoma | "
        "mucinous carcinoma | trichilemmal carcinoma | pilomatrical carcinoma | adenoid cystic carcinoma | "
        "metastatic carcinoma | cutaneous metastasis of carcinoma | metastasis of carcinoma | skin metastasis "
        "of internal solid cancer | metastatic adenocarcinoma | adenocarcinoma",
        "other_malignant",
        "archive",
    ),
    Entry("mal oth | maloth | malignant other", "mal_oth", "milk10k"),
    Entry("malignant epidermal", "malignant_epidermal", "fitzpatrick17k"),
    Entry("malignant dermal", "other_malignant", "fitzpatrick17k"),
    Entry("benign dermal | benign epidermal", "benign", "fitzpatrick17k"),
    Entry(
        "malignant tumor | malignant neoplasm | malignancy | skin cancer | cancer | hautkrebs | malignom | "
        "malignant lesion | malignant neoplasm of skin | cancer de la peau | cancer de piel | cancer da pele "
        "| huidkanker | tumore maligno",
        "malignant",
        "usage",
    ),
    Entry(
        "collision at least one malignant proliferation | malignant collision | collision tumor | collision | "
        "kollisionstumor",
        "collision",
        "archive",
    ),
    Entry("non melanoma skin cancer | nonmelanoma skin cancer | nmsc | non melanoma | nonmelanoma", "open", "usage"),
    Entry(
        "pigmented lesion | pigmented skin lesion | pigmentierte laesion | lesion pigmentada | lesion "
        "pigmentee | dysplasia",
        "open",
        "usage",
    ),
)
WHOLE: Final = (
    Entry("benign | gutartig | benigne | benigno", "benign", "isic2020"),
    Entry("malignant | boesartig | maligne | maligno", "malignant", "isic2020"),
    Entry("indeterminate", "indeterminate", "archive"),
    Entry("indeterminate benign | indeterminate malignant", "indeterminate", "archive-legacy"),
    Entry("indeterminate epidermal proliferations", "ak", "archive"),
    Entry(
        "metastasis | metastases | metastase | skin metastasis | cutaneous metastasis | hautmetastase | metastatic",
        "metastasis",
        "usage",
    ),
    Entry("carcinoma | karzinom | carcinom | carcinome | carcinoom | epithelioma", "malignant_epidermal", "usage"),
    Entry("pg", "vasc", "usage"),
)

QUALIFIERS: Final = (
    Qualifier("atypical | atypisch", frozenset({"df", "vasc"})),
    Qualifier(
        "pigmented | aneurysmal | cellular | epithelioid | hemosiderotic | cherry | hobnail | infantile | "
        "tufted | senile | eruptive | thrombosed | thrombosiert | cavernous | deep | superficial | verrucous "
        "| capillary | sclerosing | lobular | solitary | multiple | acquired | congenital | mixed | subungual "
        "| mucosal | dermal and subcutaneous | traumatic | spider | ruptured | inflamed | irritated | common "
        "| plantar | facial | periungual | penile | pleomorphic | plexiform | zellreich | sclerotic | "
        "hypertrophic | eosinophil",
        frozenset({"df", "vasc", "ben_oth", "inf", "benign"}),
    ),
    Qualifier(
        "anaplastic large cell | follicle center | marginal zone | large b cell | folliculotropic | "
        "epithelioid | extra mammary | mammary | nodular | pleomorphic | undifferentiated | well "
        "differentiated",
        frozenset({"mal_oth"}),
    ),
)
