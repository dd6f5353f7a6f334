"""A coordinator that is hostile itself: it ships an app bundle of its own, which tries to get hold of everything.

Lost: nothing. Not listed, the bundle is not run. Listed by the clinic's own mistake, it runs as the messenger, and gets
no image, no score of a patient, no tensor without noise, no ledger and no key of the worker, though somebody at the
clinic has approved its studies as well: the worker goes by its policy whoever asks, and writes it down.

Files are protected by the messenger's own OS user, and by nothing else. Where the tests are root and that user can be
made to run this Python, the clinic has two users here; otherwise the tests of files are left out, and those of the
worker's gate remain. What the messenger's user owns (the keys that speak for the clinic) is the bundle's as well.
"""

import base64
import contextlib
import functools
import io
import json
import os
import pwd
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import safetensors
import yaml

from melfed.common.study.file import read_study
from melfed.common.study.protocol import StudyProtocol
from tests.e2e.federation import Federation, needs_nginx, processes, until
from tests.e2e.place import CLIENT, SERVER, SIM

pytestmark = [needs_nginx, pytest.mark.timeout(900)]

HERE = Path(__file__).parent
CLINIC = "phantom_north"
MESSENGER, STRANGER = "nobody", "daemon"
"""OS users that every Debian has."""
EPSILON = 8.0
STUDY = """\
name: agreed
data: {image_size: 48}
partition: {by: source}
model: {backbone: simple_cnn, pretrained: false}
training: {optimizer: sgd, learning_rate: 0.1, warmup_steps: 0, augment: false}
federation: {rounds: 1, deadline_seconds: 300}
privacy: {unit: patient, epsilon: 4, delta: 1.0e-5, recipe: manual, sampling_rate: 0.5, steps: 2}
"""
WISHES: dict[str, tuple[dict[str, Any] | None, str]] = {
    "no noise": ({"noise_multiplier": 0, "epsilon": None}, "its noise multiplier σ is 0,"),
    "too little noise": ({"noise_multiplier": 0.4, "epsilon": None}, "its noise multiplier σ is 0."),
    "a huge epsilon": ({"epsilon": 10_000}, "it asks for ε 10000"),
    "no privacy": (None, "it has no privacy section"),
    "scores of public images": ({"evaluation": "public"}, "it declares the images public"),
    "views without end": ({"views": 64}, "it takes 64 augmented views"),
    "images as the unit": ({"unit": "image"}, "it protects each image"),
    "a long arm": ({"clipping_norm": 1e5}, "its clipping norm C is 100000"),
}
"""What a study states in place of its privacy, and what the clinic's policy says to that."""
KINDS = ("describe", "train", "evaluate")
LONGEST = 400.0
DRAINS = 5
"""So often is the study asked for that the clinic has really agreed to: more than its budget allows."""


# Another user, for whom this Python is made reachable.


def blocked(path: Path) -> Path | None:
    """The uppermost folder above a path that other users may not enter."""
    above = [folder for folder in reversed(path.parents) if not folder.stat().st_mode & stat.S_IXOTH]
    return above[0] if above else None


def in_reach(command: list[str], hold: Path) -> list[str]:
    """A command that runs where other users can reach this Python and this code, wherever they lie.

    In a mount namespace of its own, what is private is covered by an empty folder, in which nothing else is to be seen
    but Python's own folders and the code. Nothing changes for other processes.
    """
    code = HERE.parents[1]
    wanted = {Path(sys.base_prefix).resolve(), Path(sys.prefix), code}
    covers = {path: cover for path in sorted(wanted) if (cover := blocked(path)) is not None}
    lines = ["set -e", "umask 022"]
    for number, path in enumerate(covers):
        lines += [f"mkdir -p {hold}/{number}", f"mount --bind {shlex.quote(str(path))} {hold}/{number}"]
    lines += [f"mount -t tmpfs -o mode=0755 none {shlex.quote(str(cover))}" for cover in sorted(set(covers.values()))]
    for number, path in enumerate(covers):
        lines += [f"mkdir -p {shlex.quote(str(path))}", f"mount --move {hold}/{number} {shlex.quote(str(path))}"]
    script = "\n".join([*lines, 'exec "$@"'])
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", *command]


