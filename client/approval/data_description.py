"""How a clinic's table is read, shown to its own people before they approve a study: afterwards nothing is refused."""

from dataclasses import dataclass

from melfed.client.config.clinic import ClinicConfig
from melfed.client.data.loading import taken_each
from melfed.common.data.decisions import UnknownWords
from melfed.common.data.understood import Understanding, read_to_show, understand
from melfed.common.errors import DataError, PolicyError
from melfed.common.study.protocol import StudyProtocol

MELANOMA = ("mel",)


@dataclass(frozen=True)
class TableReading:
    """How a clinic's table is read for a study.

    Attributes:
        understood: what was understood; None where the table cannot be read.
        unknown: the diagnoses that nobody knows, as the error to leave with; None where there are none.
        problem: why the table cannot be read.
    """

    understood: Understanding | None = None
    unknown: UnknownWords | None = None
    problem: str | None = None


def read_for(config: ClinicConfig, study: StudyProtocol | None) -> TableReading:
    """Read a clinic's table as a study would.

    Args:
        config: the clinic's.
        study: whose positives count; None for melanoma.
    """
    positive = study.data.positive if study else MELANOMA
    try:
        table, unknown = read_to_show(config.data_folder.resolve(), positive, config.data.read_options())
    except UnknownWords as error:
        return TableReading(unknown=error, problem=str(error))
    except (DataError, PolicyError) as error:
        return TableReading(problem=str(error))
    own = taken_each(table.records, config.data.sources)
    return TableReading(understand(table, own, unknown), unknown)


def refuse_unknown_words(config: ClinicConfig, study: StudyProtocol | None) -> None:
    """Raise UnknownWords where a clinic's table has diagnoses that nobody knows; a clinic without a table has none."""
    if (unknown := read_for(config, study).unknown) is not None:
        raise unknown
