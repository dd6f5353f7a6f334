"""What becomes of tasks whose processes die, without Ray; with it, in real processes: `tests/e2e`."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
import ray.exceptions
from flwr.app import Context, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.server.superlink.fleet.vce.backend import raybackend
from flwr.supercore.task_identity import TaskIdentity
from ray.exceptions import ActorDiedError, RayTaskError
from ray.job_config import JobConfig

from melfed.common import flower_pins
from melfed.common.errors import ServiceError
from melfed.common.flower_pins import PINS
from melfed.simulations.engine import actors as module
from melfed.simulations.engine.actors import NOBODY, Actors, Backend, replaced_backend
from melfed.simulations.engine.attempts import ATTEMPTS, NobodyError


class FakeRay:
    """Futures are functions: waiting finds them done, getting calls them."""

    def __init__(self) -> None:
        self.killed: list[object] = []
        self.alive = True
        self.startable = True

    def wait(self, futures: list[Callable[[], Any]], timeout: float) -> tuple[list[Any], list[Any]]:
        done = [future for future in futures if not getattr(future, "never", False)]
        return done, []

    def get(self, future: Callable[[], Any]) -> Any:
        return future()

    def kill(self, actor: object) -> None:
        self.killed.append(actor)

    def nodes(self) -> list[dict[str, bool]]:
        return [{"Alive": self.alive}]

    def actor(self) -> "FakeActor":
        return FakeActor(self)


class Remote:
    def __init__(self, call: Callable[..., Any], never: bool = False) -> None:
        self.call, self.never = call, never

    def remote(self, *arguments: Any) -> Callable[[], Any]:
        def future() -> Any:
            return self.call(*arguments)

        future.never = self.never  # type: ignore[attr-defined]
        return future


class FakeActor:
    """Answers with what it was asked, or dies: `deaths` says how many of all actors' next tasks are the last of one."""

    deaths = 0
    asked = 0

    def __init__(self, fake: FakeRay) -> None:
        self.fake = fake
        self.dead = False
        self.run = Remote(self._run)
        self.__ray_ready__ = Remote(lambda: None, never=not fake.startable)

    def _run(self, _app: object, message: Message, clinic: str, context: Context) -> tuple[str, Message, Context]:
        type(self).asked += 1
        if self.dead or FakeActor.deaths > 0:
            FakeActor.deaths -= not self.dead
            self.dead = True
            raise ActorDiedError
        return clinic, Message(RecordDict(), reply_to=message), context


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    fake = FakeRay()
    FakeActor.deaths = FakeActor.asked = 0
    for name in ("wait", "get", "kill", "nodes"):
        monkeypatch.setattr(module.ray, name, getattr(fake, name))
    return fake


def backend_of(fake: FakeRay, number: int, told: list[tuple[int, str]]) -> Backend:
    backend = Backend.__new__(Backend)
    backend._told, backend._ended, backend._down = lambda *what: told.append(what), threading.Event(), threading.Event()
    backend.app_fn = None
    backend._actors = Actors(fake.actor, number, backend._ended, backend._down)
    return backend


def question() -> tuple[Message, Context]:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
    message = Message(RecordDict(), dst_node_id=9, message_type="train")
    message.metadata.__dict__["_message_id"] = "1"
    config = {"partition-id": 3}
    return message, Context(run_id=1, node_id=9, node_config=config, state=RecordDict(), run_config={})


@pytest.mark.parametrize("number", [1, 2, 5])
@pytest.mark.parametrize("deaths", range(ATTEMPTS + 1))
def test_a_task_is_asked_three_times_and_then_its_clinic_is_late(fake: FakeRay, number: int, deaths: int) -> None:
    told: list[tuple[int, str]] = []
    backend = backend_of(fake, number, told)
    FakeActor.deaths = deaths
    reply, _ = backend.process_message(*question())
    assert reply.has_error() == (deaths >= ATTEMPTS)
    again = min(deaths, ATTEMPTS - 1)
    assert told == [(3, "its process was ended (killed, or out of memory); asked again")] * again
    assert len(fake.killed) == min(deaths, ATTEMPTS), "the dead are not asked again"
    if reply.has_error():
        assert reply.error.reason == "its process was ended (killed, or out of memory), 3 times"
    # The next task finds living processes, whatever became of this one.
    FakeActor.deaths = 0
    for _ in range(2 * number):
        assert not backend.process_message(*question())[0].has_error()
    assert len(told) == again


