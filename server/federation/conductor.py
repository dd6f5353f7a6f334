"""Which way a study is conducted."""

from melfed.common.study.protocol import StudyProtocol
from melfed.server.federation.rounds import Rounds


def conductor(study: StudyProtocol) -> type[Rounds]:
    """Return what conducts a study with its clinics: rounds of training, the one round of moments, or both."""
    if study.federation.mode != "one_round" and not study.federation.asks_for_moments:
        return Rounds
    from melfed.server.federation.one_round import OneRound, SolvedStart  # they load torch, half a gigabyte

    return OneRound if study.federation.mode == "one_round" else SolvedStart