@functools.cache
def no_second_user() -> str:
    """Why the messenger cannot have a user of its own here; empty where it can."""
    if os.geteuid() != 0:
        return "the tests do not run as root"
    if missing := [tool for tool in ("unshare", "setpriv") if shutil.which(tool) is None]:
        return f"{missing[0]} is not installed"
    with contextlib.suppress(KeyError), tempfile.TemporaryDirectory() as hold:
        entry = pwd.getpwnam(MESSENGER)
        become = ["setpriv", f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups"]
        probe = in_reach([*become, sys.executable, "-P", "-c", "import melfed.client.rpc.remote"], Path(hold))
        code = {**os.environ, "PYTHONPATH": str(HERE.parents[1] / "src")}
        done = subprocess.run(probe, capture_output=True, text=True, timeout=60, check=False, cwd="/", env=code)
        if done.returncode == 0:
            return ""
        return f"another user cannot run this Python: {(done.stderr.splitlines() or ['no reason'])[-1]}"
    return f"there is no user {MESSENGER}"


def as_user(uid: int, gid: int, code: str, *arguments: str) -> str:
    """What a process of another user prints; it changes its user after the interpreter has started."""
    become = f"import os, socket, sys\nos.setgroups([])\nos.setgid({gid})\nos.setuid({uid})\n"
    done = subprocess.run(
        [sys.executable, "-c", become + code, *arguments], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.strip()


# The bundle.


def bundle_of(orders: dict[str, Any]) -> bytes:
    """The hostile bundle in Flower's format."""
    project = """\
[project]
name = "hostile"
version = "1.0.0"
description = ""
license = { text = "none" }
dependencies = []
[tool.flwr.app]
publisher = "hostile"
[tool.flwr.app.components]
serverapp = "hostile_coordinator:app"
clientapp = "hostile_app:app"
[tool.flwr.app.config]
run = ""
"""
    files = {
        "pyproject.toml": project.encode(),
        "orders.json": json.dumps(orders, indent=1).encode(),
        **{name: (HERE / name).read_bytes() for name in ("hostile_app.py", "hostile_coordinator.py")},
    }
    rows = [f"{name},{sha256(content).hexdigest()},{len(content) * 8}" for name, content in sorted(files.items())]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in {**files, ".info/CONTENT": "\n".join(rows).encode()}.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return buffer.getvalue()


def travelling(study: StudyProtocol) -> str:
    return study.model_copy(update={"model": study.model.model_copy(update={"weights": None})}).model_dump_json()


def asks_for(agreed: StudyProtocol, wishes: dict[str, StudyProtocol], shapes: dict[str, list[int]]) -> list[Any]:
    """What the bundle asks the worker for."""

    def ask(name: str, kind: str, study: str, **other: object) -> dict[str, object]:
        usual = {"digest": agreed.digest, "run": "hostile", "round": 1, "tensors": shapes}
        return {"name": name, "kind": kind, "study": study, **usual, **other}

    asks = [
        ask(f"{name}: {kind}", kind, travelling(study), digest=study.digest)
        for name, study in wishes.items()
        for kind in KINDS
    ]
    unknown = agreed.model_copy(update={"name": "unknown"})
    path = json.loads(travelling(agreed))
    path["model"] |= {"backbone": "squeezenet1_1", "pretrained": True, "weights_sha256": "0" * 64}
    path["model"]["weights"] = "/etc/passwd"
    asks += [ask(f"unknown: {kind}", kind, travelling(unknown), digest=unknown.digest) for kind in KINDS]
    return [
        *asks,
        ask("disguised", "train", travelling(wishes["no noise"])),
        ask("a path", "train", json.dumps(path)),
        ask("nonsense", "train", "{"),
        ask("round 0", "train", travelling(agreed), round=0),
        ask("round 999", "train", travelling(agreed), round=999),
        ask("other tensors", "train", travelling(agreed), tensors={"patients": [1000, 1000]}),
        *(ask(f"agreed {number}", "train", travelling(agreed), run=f"hostile-{number}") for number in range(DRAINS)),
    ]


# The attack.


class Listener:
    """Somebody outside who hears whatever is sent to them."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.heard = b""
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                line, _ = self._socket.accept()
                with line:
                    while piece := line.recv(1 << 16):
                        self.heard += piece

    def close(self) -> None:
        self._socket.close()


@dataclass
class Attack:
    """What was done, and what came of it."""

    federation: Federation
    canaries: Path
    worker: int
    bundle: bytes
    listener: Listener
    studies: dict[str, StudyProtocol]
    unlisted: list[dict[str, Any]] = field(default_factory=list)
    executed_unlisted: bool = True
    listed: list[dict[str, Any]] = field(default_factory=list)
    charges_before: int = 0
    rows_before: int = 0
    secrets: dict[str, bytes] = field(default_factory=dict)

    @property
    def loot(self) -> dict[str, dict[str, dict[str, Any]]]:
        assert [list(answer) for answer in self.listed] == [["loot"]], self.listed
        loot: dict[str, dict[str, dict[str, Any]]] = self.listed[0]["loot"]
        return loot

    def audited(self, *events: int) -> list[dict[str, Any]]:
        """Rows of the worker's audit log about the bundle's questions."""
        return [row for row in self.federation.audit(CLINIC)[self.rows_before :] if row["id"] in events]


def worker_of(federation: Federation) -> int:
    marks = ("-m melfed.client.cli.main worker ", str(federation.kit(CLINIC)))
    return min(pid for pid, command in processes() if all(mark in command for mark in marks))


def start_clinic(federation: Federation) -> None:
    command = [str(CLIENT), "start", "--config", str(federation.kit(CLINIC) / "clinic.yaml")]
    program, *arguments = command if no_second_user() else in_reach(command, federation.folder / "hold")
    federation.start(CLINIC, Path(program), *arguments)
    federation.wait_online(CLINIC)


def ship(federation: Federation, bundle: bytes, name: str) -> list[dict[str, Any]]:
    """Have the coordinator ship its bundle; return what each clinic answered."""
    (federation.folder / f"{name}.fab").write_bytes(bundle)
    loot = federation.folder / f"{name}.json"
    marks = ("-m melfed.server.cli.main superexec ", str(federation.server))
    federation.kill(*marks, number=signal.SIGSTOP)
    try:
        command = (HERE / "hostile_coordinator.py", federation.server / "server.yaml")
        federation.start("hostile", Path(sys.executable), *command, federation.folder / f"{name}.fab", loot)
        until(f"the answers to {name}", loot.exists, LONGEST)
        answers: list[dict[str, Any]] = json.loads(loot.read_text())
    finally:
        federation.stop("hostile", signal.SIGKILL)
        federation.kill(*marks, number=signal.SIGCONT)
    return answers


def wishes_of(federation: Federation, agreed: StudyProtocol) -> dict[str, StudyProtocol]:
    """The bundle's own studies, which no command of the coordinator's has looked at; the clinic approves them all."""
    studies = {}
    for number, (name, (privacy, _)) in enumerate(WISHES.items()):
        content = yaml.safe_load(STUDY)
        content["privacy"] = None if privacy is None else {**content["privacy"], **privacy}
        studies[name] = StudyProtocol.model_validate({**content, "name": f"wish-{number}"})
    approved = [study.digest for study in (agreed, *studies.values())]
    federation.configure(CLINIC, {"policy": {"studies": approved, "runs": 100}})
    return studies


def orders_of(federation: Federation, attack_on: int, stranger: int, canaries: Path) -> dict[str, Any]:
    """All that the bundle is told beside its questions."""
    kit = federation.kit(CLINIC)
    private = [path for path in (kit / "state/worker").rglob("*") if path.is_file()]
    images = sorted(federation.lesions.glob("images/*.jpg"))[:20]
    folders = [federation.lesions, federation.lesions / "images", kit / "state/worker", kit / "state/worker/approvals"]
    code = HERE.parents[1]
    return {
        "canary": str(canaries),
        "files": [str(path) for path in (federation.lesions / "metadata.csv", *images, *private)],
        "folders": [str(path) for path in folders],
        "shared": [str(path) for path in (kit, kit / "state", kit / "state/run", code, code / "client")],
        "code": [
            str(path)
            for path in (kit / "clinic.yaml", code / "client/config/policy.py", code / "common/study/protocol.py")
        ],
        "socket": str(kit / "state/run/worker.sock"),
        "worker": attack_on,
        "stranger": stranger,
        "methods": [f"/melfed.Worker/{name}" for name in ("Images", "Scores", "Ledger", "File", "Execute")]
        + ["/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"],
    }


def charges(federation: Federation) -> list[dict[str, Any]]:
    return [json.loads(line) for line in federation.clinic(CLINIC, "ledger", "export").splitlines()]


def shapes_of(model: Path) -> dict[str, list[int]]:
    with safetensors.safe_open(model, "np") as file:
        return {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (no dict)


@pytest.fixture(scope="module")
def attack() -> Iterator[Attack]:
    # Another user must get to the kit: pytest's own folders let nobody in.
    folder = Path(tempfile.mkdtemp(prefix="hostile-"))
    folder.chmod(0o755)
    listener, federation = Listener(), None
    try:
        federation = Federation(folder, folder / "lesions", (CLINIC,), {"epsilon": EPSILON, "noise_multiplier": 0.5})
        federation.run(SIM, "phantom", federation.lesions, "--clinics", 2, "--images", 120, "--size", 48)
        yield attacked(federation, listener)
    finally:
        listener.close()
        if federation is not None:
            federation.close()
        shutil.rmtree(folder, ignore_errors=True)


def attacked(federation: Federation, listener: Listener) -> Attack:
    kit, canaries = federation.kit(CLINIC), federation.folder / "canaries"
    canaries.mkdir()
    canaries.chmod(0o1777)
    federation.lesions.chmod(0o700)
    if not no_second_user():
        kit.chmod(0o711)
        federation.configure(CLINIC, {"messenger": {"user": MESSENGER}})
    # A private study that the clinic has agreed to, so that there is something to be had.
    (federation.folder / "study.yaml").write_text(STUDY)
    sealed = federation.folder / "sealed.yaml"
    federation.run(SERVER, "study", federation.folder / "study.yaml", "--out", sealed)
    agreed = read_study(sealed)
    wishes = wishes_of(federation, agreed)
    federation.start_server()
    start_clinic(federation)
    federation.run(SERVER, "run", sealed, "--out", "agreed")

    worker = worker_of(federation)
    shapes = shapes_of(federation.server / "runs/agreed/model.safetensors")
    asks = asks_for(agreed, wishes, shapes)
    bundle = bundle_of({**orders_of(federation, worker, listener.port, canaries), "asks": asks})
    attack = Attack(federation, canaries, worker, bundle, listener, wishes)
    attack.unlisted = ship(federation, bundle, "unlisted")
    attack.executed_unlisted = any(canaries.iterdir())

    # The clinic lists it: it is told of nothing but a number. The worker is not started anew by that.
    content = yaml.safe_load((kit / "clinic.yaml").read_text())
    content["apps"] = [*content["apps"], sha256(bundle).hexdigest()]
    (kit / "clinic.yaml").write_text(yaml.safe_dump(content))
    marks = (f"{kit}", "-m melfed.client.cli.main ")
    for role in ("supernode", "messenger"):
        before = min(pid for pid, command in processes() if all(m in command for m in marks) and f" {role} " in command)
        os.kill(before, signal.SIGTERM)
    until("they are back", lambda: len([r for r in federation.audit(CLINIC) if r["id"] == 1013]) >= 2)
    until("connected", lambda: connections(kit) >= 2)
    federation.wait_online(CLINIC)
    attack.charges_before, attack.rows_before = len(charges(federation)), len(federation.audit(CLINIC))
    attack.secrets = secrets_of(federation)
    attack.listed = ship(federation, bundle, "listed")
    return attack


def connections(kit: Path) -> int:
    rows = (kit / "state/messenger/audit.jsonl").read_text().splitlines()
    return sum(json.loads(row)["id"] == 1017 for row in rows)


def secrets_of(federation: Federation) -> dict[str, bytes]:
    """Bytes that must not leave: of each image (its own ones), table, key, ledger, stored replies."""
    state = federation.kit(CLINIC) / "state/worker"
    images = {str(path): path.read_bytes()[-400:-40] for path in sorted(federation.lesions.glob("images/*.jpg"))}
    table = (federation.lesions / "metadata.csv").read_bytes().splitlines()[1]
    ledger = (state / "ledger.jsonl").read_bytes()[20:200]
    replies = {str(path): path.read_bytes()[-3000:-2700] for path in state.glob("*.safetensors")}
    assert replies
    return {**images, "table": table, "key": (state / "ledger.key").read_bytes(), "ledger": ledger, **replies}


def second_user_only() -> None:
    if reason := no_second_user():
        pytest.skip(f"only a second OS user protects files: {reason}")


# What came of it.


def test_a_bundle_that_is_not_listed_is_refused_and_never_run(attack: Attack) -> None:
    digest = sha256(attack.bundle).hexdigest()
    assert [list(answer) for answer in attack.unlisted] == [["error"]]
    assert "app bundle SHA is not approved at this clinic" in attack.unlisted[0]["error"]
    assert not attack.executed_unlisted
    rows = (attack.federation.kit(CLINIC) / "state/messenger/audit.jsonl").read_text().splitlines()
    refused = [row for row in map(json.loads, rows) if row["id"] == 1010]
    assert {row["sha256"] for row in refused} == {digest}


def test_a_listed_one_runs_and_imports_torch(attack: Attack) -> None:
    """Without this the other tests would show nothing."""
    assert any(attack.canaries.iterdir())
    assert attack.loot["training"]["torch"] == {"got": "torch"}
    assert attack.loot["outwards"][""]["got"] > 1000


def test_it_is_declined_by_policy_whatever_was_approved(attack: Attack) -> None:
    for name, (_, reason) in WISHES.items():
        for kind in KINDS:
            refused = attack.loot["asks"][f"{name}: {kind}"]["refused"]
            assert refused.startswith("DeclinedError: "), (name, kind, refused)
            assert reason in refused
            digest = attack.studies[name].digest
            rows = [row for row in attack.audited(1006) if (row["digest"], row["kind"]) == (digest, kind)]
            assert len(rows) == 1, (name, kind)
            assert reason in rows[0]["reason"]
    for kind in KINDS:
        assert "it is not approved here" in attack.loot["asks"][f"unknown: {kind}"]["refused"]
        rows = [row for row in attack.audited(1006) if (row["study"], row["kind"]) == ("unknown", kind)]
        assert len(rows) == 1


def test_questions_that_are_not_what_they_say_are_refused(attack: Attack) -> None:
    reasons = {
        "disguised": "StudyError: the request means study",
        "a path": "StudyError: the study names a path in model.weights",
        "nonsense": "StudyError: the study cannot be read",
        "round 0": "StudyError: round 0: study agreed has rounds 1 to 1",
        "round 999": "StudyError: round 999",
        "other tensors": "TensorError: ",
    }
    for name, reason in reasons.items():
        assert attack.loot["asks"][name]["refused"].startswith(reason), name
    told = [row["reason"] for row in attack.audited(1007)]
    assert len(told) == len(reasons)
    for reason in reasons.values():
        assert any(words.startswith(reason.partition(": ")[2]) for words in told), reason


def test_what_was_agreed_to_is_noised_and_charged_until_the_budget_is_spent(attack: Attack) -> None:
    answers = [attack.loot["asks"][f"agreed {number}"] for number in range(DRAINS)]
    given = [answer["got"] for answer in answers if "got" in answer]
    assert 2 <= len(given) < DRAINS
    assert all("is left" in answer["refused"] for answer in answers[len(given) :])
    # The same question of the same model, with other noise each time.
    for name in given[0]:
        assert len({answer[name] for answer in given}) == len(given), name
    every = charges(attack.federation)
    # Each asks for a run of its own, whose counts are charged as well.
    assert len(every) == attack.charges_before + 2 * len(given)
    assert every[-1]["epsilon"] <= EPSILON
    assert {charge["noise_multiplier"] for charge in every} >= {every[0]["noise_multiplier"]}
    assert min(charge["noise_multiplier"] for charge in every) >= 0.5
    assert len(attack.audited(1012)) == 2 * len(attack.audited(1005)) == 2 * len(given)


def test_the_worker_knows_no_other_methods(attack: Attack) -> None:
    assert attack.loot["methods"]
    for path, outcome in attack.loot["methods"].items():
        assert "UNIMPLEMENTED" in outcome["refused"], path


def test_it_has_disturbed_nothing(attack: Attack) -> None:
    federation = attack.federation
    federation.clinic(CLINIC, "ledger", "verify")
    federation.clinic(CLINIC, "log", "verify")
    assert worker_of(federation) == attack.worker
    assert json.loads(federation.clinic(CLINIC, "status", "--json"))["processes"]["worker"] == "ready"


def test_no_file_of_the_clinic_is_read(attack: Attack) -> None:
    second_user_only()
    for deed in ("files", "folders"):
        assert attack.loot[deed]
        for path, outcome in attack.loot[deed].items():
            assert outcome.get("refused", "").startswith("PermissionError"), path
    assert attack.loot["training"]["model"]["refused"].startswith("PermissionError")


def test_no_file_of_clinic_or_code_is_written(attack: Attack) -> None:
    second_user_only()
    for deed in ("writing", "making"):
        assert attack.loot[deed]
        for path, outcome in attack.loot[deed].items():
            assert outcome.get("refused", "").startswith(("PermissionError", "OSError: [Errno 30]")), path


def test_the_worker_process_is_closed_to_it(attack: Attack) -> None:
    second_user_only()
    for what, outcome in attack.loot["worker"].items():
        assert outcome.get("refused", "").startswith("PermissionError"), what


def test_it_can_become_nobody_else(attack: Attack) -> None:
    second_user_only()
    powers = attack.loot["powers"]
    for what in ("root", "groups"):
        assert powers[what]["refused"].startswith("PermissionError"), what
    status = dict(line.split(":\t", 1) for line in powers["status"]["got"].splitlines() if ":\t" in line)
    assert status["NoNewPrivs"] == "1"
    assert {int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {0}
    assert {int(number) for number in status["Uid"].split()} == {pwd.getpwnam(MESSENGER).pw_uid}


def test_nothing_that_has_left_holds_a_secret(attack: Attack) -> None:
    """Neither through Flower nor by the line that it opened to a stranger."""
    second_user_only()
    outside = attack.listener.heard + json.dumps([attack.unlisted, attack.listed]).encode()
    texts = [outside, *decoded(json.loads(attack.listener.heard)), *decoded(attack.listed)]
    for name, secret in attack.secrets.items():
        assert len(secret) >= 32, name
        for known in (secret, secret.hex().encode(), base64.b64encode(secret)[:-4]):
            assert not any(known in text for text in texts), name


def decoded(value: object) -> Iterator[bytes]:
    """Every text in a JSON value, as bytes and from base64."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from decoded(each)
    if isinstance(value, str):
        yield value.encode()
        with contextlib.suppress(ValueError):
            yield base64.b64decode(value, validate=True)


CALL = """
with socket.socket(socket.AF_UNIX) as line:
    line.settimeout(20)
    line.connect(sys.argv[1])
    try:
        line.sendall(b"PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
        print(line.recv(1000))
    except (BrokenPipeError, ConnectionResetError):
        print(b"")
"""


def test_a_third_user_is_not_answered(attack: Attack) -> None:
    second_user_only()
    path = str(attack.federation.kit(CLINIC) / "state/run/worker.sock")
    messenger, stranger = pwd.getpwnam(MESSENGER), pwd.getpwnam(STRANGER)
    assert as_user(messenger.pw_uid, messenger.pw_gid, CALL, path) != "b''"
    # It does not even get to the socket...
    with pytest.raises(subprocess.CalledProcessError) as found:
        as_user(stranger.pw_uid, stranger.pw_gid, CALL, path)
    assert "PermissionError" in found.value.stderr
    # ...and where it has got hold of the messenger's group, the worker sees who it is.
    assert as_user(stranger.pw_uid, messenger.pw_gid, CALL, path) == "b'melfed: not you\\n'"
    refused = until("1011", lambda: [row for row in attack.federation.audit(CLINIC) if row["id"] == 1011])
    assert {row["uid"] for row in refused} == {stranger.pw_uid}
