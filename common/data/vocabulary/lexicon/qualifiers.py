"""Words that stand beside the name of any lesion: doubt and denial, the past, grammar."""

from typing import Final

from melfed.common.data.vocabulary import sites
from melfed.common.data.vocabulary.lexicon.entry import ANY, Qualifier

_MALIGNANT = frozenset({"mel", "bcc", "scc", "mal_oth", "malignant", "metastasis", "akiec"})
_BENIGN = frozenset({"nv", "bkl", "df", "vasc", "ben_oth", "inf", "ak", "benign"})
QUALIFIERS: Final = (
    Qualifier(
        "? | no | not | non | without | negative | negativ | absence | absent | exclude | excluded | "
        "excluding | exclusion | rule out | ruled out | ruling out | rule | to be excluded | to be ruled out "
        "| never | neither | nor | denied | denies | free of | pseudo | kein | keinen | keinerlei | keine | "
        "nicht | ohne | ausgeschlossen | ausschluss | zum ausschluss | ausschluss von | nie | pas | pas de | "
        "sans | aucun | exclu | eliminer | a eliminer | sin | ningun | excluido | excluir | descartar | "
        "descartado | a descartar | senza | nessun | escluso | escludere | da escludere | sem | nenhum | nao "
        "| excluir | afastar | geen | niet | zonder | uitgesloten | uit te sluiten",
        ANY,
        "hedge",
    ),
    Qualifier(
        "suspected | suspect | suspicious | suspicion | suspicious for | suspicion of | susp | possible | "
        "possibly | probable | probably | likely | unlikely | presumed | presumptive | presumably | putative "
        "| questionable | query | doubtful | dubious | uncertain | unclear | unsure | maybe | may be | "
        "perhaps | could be | might be | cannot | can not | cannot exclude | cannot be excluded | consistent "
        "with | compatible with | suggestive of | suggestive | concerning for | concern for | worrisome for | "
        "consider | favor | favour | favored | favoured | in favor of | versus | vs | or | o | differential | "
        "differential diagnosis | diff | dd | ddx | equivocal | borderline | indeterminate | verdacht | "
        "verdaechtig | verdacht auf | va | vd | moeglich | moeglicherweise | wahrscheinlich | "
        "unwahrscheinlich | vermutlich | fraglich | unsicher | unklar | unklare | eventuell | evtl | am "
        "ehesten | oder | dringender verdacht auf | differentialdiagnose | differenzialdiagnose | suspecte | "
        "suspicion de | possible | probable | douteux | ou | evoquant | compatible avec | sospecha | sospecha "
        "de | sospechoso | posible | probablemente | dudoso | compatible con | sospetto | sospetta | sospetto "
        "di | possibile | probabile | dubbio | compatibile con | suspeita | suspeita de | suspeito | possivel "
        "| provavel | duvidoso | compativel com | verdenking | verdenking op | verdacht op | mogelijk | "
        "waarschijnlijk | twijfelachtig",
        ANY,
        "hedge",
    ),
    Qualifier(
        "like | simulating | simulator | simulant | mimic | mimicking | mimicker | imitating | imitator | "
        "resembling | melanomaehnlich | patient | in patient history | anamnesis | aehnlich | "
        "pseudomelanomatous | history | history of | family history of | family history | personal history of "
        "| anamnese | anamnestisch | antecedents | antecedents de | antecedente | antecedente de | status | "
        "status post | status nach | state after | zustand nach | zn | stp | previous | previously | prior | "
        "former | past | post | after | nach | excised | excision of | re excision | reexcision | "
        "nachexzision | scar of | scar after | narbe | narbe nach | cicatrix | cicatrice | cicatriz | risk | "
        "risk of | high risk of | screening | screening for | follow up | followup | control | kontrolle | "
        "nachsorge | surveillance | precursor | precursor of | precursor lesion | predisposition | "
        "susceptibility | treated | resected | removed | healed | regressed completely",
        ANY,
        "hedge",
    ),
    Qualifier(
        "arising in | arising from | arising within | arising on | associated with | in association with | "
        "developing in | developed in | originating in | ex | auf | auf dem boden | auf dem boden eines | in "
        "| within | on | on top of | with | sur | sobre | su | op | mit | associated to | entstanden in | "
        "entstanden auf | developpe sur | sviluppato su | desarrollado sobre | con | avec | com | met | nata "
        "su | aus",
        ANY,
        "link",
    ),
    Qualifier(
        "malignant | malign | maligno | malin | malignes | kwaadaardig | boesartig | cancerous | primary | "
        "primaer | primaire | primario | primitivo | primitif | recurrent | recidivant | persistent | "
        "recurrent or persistent | recurrent persistent | rezidiv | lokalrezidiv | recurrence | recurrence of "
        "| local recurrence | recidive | recidiva | residual | clinical | primary cutaneous | local "
        "recurrence of | locally recurrent",
        _MALIGNANT,
    ),
    Qualifier(
        "invasive | invasiv | invasif | invasivo | invasief | infiltrating | infiltrierend | infiltrante | "
        "microinvasive",
        frozenset({"mel", "scc", "bcc", "mal_oth"}),
        "invasive",
    ),
    Qualifier(
        "in situ | insitu | noninvasive | non invasive | nicht invasiv | non invasif | no invasivo | non "
        "invasivo | intraepidermal | intra epidermal | intra epithelial | intra epidermique | intraepithelial "
        "| intraepidermique | intraepidermico | pt is | ptis | tis | pis",
        frozenset({"mel", "scc", "akiec", "ak"}),
        "in situ",
    ),
    Qualifier("benign | benigne | benigno | gutartig | goedaardig | harmless", _BENIGN),
    Qualifier(
        "of | the | a | an | at | from | and | by | as | for | to | type | typ | tipo | subtype | variant | "
        "form | pattern | de | del | della | delle | dell | dello | des | du | d | la | le | les | l | el | "
        "los | las | da | do | dos | das | di | van | het | der | die | dem | den | am | im | vom | von | "
        "eines | einer | ein | eine | un | une | una | uno | e | y | et | und | en | i | il | lo | disorder | "
        "morphologic abnormality | finding | diagnosis | diagnose | nos | not otherwise specified | "
        "unspecified | lesion | laesion | lesao | lesione | tumor | tumeur | tumore | skin | haut | cutaneous "
        "| kutan | cutane | cutaneo | peau | piel | pele | pelle | huid | dermal | histology | histologically "
        "| histo | histologisch | histopathology | confirmed | proven | biopsy proven | histologically "
        "confirmed | gesichert | bestaetigt | typical | typisch | classic | classical | solitary | solitaer | "
        "region | area | unspecified site | other | part",
        ANY,
    ),
    Qualifier(sites.PHRASES, ANY),
)
