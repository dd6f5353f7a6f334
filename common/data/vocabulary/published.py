"""The diagnoses that published data sets and terminologies write, as they write them.

They are no entries of their own: all are read by the lexicon. The documentation shows what each becomes, and a test
that none is unknown.
"""

from typing import Final

PUBLISHED: Final = {
    "ham10000": "akiec | bcc | bkl | df | mel | nv | vasc",
    "isic2019": "MEL | NV | BCC | AK | BKL | DF | VASC | SCC",
    "isic2020": (
        "nevus | melanoma | seborrheic keratosis | lentigo NOS | lichenoid keratosis | solar lentigo | "
        "cafe-au-lait macule | atypical melanocytic proliferation"
    ),
    "archive-legacy": (
        "actinic keratosis | adnexal tumor | AIMP | angiokeratoma | angioma | basal cell carcinoma | "
        "cafe-au-lait macule | dermatofibroma | ephelis | lentigo NOS | lentigo simplex | lichenoid keratosis "
        "| melanoma | melanoma metastasis | merkel cell carcinoma | mucosal melanosis | nevus | nevus spilus "
        "| seborrheic keratosis | solar lentigo | squamous cell carcinoma | clear cell acanthoma | atypical "
        "spitz tumor | acrochordon | angiofibroma or fibrous papule | neurofibroma | pyogenic granuloma | "
        "scar | sebaceous adenoma | sebaceous hyperplasia | verruca | atypical melanocytic proliferation | "
        "epidermal nevus | pigmented benign keratosis | vascular lesion"
    ),
    "milk10k": "AKIEC | BCC | BEN_OTH | BKL | DF | INF | MAL_OTH | MEL | NV | SCCKA | VASC",
    "pad-ufes-20": "ACK | BCC | MEL | NEV | SCC | SEK",
    "bcn20000": "MEL | NV | BCC | BKL | AK | SCC | DF | VASC",
    "ph2": "Common Nevus | Atypical Nevus | Melanoma",
    "derm7pt": (
        "basal cell carcinoma | blue nevus | clark nevus | combined nevus | congenital nevus | dermal nevus | "
        "dermatofibroma | lentigo | melanoma | melanoma (in situ) | melanoma (less than 0.76 mm) | melanoma "
        "(0.76 to 1.5 mm) | melanoma (more than 1.5 mm) | melanoma metastasis | melanosis | recurrent nevus | "
        "reed or spitz nevus | seborrheic keratosis | vascular lesion"
    ),
    "ddi": (
        "abrasions-ulcerations-and-physical-injuries | abscess | acne-cystic | acquired-digital-fibrokeratoma "
        "| acral-melanotic-macule | acrochordon | actinic-keratosis | angioleiomyoma | angioma | "
        "arteriovenous-hemangioma | atypical-spindle-cell-nevus-of-reed | basal-cell-carcinoma | "
        "basal-cell-carcinoma-nodular | basal-cell-carcinoma-superficial | benign-keratosis | "
        "blastic-plasmacytoid-dendritic-cell-neoplasm | blue-nevus | cellular-neurothekeoma | "
        "chondroid-syringoma | clear-cell-acanthoma | coccidioidomycosis | condyloma-accuminatum | "
        "dermatofibroma | dermatomyositis | dysplastic-nevus | eccrine-poroma | eczema-spongiotic-dermatitis "
        "| epidermal-cyst | epidermal-nevus | fibrous-papule | focal-acral-hyperkeratosis | folliculitis | "
        "foreign-body-granuloma | glomangioma | graft-vs-host-disease | hematoma | hyperpigmentation | "
        "inverted-follicular-keratosis | kaposi-sarcoma | keloid | leukemia-cutis | lichenoid-keratosis | "
        "lipoma | lymphocytic-infiltrations | melanocytic-nevi | melanoma | melanoma-acral-lentiginous | "
        "melanoma-in-situ | metastatic-carcinoma | molluscum-contagiosum | morphea | mycosis-fungoides | "
        "neurofibroma | neuroma | nevus-lipomatosus-superficialis | nodular-melanoma-(nm) | onychomycosis | "
        "pigmented-spindle-cell-nevus-of-reed | prurigo-nodularis | pyogenic-granuloma | "
        "reactive-lymphoid-hyperplasia | scar | sebaceous-carcinoma | seborrheic-keratosis | "
        "seborrheic-keratosis-irritated | solar-lentigo | squamous-cell-carcinoma | "
        "squamous-cell-carcinoma-in-situ | squamous-cell-carcinoma-keratoacanthoma | "
        "subcutaneous-t-cell-lymphoma | syringocystadenoma-papilliferum | tinea-pedis | trichilemmoma | "
        "trichofolliculoma | verruca-vulgaris | verruciform-xanthoma | wart | xanthogranuloma"
    ),
    "fitzpatrick17k": (
        "acanthosis nigricans | acne | acne vulgaris | acquired autoimmune bullous diseaseherpes gestationis "
        "| acrodermatitis enteropathica | actinic keratosis | allergic contact dermatitis | aplasia cutis | "
        "basal cell carcinoma | basal cell carcinoma morpheiform | becker nevus | behcets disease | "
        "calcinosis cutis | cheilitis | congenital nevus | dariers disease | dermatofibroma | dermatomyositis "
        "| disseminated actinic porokeratosis | drug eruption | drug induced pigmentary changes | dyshidrotic "
        "eczema | eczema | ehlers danlos syndrome | epidermal nevus | epidermolysis bullosa | erythema "
        "annulare centrifigum | erythema elevatum diutinum | erythema multiforme | erythema nodosum | "
        "factitial dermatitis | fixed eruptions | folliculitis | fordyce spots | granuloma annulare | "
        "granuloma pyogenic | hailey hailey disease | halo nevus | hidradenitis | ichthyosis vulgaris | "
        "incontinentia pigmenti | juvenile xanthogranuloma | kaposi sarcoma | keloid | keratosis pilaris | "
        "langerhans cell histiocytosis | lentigo maligna | lichen amyloidosis | lichen planus | lichen "
        "simplex | livedo reticularis | lupus erythematosus | lupus subacute | lyme disease | lymphangioma | "
        "malignant melanoma | melanoma | milia | mucinosis | mucous cyst | mycosis fungoides | myiasis | "
        "naevus comedonicus | necrobiosis lipoidica | nematode infection | neurodermatitis | "
        "neurofibromatosis | neurotic excoriations | neutrophilic dermatoses | nevocytic nevus | nevus "
        "sebaceous of jadassohn | papilomatosis confluentes and reticulate | paronychia | pediculosis lids | "
        "perioral dermatitis | photodermatoses | pilar cyst | pilomatricoma | pityriasis lichenoides chronica "
        "| pityriasis rosea | pityriasis rubra pilaris | porokeratosis actinic | porokeratosis of mibelli | "
        "porphyria | port wine stain | prurigo nodularis | psoriasis | pustular psoriasis | pyogenic "
        "granuloma | rhinophyma | rosacea | sarcoidosis | scabies | scleroderma | scleromyxedema | seborrheic "
        "dermatitis | seborrheic keratosis | solid cystic basal cell carcinoma | squamous cell carcinoma | "
        "stasis edema | stevens johnson syndrome | striae | sun damaged skin | superficial spreading melanoma "
        "ssm | syringoma | telangiectases | tick bite | tuberous sclerosis | tungiasis | urticaria | "
        "urticaria pigmentosa | vitiligo | xanthomas | xeroderma pigmentosum | benign dermal | benign "
        "epidermal | benign melanocyte | genodermatoses | inflammatory | malignant cutaneous lymphoma | "
        "malignant dermal | malignant epidermal | benign | malignant | non-neoplastic"
    ),
    "snomed": (
        "Malignant melanoma (disorder) | Malignant melanoma of skin (disorder) | Malignant melanoma of skin "
        "of trunk | Malignant melanoma of skin of back | Malignant melanoma of skin of face | Malignant "
        "melanoma of skin of scalp and/or neck | Malignant melanoma of skin of ear and/or external auditory "
        "canal | Malignant melanoma of skin of upper limb | Malignant melanoma of skin of lower limb | "
        "Malignant melanoma of skin of lip | Malignant melanoma of skin of eyelid | Primary malignant "
        "melanoma of skin | Superficial spreading malignant melanoma of skin | Nodular malignant melanoma of "
        "skin | Acral lentiginous malignant melanoma of skin | Amelanotic malignant melanoma of skin | "
        "Desmoplastic malignant melanoma of skin | Spindle cell malignant melanoma of skin | Epithelioid cell "
        "melanoma | Balloon cell malignant melanoma of skin | Mixed epithelioid and spindle cell melanoma | "
        "Nevoid malignant melanoma of skin | Regressing malignant melanoma of skin | Minimal deviation "
        "melanoma | Malignant blue nevus of skin | Malignant melanoma arising in congenital nevus | Malignant "
        "melanoma arising in intradermal nevus | Malignant melanoma in giant pigmented nevus | Malignant "
        "melanoma in junctional nevus | Malignant melanoma in precancerous melanosis | Malignant melanoma in "
        "Hutchinson's melanotic freckle | Hutchinson's melanotic freckle | Lentigo maligna | Lentigo maligna "
        "melanoma | Melanoma in situ of skin | Melanoma in situ of skin of trunk | Metastatic malignant "
        "melanoma | Secondary malignant melanoma of skin | Malignant melanoma, metastatic | Subungual "
        "malignant melanoma of skin | Mucosal melanoma | Mucosal lentiginous melanoma | Malignant melanoma of "
        "vulva | Malignant melanoma of eye | Malignant melanoma of choroid | Malignant melanoma of "
        "conjunctiva | Familial malignant melanoma of skin"
    ),
    "icdo": (
        "Malignant melanoma, NOS | Nodular melanoma | Balloon cell melanoma | Malignant melanoma, regressing "
        "| Amelanotic melanoma | Malignant melanoma in junctional nevus | Precancerous melanosis | Malignant "
        "melanoma in precancerous melanosis | Lentigo maligna | Lentigo maligna melanoma | Superficial "
        "spreading melanoma | Acral lentiginous melanoma, malignant | Desmoplastic melanoma, malignant | "
        "Neurotropic melanoma, malignant | Mucosal lentiginous melanoma | Malignant melanoma in giant "
        "pigmented nevus | Malignant melanoma in congenital melanocytic nevus | Mixed epithelioid and spindle "
        "cell melanoma | Epithelioid cell melanoma | Spindle cell melanoma, NOS | Spindle cell melanoma, type "
        "A | Spindle cell melanoma, type B | Blue nevus, malignant | Malignant Spitz tumor | Pigmented nevus, "
        "NOS | Balloon cell nevus | Halo nevus | Magnocellular nevus | Dysplastic nevus | Nonpigmented nevus "
        "| Junctional nevus, NOS | Intradermal nevus | Compound nevus | Congenital melanocytic nevus | "
        "Epithelioid and spindle cell nevus | Epithelioid cell nevus | Spindle cell nevus | Blue nevus, NOS | "
        "Cellular blue nevus | Atypical Spitz tumor | Pigmented epithelioid melanocytoma | Melanocytoma"
    ),
}
"""For each source its words, with ` | ` between them."""