def test_a_dead_process_takes_one_task_with_it_and_not_all(fake: FakeRay) -> None:
    """Flower's pool gave its place to the next: of six clinics, five failed."""
    told: list[tuple[int, str]] = []
    backend = backend_of(fake, 2, told)
    FakeActor.deaths = 1
    replies = [backend.process_message(*question())[0] for _ in range(6)]
    assert [reply.has_error() for reply in replies] == [False] * 6
    assert len(told) == 1


def test_where_none_can_be_started_the_others_go_on_alone(fake: FakeRay) -> None:
    told: list[tuple[int, str]] = []
    backend = backend_of(fake, 2, told)
    fake.startable, fake.alive = False, False
    FakeActor.deaths = 1
    for _ in range(4):
        assert not backend.process_message(*question())[0].has_error()
    FakeActor.deaths = 1
    reply, _ = backend.process_message(*question())
    assert reply.error.reason == NOBODY
    assert len(told) == 2, "once each process that died"


def test_what_a_task_raises_is_told_in_a_line_and_is_not_asked_again(fake: FakeRay) -> None:
    backend = backend_of(fake, 1, [])

    def answer_of(traceback: str) -> str:
        error = RayTaskError("run", traceback, ValueError("wrapped"))

        def fail(*_: object) -> None:
            raise error.as_instanceof_cause()

        actor = FakeActor(fake)
        actor.run = Remote(fail)
        backend._actors = Actors(lambda: actor, 1, threading.Event())
        for _ in range(2):  # it is given back
            reply, _ = backend.process_message(*question())
        assert reply.error.code == ErrorCode.CLIENT_APP_RAISED_EXCEPTION
        assert "\n" not in reply.error.reason
        return reply.error.reason

    after = "\n\nThe above exception was the direct cause of the following exception:\n\nClientAppException: x"
    assert answer_of(f"Traceback (most recent call last):\n  File\nKeyError: 'a'{after}") == "KeyError: 'a'"
    assert answer_of(f"Traceback:\n  File\nMemoryError: Unable to allocate{after}").startswith("out of memory (Memory")
    assert fake.killed == []


def test_when_the_run_has_ended_nothing_is_waited_for(fake: FakeRay) -> None:
    ended = threading.Event()
    actors = Actors(fake.actor, 1, ended)
    ended.set()
    never = Remote(lambda: None, never=True)
    with pytest.raises(module.EndedError):
        actors.ask(lambda _: never.remote())


def test_when_ray_itself_is_down_no_clinic_is_blamed_before_the_run_has_ended(fake: FakeRay) -> None:
    told: list[tuple[int, str]] = []
    backend = backend_of(fake, 1, told)
    backend._down.set()
    threading.Timer(0.2, backend._ended.set).start()
    reply, _ = backend.process_message(*question())
    assert backend._ended.is_set()
    assert (reply.error.reason, told, FakeActor.asked) == (NOBODY, [], 0)


def test_without_a_place_nobody_is_waited_for(fake: FakeRay) -> None:
    with pytest.raises(NobodyError):
        Actors(fake.actor, 0, threading.Event()).ask(lambda _: None)


@pytest.mark.parametrize("part", sorted(PINS["simulation"]))
def test_another_flower_ends_the_run_at_its_start(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    original = raybackend.RayBackend
    monkeypatch.setattr(flower_pins, "PINS", {"simulation": {part: "0" * 16}})
    with (
        pytest.raises(ServiceError, match=rf"^(Flower|Ray)'s {part} is not the one that melfed's simulation was made "),
        replaced_backend(lambda *_: None, threading.Event(), threading.Event()),
    ):
        pass
    assert raybackend.RayBackend is original


def test_flowers_backend_is_replaced_while_a_run_lasts() -> None:
    original = raybackend.RayBackend
    with replaced_backend(lambda *_: None, threading.Event(), threading.Event()):
        assert raybackend.RayBackend is not original
    assert raybackend.RayBackend is original


def test_rays_workers_do_not_get_the_current_folder() -> None:
    assert not JobConfig()._runtime_env_has_working_dir(), "so that Ray adds the folder"
    assert module._WithoutFolder()._runtime_env_has_working_dir()
    assert ray.exceptions is not None
