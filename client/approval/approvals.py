"""Which studies the clinic has approved: those that `clinic.yaml` lists, and those that `melfed-client approve` added.

An approval is of one study, a number of runs, and an ε over all of them. It is two files in the worker's state:
`DIGEST.json`, all this with who approved it and when, and, where the study itself was given, `DIGEST.yaml`. They are
read anew for every request, as is the policy in `clinic.yaml`: what is revoked counts from the next request on.
"""

import re
from datetime import UTC, datetime
from pathlib import Path

from pydantic import Field, ValidationError

from melfed.client.approval.run_budget import ApprovedPolicy, StudyTerms, stated_epsilon
from melfed.client.config.clinic import ClinicConfig, read_policy
from melfed.client.config.folders import prepare_worker, write_private
from melfed.client.config.policy import ClinicPolicy
from melfed.common.audit.events import Event
from melfed.common.audit.log import AuditLog
from melfed.common.errors import PolicyError, StorageError, StudyError
from melfed.common.study.file import recorded_study, study_yaml
from melfed.common.study.protocol import Digest, StudyProtocol
from melfed.common.study.recipe import resolve

_DIGEST = re.compile(r"^[0-9a-f]{64}$")
_PART_OF_DIGEST = re.compile(r"^[0-9a-f]{4,64}$")
_KEPT_BY_FILE = "list the studies there that stay approved, and the change counts from the next request on"


class Approval(StudyTerms):
    """One approved study. What older versions have written has neither runs nor ε: one run, at the ε that it costs."""

    digest: Digest = Field(description="of the study")
    study: str | None = Field(None, description="its name; None where the digest alone was given")
    by: str = Field(min_length=1, max_length=200, description="who approved it")
    time: str = Field(description="when, UTC, ISO 8601")


def approve(
    config: ClinicConfig,
    study_file_or_digest: str | Path,
    by: str,
    runs: int = 1,
    epsilon: float | None = None,
    round_minutes: int | None = None,
) -> Approval:
    """Approve a study: from now on it may run here, so many times in all, within the policy's other limits.

    Args:
        config: the clinic's.
        study_file_or_digest: the study's YAML file, or all 64 digits of its digest.
        by: who approves; for the record.
        runs: how many, those that have begun already among them.
        epsilon: largest ε of all these runs together, at the study's δ; None: that of so many whole runs.
        round_minutes: how long a round may take here, as `melfed.client.training.rehearsal` says it; None: not timed.

    Raises:
        StudyError: the file is no study that clinics can run; or what is given is neither file nor whole digest.
        WeightsError: the file leaves open which weights it starts from, and the clinic has none that fit.
        DataError: the clinic's table has diagnoses that nobody knows; afterwards they would be left out unsaid.
        StorageError: the approval cannot be written.
    """
    from melfed.client.approval.data_description import refuse_unknown_words

    study = study_to_approve(config, study_file_or_digest)
    refuse_unknown_words(config, study)
    digest = study.digest if study else str(study_file_or_digest).lower()
    now = datetime.now(UTC).isoformat(timespec="seconds")
    if study is not None and epsilon is None:
        epsilon = stated_epsilon(study, runs)
    terms = StudyTerms(runs=runs, epsilon=epsilon, round_minutes=round_minutes)
    approval = Approval(digest=digest, study=study.name if study else None, by=by, time=now, **dict(terms))
    prepare_worker(config)
    if study is not None:
        write_private(config.approvals / f"{digest}.yaml", study_yaml(study).encode())
    write_private(config.approvals / f"{digest}.json", f"{approval.model_dump_json(indent=1)}\n".encode())
    about = {"study": approval.study, "digest": digest, "by": by}
    AuditLog(config.audit_log).record(Event.STUDY_APPROVED, **about, **dict(terms))
    return approval


def study_to_approve(config: ClinicConfig, study_file_or_digest: str | Path) -> StudyProtocol | None:
    """Return the study that a file means, with nothing left open; None for a digest.

    The coordinator fixes what the file leaves open (the recipe, the weights' SHA-256) before a run starts, and so the
    digest. The same is done here: where the weights are the same, so is the digest.

    Raises:
        StudyError, WeightsError: as `approve`.
    """
    text = str(study_file_or_digest)
    if _DIGEST.match(text.lower()):
        return None
    path = Path(text).expanduser()
    if not path.exists():
        if _PART_OF_DIGEST.match(text.lower()):
            raise StudyError(f"{text}: a part of a digest; give all 64 digits, or the study's YAML file")
        raise StudyError(f"{text}: no such file; give the study's YAML file, or all 64 digits of its digest")
    study = resolve(recorded_study(path / "study.yaml" if path.is_dir() else path))[0]
    if not study.federation.with_clinics:
        raise StudyError(f"{path}: federation.mode is {study.federation.mode}: clinics run no baselines")
    if study.data.phantom is not None:
        raise StudyError(f"{path}: data.phantom: synthetic lesions are for simulations alone")
    if not study.model.pretrained or study.model.weights_sha256 is not None:
        return study
    from melfed.common.study.build import seal

    # A path on the coordinator's machine; here the weights folder counts. A clinic connects to its coordinator alone.
    return seal(study.with_changes("model", weights=None), config.weights_folder, download=False)


