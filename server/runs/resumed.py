"""What a run that goes on finds on disk: whether checkpoints and events are of one and the same run so far."""

from collections.abc import Callable

from melfed.common.errors import RunError
from melfed.server.runs.checkpoints import Checkpoint, last_checkpoint
from melfed.server.runs.folder import RunFolder


def find_state(folder: RunFolder, digest: str, told: Callable[[str], None], *, first: int) -> Checkpoint | None:
    """Return the state that a run goes on from, or None where it has none yet.

    Args:
        folder: of the run.
        digest: of its study.
        told: is called with a line for what is damaged and does not stop the run.
        first: round of the first checkpoint that the run writes.

    Raises:
        RunError: checkpoints are of another study, damaged, or gone though rounds were finished.
    """
    state = last_checkpoint(folder.checkpoints, digest, [parent.digest for parent in folder.parents()], told)
    reached = first - 1 if state is None else state.round
    rounds = {event["round"] for event in folder.events() if event["event"] == "round"}
    # An event is written just before its checkpoint, so one round may be ahead.
    if (last := max(rounds, default=0)) > reached + 1:
        found = "there is no checkpoint" if state is None else f"the newest checkpoint is of round {reached}"
        raise RunError(
            f"{folder.checkpoints}: metrics.jsonl has round {last}, but {found}: bring the checkpoints back from a "
            "backup, or begin a new run"
        )
    if missing := sorted(set(range(1, reached + 1)) - rounds):
        told(
            f"{folder.path / 'metrics.jsonl'}: lacks {_words(missing)} of {reached} finished rounds: the file was cut; "
            "the model is not touched by it, and the report will lack them too"
        )
    return state


def _words(numbers: list[int]) -> str:
    return str(numbers[0]) if len(numbers) == 1 else f"{len(numbers)} ({numbers[0]} to {numbers[-1]})"
