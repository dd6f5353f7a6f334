"""The doctor's look at budgets: whether what each approved study will still ask of this clinic's ε is there."""

from collections.abc import Sequence

from melfed.client.config.clinic import ClinicConfig
from melfed.client.config.policy import ClinicPolicy
from melfed.client.ledger.rows import LedgerRow
from melfed.common.doctor.steps import Finding, bad, doubtful, good, skipped
from melfed.common.errors import MelfedError
from melfed.common.study.protocol import StudyProtocol


def budgets(config: ClinicConfig) -> Finding:
    """Judge whether this clinic could end the runs that it has approved; a study known by its digest alone is not."""
    from melfed.client.approval.approvals import approved, approved_study, effective_policy
    from melfed.client.approval.study_accounts import ledger_of

    try:
        policy, ledger = effective_policy(config), ledger_of(config)
        studies = [study for approval in approved(config) if (study := approved_study(config, approval.digest))]
        rows = ledger.rows if ledger else ()
        lacking = [text for study in studies if study.privacy is not None for text in _lacking(policy, study, rows)]
    except PermissionError:
        return skipped("this user may not read the clinic's state")
    except MelfedError as error:
        return bad(str(error), "mend that; until then private studies are declined")
    if lacking:
        mend = "decide whether policy.epsilon may be raised, or approve with more --runs or --epsilon; else revoke it"
        return doubtful("; ".join(lacking), mend)
    return good(f"what {len(studies)} approved {'study' if len(studies) == 1 else 'studies'} will ask is left")


def _lacking(policy: ClinicPolicy, study: StudyProtocol, rows: Sequence[LedgerRow]) -> list[str]:
    """Return why a study's last run that has begun, and one to come, would be declined."""
    from melfed.client.approval.run_budget import terms_of
    from melfed.client.approval.study_accounts import by_study, cannot_end
    from melfed.client.worker.disclosure import in_full

    begun = list(by_study(rows).get(study.digest, {}))
    to_come: list[str | None] = [None] if len(begun) < terms_of(policy, study.digest).runs else []
    found = [(run, cannot_end(policy, study, rows, run)) for run in (*begun[-1:], *to_come)]
    return [
        f"study {study.name}, {'a run to come' if run is None else f'run {run}'}: {in_full(error)}"
        for run, error in found
        if error is not None
    ]
