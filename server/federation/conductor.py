"""Which way a study is conducted."""

from melfed.common.study.protocol import StudyProtocol
from melfed.server.federation.one_round import OneRound
from melfed.server.federation.rounds import Rounds


def conductor(study: StudyProtocol) -> type[Rounds]:
    """Return what conducts a study with its clinics: rounds of training, or the one round of moments."""
    return OneRound if study.federation.mode == "one_round" else Rounds