def revoke(config: ClinicConfig, digest_or_prefix: str, by: str) -> Approval:
    """Take an approval back: the study's next request is declined. What it has spent stays in the ledger.

    Args:
        config: the clinic's.
        digest_or_prefix: at least four digits of the digest, if no other approved study begins with them.
        by: who revokes; for the record.

    Raises:
        PolicyError: no approval, or several, begin so; or `clinic.yaml` itself approves the study.
        StorageError: the approval cannot be removed.
    """
    prefix = digest_or_prefix.lower()
    if not _PART_OF_DIGEST.match(prefix):
        raise PolicyError(f"{digest_or_prefix}: give at least four digits of the study's digest")
    found = [approval for approval in approved(config) if approval.digest.startswith(prefix)]
    if len(found) > 1:
        several = ", ".join(approval.digest[:16] for approval in found)
        raise PolicyError(f"{digest_or_prefix}: {len(found)} approved studies begin so ({several}…): give more digits")
    _refuse_what_the_file_approves(config, prefix)
    if not found:
        raise PolicyError(f"{digest_or_prefix}: no approved study begins so; see melfed-client studies")
    digest = found[0].digest
    try:
        # First what approves: a crash between the two leaves the study's text, which approves nothing.
        for suffix in (".json", ".yaml"):
            (config.approvals / f"{digest}{suffix}").unlink(missing_ok=True)
    except OSError as error:
        reason = f"{config.approvals}: the approval cannot be removed: {error.strerror}"
        raise StorageError(f"{reason}; run this as the owner of that folder") from error
    AuditLog(config.audit_log).record(Event.APPROVAL_REVOKED, study=found[0].study, digest=digest, by=by)
    return found[0]


def approved(config: ClinicConfig) -> tuple[Approval, ...]:
    """Return what `approve` added and `revoke` has not taken back, the oldest first.

    Raises:
        PolicyError: the folder cannot be read, or a file in it is no approval: nothing is approved until that is
            understood.
    """
    try:
        files = sorted(config.approvals.iterdir()) if config.approvals.is_dir() else []
        found = [_read(path) for path in files if path.suffix == ".json" and not path.name.startswith(".")]
    except OSError as error:
        raise PolicyError(f"{config.approvals}: cannot be read: {error.strerror}; run this as its owner") from error
    return tuple(sorted(found, key=lambda approval: (approval.time, approval.digest)))


def approved_study(config: ClinicConfig, digest: str) -> StudyProtocol | None:
    """Return an approved study; None where its digest alone was approved. Raises StudyError where it is damaged."""
    path = config.approvals / f"{digest}.yaml"
    return recorded_study(path) if path.is_file() else None


def other_versions(config: ClinicConfig, study: StudyProtocol) -> tuple[tuple[str, StudyProtocol], ...]:
    """Return the approved studies of this one's name that are not this one, by digest, the oldest approval first.

    Those of an older protocol let nothing train.

    Raises:
        PolicyError: as `approved`.
        StudyError: an approved study is damaged.
    """
    known = ((a.digest, approved_study(config, a.digest)) for a in approved(config) if a.digest != study.digest)
    return tuple((digest, old) for digest, old in known if old is not None and old.name == study.name)


def effective_policy(config: ClinicConfig) -> ClinicPolicy:
    """Return the policy as it stands now: `clinic.yaml` as it is on disk, with the approvals added to its studies.

    Raises:
        PolicyError: `clinic.yaml` or an approval cannot be read.
    """
    policy, added = read_policy(config.path), approved(config)
    studies = policy.studies
    if studies != "any":
        studies = tuple(dict.fromkeys((*studies, *(approval.digest for approval in added))))
    terms = {a.digest: StudyTerms(**{name: getattr(a, name) for name in StudyTerms.model_fields}) for a in added}
    names = {a.digest: a.study for a in added if a.study} if config.file.tell.approved else {}
    stated = {name: getattr(policy, name) for name in ClinicPolicy.model_fields}
    return ApprovedPolicy(**{**stated, "studies": studies, "terms": terms, "names": names})


def _read(path: Path) -> Approval:
    try:
        approval = Approval.model_validate_json(path.read_bytes())
    except ValidationError:
        raise PolicyError(f"{path}: is no approval; remove the file and approve the study again") from None
    if path.stem != approval.digest:
        raise PolicyError(f"{path}: approves another study than its name says; remove it and approve the study again")
    return approval


def _refuse_what_the_file_approves(config: ClinicConfig, prefix: str) -> None:
    studies = read_policy(config.path).studies
    if studies == "any":
        raise PolicyError(f"{config.path}: policy.studies is any, so nothing can be revoked: {_KEPT_BY_FILE}")
    listed = [digest for digest in studies if digest.startswith(prefix)]
    if listed:
        raise PolicyError(f"{config.path}: policy.studies lists {listed[0][:16]}…: {_KEPT_BY_FILE}")
