"""Every event and every exit code has its page, and every page its event or code."""

import ast
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from melfed.common.audit.events import Event
from melfed.common.audit.log import LEVELS

REPOSITORY = Path(__file__).resolve().parents[3]
PAGES = REPOSITORY / "docs" / "events"
OF_EVERY_RECORD = {"time", "id", "event", "who", "mended", "previous", "hash"}


@dataclass(frozen=True)
class ErrorClass:
    """A class of errors: what it derives from, and the exit code that it states itself."""

    bases: tuple[str, ...]
    code: int | None


def error_classes() -> dict[str, ErrorClass]:
    """MelfedError and all that derives from it in the four packages, read from the source: nothing is loaded."""
    classes: dict[str, ErrorClass] = {}
    for package in ("common", "client", "server", "simulations"):
        for path in sorted((REPOSITORY / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ClassDef):
                    stated = [
                        ast.literal_eval(line.value)
                        for line in node.body
                        if isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == "exit_code"
                    ]
                    bases = tuple(ast.unparse(base).rpartition(".")[2] for base in node.bases)
                    classes[node.name] = ErrorClass(bases, *(stated or [None]))
    found = {"MelfedError"}
    while more := {name for name, each in classes.items() if found & set(each.bases)} - found:
        found |= more
    return {name: classes[name] for name in found}


def sections() -> dict[int, str]:
    """Text of every section of docs/exit-codes.md, by its code."""
    text = (REPOSITORY / "docs" / "exit-codes.md").read_text(encoding="utf-8")
    return {int(number): rest for number, rest in re.findall(r"^## (\d+): (.*?)(?=^## |\Z)", text, re.M | re.S)}


def test_numbers_and_names_are_unique_at_each_side() -> None:
    assert len({event.id for event in Event}) == len(list(Event))
    for side in (1000, 2000):
        names = [event.short_name for event in Event if event.id // 1000 * 1000 == side]
        assert names
        assert len(set(names)) == len(names)
    assert {event.id // 1000 for event in Event} == {1, 2}


@pytest.mark.parametrize("event", Event)
def test_an_event_is_well_formed(event: Event) -> None:
    assert re.fullmatch(r"[a-z]+(-[a-z]+)+|[a-z]+", event.short_name)
    assert event.severity in LEVELS
    assert event.meaning.endswith(".")
    assert "\n" not in event.meaning
    assert len(set(event.fields)) == len(event.fields)
    assert not OF_EVERY_RECORD & set(event.fields)


@pytest.mark.parametrize(
    "word", ["patient", "image", "lesion", "score", "path", "file", "folder", "label", "age", "sex"]
)
def test_no_event_has_room_for_a_patient(word: str) -> None:
    assert not [event for event in Event if any(word in field.split("_") for field in event.fields)]


@pytest.mark.parametrize("event", Event)
def test_an_event_has_its_page_with_its_fields(event: Event) -> None:
    text = (PAGES / f"{event.id}.md").read_text(encoding="utf-8")
    side = "clinic" if event.id < 2000 else "server"
    assert text.startswith(f"# {event.id} {event.short_name}\n\n{side}, {event.severity}. {event.meaning}\n")
    assert re.findall(r"^## (.*)$", text, re.M) == ["What it means", "What to do", "Fields"]
    assert tuple(re.findall(r"^\| `(\w+)` \| .+ \|$", text, re.M)) == event.fields


def test_every_page_has_its_event_and_the_index_lists_all() -> None:
    assert {page.name for page in PAGES.iterdir()} == {f"{event.id}.md" for event in Event} | {"README.md"}
    index = (PAGES / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \[(\d+)\]\((\d+)\.md\) \| `([\w-]+)` \| (\w+) \| (.+) \|$", index, re.M)
    assert rows == [(str(each.id), str(each.id), each.short_name, each.severity, each.meaning) for each in Event]


@pytest.mark.parametrize(
    "page", sorted([*PAGES.glob("*.md"), REPOSITORY / "docs" / "exit-codes.md"]), ids=lambda p: p.name
)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).is_file(), target


def test_the_errors_are_found() -> None:
    classes = error_classes()
    assert classes["MelfedError"].code == 1
    assert classes["CancelledError"] == ErrorClass(("MelfedError",), 15)
    assert classes["TensorError"] == ErrorClass(("MelfedError",), None)
    assert "ImageProblem" in classes
    assert not {"ValueError", "AuditLog"} & set(classes)


def test_every_error_has_its_section_and_no_two_share_a_code() -> None:
    classes, found = error_classes(), sections()
    own = {name: each.code for name, each in classes.items() if each.code is not None}
    assert len(set(own.values())) == len(own), own
    assert sorted(own.values()) == [1, *range(3, 16), 20]
    assert sorted(found) == [*range(16), 130]
    assert own.pop("CellsError") == 20  # and so many more as cells have no result
    assert "## 21 to 120: CellsError\n" in (REPOSITORY / "docs" / "exit-codes.md").read_text(encoding="utf-8")
    for name, code in own.items():
        assert name in re.findall(r"\w+", found[code].partition("\n")[0]), f"{name} leaves with {code}"
    # What derives from one with a number of its own is a case of it; TensorError alone has that of the base.
    without = {name for name, each in classes.items() if each.code is None and "MelfedError" in each.bases}
    assert without == {"TensorError"}
    assert "TensorError" in found[1].partition("\n")[0]


@pytest.mark.parametrize("code", [code for code in sections() if code])
def test_a_section_says_why_and_what_to_do(code: int) -> None:
    text = sections()[code]
    assert re.search(r"^\*\*Why\.\*\* \S", text, re.M)
    assert re.search(r"^\*\*What to do\.\*\* \S", text, re.M)


def recorded() -> list[tuple[str, str, str]]:
    """Place, event and field of every `record(Event.X, field=...)` in the four packages."""
    return [
        (f"{path.relative_to(REPOSITORY)}:{node.lineno}", node.args[0].attr, keyword.arg)
        for package in ("common", "client", "server", "simulations")
        for path in sorted((REPOSITORY / package).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Attribute)
        if ast.unparse(node.args[0].value) == "Event"
        for keyword in node.keywords
        if keyword.arg is not None
    ]


def test_what_the_program_records_fits_the_events() -> None:
    """A field too many would be a TypeError on the very occasion that was to be recorded."""
    found = recorded()
    assert found
    assert not [each for each in found if each[1] not in Event.__members__ or each[2] not in Event[each[1]].fields]
