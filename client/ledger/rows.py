"""What the rows of a privacy ledger say, and which row may follow which."""

from collections.abc import Callable, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from melfed.client.ledger.journal import damage
from melfed.client.privacy.accounting import Mechanism
from melfed.common.hash_chain import Content

Purpose = Literal["training", "moments", "evaluation", "subgroups", "baseline", "counts"]
ChargeStatus = Literal["reserved", "spent", "released"]

_BEFORE: dict[ChargeStatus, ChargeStatus] = {"spent": "reserved", "released": "spent"}
_Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Name = Annotated[str, Field(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
_Count = Annotated[int, Field(ge=-(2**53), le=2**53)]
# JSON has no tuples: the sequence may come as a list, its items stay strict.
_Values = Annotated[tuple[_Count, ...], Field(strict=False, min_length=1, max_length=16)]


class ChargeTerms(BaseModel):
    """What all rows of a charge agree in.

    Attributes:
        request: digest of the question that the charge answers; None in ledgers of older versions, and where a charge
            answers whoever asks. The same mechanism for another question is another charge.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    data: _Digest
    study: _Digest
    run: _Name
    round: int = Field(ge=0, le=2**53)
    purpose: Purpose
    unit: Literal["patient", "lesion", "image"]
    sampling_rate: float = Field(gt=0, le=1)
    noise_multiplier: float = Field(ge=0, allow_inf_nan=False)
    steps: int = Field(ge=1, le=2**53)
    delta: float = Field(gt=0, lt=1)
    request: _Digest | None = None


class LedgerRow(ChargeTerms):
    """A line of a ledger.

    Attributes:
        charge: number of the charge, counted over `reserved` rows from 1.
        epsilon: total of all charges reserved so far at this row's delta; None: unbounded (one of them had no noise,
            or next to none).
        values: in the `released` row of a charge for counts, the noised counts themselves, to be repeated to whoever
            asks again.
    """

    sequence: int
    time: str
    previous: _Digest
    charge: int = Field(ge=1)
    status: ChargeStatus
    epsilon: float | None = Field(ge=0, allow_inf_nan=False)
    values: _Values | None = None
    hash: _Digest


class DataRow(BaseModel):
    """A line that says that the clinic's data have changed: charges after it are of these, and those before it count.

    Attributes:
        data: fingerprint of the data from here on.
        by: who decided it.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    sequence: int
    time: str
    previous: _Digest
    status: Literal["continued"]
    data: _Digest
    by: _Name = Field(min_length=1)
    hash: _Digest


agreed: Callable[[ChargeTerms], tuple[object, ...]] = attrgetter(*ChargeTerms.model_fields)
"""Return what all rows of a charge agree in, for comparison."""


class Book:
    """The rows of a ledger, checked one after another."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[LedgerRow] = []
        self.changes: list[DataRow] = []
        self.data: str | None = None
        self.history: list[Mechanism] = []
        self.latest: list[LedgerRow] = []
        self.unreleased: dict[tuple[object, ...], int] = {}
        self.noiseless = False
        self.counts: dict[tuple[str, str, str], tuple[int, ...]] = {}
        """Noised counts that were released, by data, study and run."""
        self.charged: dict[str, dict[str, list[LedgerRow]]] = {}
        """The `reserved` rows, by study and run."""

    def add(self, content: Content) -> None:
        """Take the next row. Raises LedgerError where it is no row, or cannot follow those before."""
        number = len(self.rows) + len(self.changes) + 1
        try:
            if content.get("status") == "continued":
                self._continue(DataRow.model_validate(content), number)
                return
            row = LedgerRow.model_validate(content)
        except ValidationError as error:
            raise damage(self.path, number, first_problem(error)) from None
        reason = self._contradiction(row)
        if reason:
            raise damage(self.path, number, reason)
        self.rows.append(row)
        self.data = row.data
        if row.status == "reserved":
            self.history.append(Mechanism(row.sampling_rate, row.noise_multiplier, row.steps))
            self.noiseless |= row.noise_multiplier == 0
            self.latest.append(row)
            self.charged.setdefault(row.study, {}).setdefault(row.run, []).append(row)
            self.unreleased[agreed(row)] = row.charge
        else:
            self.latest[row.charge - 1] = row
        if row.status == "released":
            del self.unreleased[agreed(row)]
            if row.values is not None:
                # What was told before is what is repeated.
                self.counts.setdefault((row.data, row.study, row.run), row.values)

    def _continue(self, row: DataRow, number: int) -> None:
        if self.data in (None, row.data):
            raise damage(self.path, number, "goes on with other data, but there is nothing that it changes")
        self.changes.append(row)
        self.data = row.data
        # Their results are of data that are no more: nobody takes them up again, and what they cost stays.
        self.unreleased.clear()

    def _contradiction(self, row: LedgerRow) -> str | None:
        if self.data is not None and row.data != self.data:
            return f"is of data {row.data[:12]}, but the rows before it are of {self.data[:12]}"
        if row.epsilon is not None and (self.noiseless or row.noise_multiplier == 0):
            return "states an epsilon, though a charge so far had no noise"
        if row.values is not None and (row.purpose, row.status) != ("counts", "released"):
            return f"has values, though it is {row.status} for {row.purpose}"
        return self._out_of_turn(row)

    def _out_of_turn(self, row: LedgerRow) -> str | None:
        if row.status == "reserved":
            if (other := self.unreleased.get(agreed(row))) is not None:
                return f"reserves what charge {other} has reserved, and not released"
            return None if row.charge == len(self.latest) + 1 else f"charge {row.charge} is out of turn"
        before = self.latest[row.charge - 1] if row.charge <= len(self.latest) else None
        if before is None or before.status != _BEFORE[row.status]:
            return f"charge {row.charge} is {row.status} without having been {_BEFORE[row.status]}"
        if agreed(before) != agreed(row):
            return f"charge {row.charge} is not what was reserved"
        return None


_INTERNAL = {"sequence", "previous", "hash", "request", "values"}
EXPORTED = tuple(name for name in LedgerRow.model_fields if name not in _INTERNAL)
"""Fields of a charge that mean something outside the chain."""


def charges(rows: Sequence[LedgerRow]) -> list[dict[str, Any]]:
    """Return a line a charge, in the order of reservation: the reserved row's fields, with the latest status.

    The `epsilon` of each is that of composing its mechanism with those of all lines before.
    """
    status = {row.charge: row.status for row in rows}
    reserved = (row for row in rows if row.status == "reserved")
    return [{name: getattr(row, name) for name in EXPORTED} | {"status": status[row.charge]} for row in reserved]


def first_problem(error: ValidationError) -> str:
    """Return pydantic's first complaint as "field: reason"."""
    problem = error.errors(include_url=False, include_input=False)[0]
    return f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
