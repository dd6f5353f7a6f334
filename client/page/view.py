"""What a clinic's live page shows: what `status`, `log`, `ledger show` and `model list` tell, and nothing else."""

import threading
from importlib.metadata import version
from time import monotonic
from typing import Any

from melfed.client.approval.study_accounts import ledger_of
from melfed.client.config.clinic import ClinicConfig
from melfed.client.ledger.rows import charges
from melfed.client.logs import names
from melfed.client.models.store import KeptModel, ModelStore
from melfed.client.page.asked import asked
from melfed.client.status import UNREADABLE, status
from melfed.common.errors import MelfedError
from melfed.common.page.app import Sections
from melfed.common.page.audit import LastRecords, finite

STATUS_SECONDS = 15.0
"""The examination opens a connection to the coordinator: it is made as seldom as that."""
LISTED_CHARGES = 1000


class ClinicPage:
    """Looks at a clinic's files and processes; reads alone."""

    package = "melfed.client.page"

    def __init__(self, config: ClinicConfig) -> None:
        """Nothing is read yet."""
        self._config = config
        self._log = LastRecords(names(config))
        self._status: dict[str, Any] | None = None
        self._examined = 0.0
        self._kept: dict[str, tuple[object, Any]] = {}
        self._busy = threading.Lock()

    def look(self, chosen: str) -> Sections:  # noqa: ARG002 (a clinic has one page)
        """Return all parts.

        Raises:
            MelfedError, OSError: something cannot be read; of ledger, models and status, the part itself says so.
        """
        with self._busy:
            events = self._log.look()
            quick = {"events": events, "asked": asked(events), "ledger": self._ledger(), "models": self._models()}
            # The first look is not kept waiting for an examination of seconds.
            if self._status is None:
                self._status = {"clinic": self._config.name, "melfed": version("melfed"), "examined": False}
            elif monotonic() - self._examined >= STATUS_SECONDS or not self._status["examined"]:
                self._status = {**status(self._config).as_json(), "melfed": version("melfed"), "examined": True}
                self._examined = monotonic()
            return {"status": self._status, **quick}

    def _ledger(self) -> dict[str, Any]:
        def read() -> dict[str, Any]:
            ledger = ledger_of(self._config)
            rows = charges(ledger.rows) if ledger else []
            listed = [{**row, "epsilon": finite(row["epsilon"])} for row in rows[::-1][:LISTED_CHARGES]]
            return {"charges": listed, "all": len(rows), "head": ledger.head if ledger else "", "problem": ""}

        empty = {"charges": [], "all": 0, "head": "", "problem": ""}
        return self._when_changed("ledger", [self._config.ledger], read, empty)

    def _models(self) -> dict[str, Any]:
        store = ModelStore(self._config.models)

        def read() -> dict[str, Any]:
            return {"models": [_model(model) for model in store.all()], "problem": ""}

        return self._when_changed("models", [store.folder], read, {"models": [], "problem": ""})

    def _when_changed(self, name: str, paths: list[Any], read: Any, empty: dict[str, Any]) -> dict[str, Any]:
        """Return a part, read anew only where its files have changed; one that cannot be read says why."""
        try:
            seen = [(found.st_mtime_ns, found.st_size) for path in paths if path.exists() and (found := path.stat())]
            if name not in self._kept or self._kept[name][0] != seen:
                self._kept[name] = seen, read()
            part: dict[str, Any] = self._kept[name][1]
        except PermissionError:
            return {**empty, "problem": UNREADABLE}
        except MelfedError as error:
            return {**empty, "problem": str(error)}
        return part


def _model(model: KeptModel) -> dict[str, Any]:
    facts = model.facts
    return {
        "name": model.name,
        "study": facts.name,
        "network": f"{facts.backbone}, {facts.image_size} × {facts.image_size}",
        "run": facts.run,
        "received": model.received,
        "signer": model.signer,
        "facts": {name.replace("_", " "): text for name, text in facts.described().items() if name != "melfed"},
    }
