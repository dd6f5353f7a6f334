"""The page's folder: everything that it needs, nothing from elsewhere, and a name that changes with any of it."""

import json
import re
from pathlib import Path

import pytest

from melfed.common.errors import RunError
from melfed.common.export.facts import read_facts
from melfed.server.phone.page import write_page
from tests.common.export.models import facts_of, network, pictures, statistics

pytest.importorskip("onnxscript", reason="the extra 'export' is not installed")

RUNTIME = {"ort.wasm.min.mjs": b"export {};", "NOTICE.txt": b"whose it is"}


def written(out: Path, **known: object) -> Path:
    model = network()
    write_page(out, model, facts_of(model, **known), RUNTIME)
    return out


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    seen = statistics(network(), pictures(60))
    return written(tmp_path_factory.mktemp("page") / "deep" / "out", seen=seen, run="ab")


def kept(page: Path) -> tuple[str, list[str]]:
    version, files = re.fullmatch(
        r'self\.VERSION = "(.*)";\nself\.FILES = (.*);\n', (page / "files.js").read_text()
    ).groups()
    return version, json.loads(files)


def test_all_files_are_kept_on_the_device(page: Path) -> None:
    there = {path.relative_to(page).as_posix() for path in page.rglob("*") if path.is_file()}
    assert set(kept(page)[1]) == (there | {"./"}) - {"sw.js", "files.js"}
    assert {"index.html", "model.onnx", "facts.json", "ort/ort.wasm.min.mjs", "icon-512.png"} <= there
    assert [path for path in page.parent.iterdir() if path != page] == [], "nothing half-written is left"


def test_the_manifest_is_one_that_systems_install(page: Path) -> None:
    manifest = json.loads((page / "manifest.webmanifest").read_text())
    assert manifest.keys() >= {"name", "short_name", "start_url", "display", "icons"}
    for icon in manifest["icons"]:
        assert (page / icon["src"]).is_file()
    assert 'rel="manifest" href="manifest.webmanifest"' in (page / "index.html").read_text()


def test_it_names_no_other_address(page: Path) -> None:
    own = [path for path in page.iterdir() if path.suffix in {".html", ".js", ".css", ".webmanifest"}]
    assert len(own) > 7
    assert not [path.name for path in own if re.search(r"(https?:)?//[a-z]+\.", path.read_text())]
    assert "default-src 'none'" in (page / "index.html").read_text()


def test_what_is_told_of_the_model_is_there_without_its_arrays(page: Path) -> None:
    told = json.loads((page / "facts.json").read_text())
    assert told["seen_in_words"].startswith("of 40 public images")
    assert "packed" not in told["seen"]
    others = {key: value for key, value in told.items() if key not in {"seen", "seen_in_words"}}
    assert read_facts(json.dumps(others), "facts.json").run == "ab"


def test_another_model_is_kept_under_another_name(page: Path, tmp_path: Path) -> None:
    assert kept(written(tmp_path / "a"))[0] == kept(written(tmp_path / "b"))[0]
    assert kept(written(tmp_path / "c", run="cd"))[0] != kept(tmp_path / "a")[0]


def test_what_cannot_be_a_page_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="exists; name another --out"):
        written(tmp_path)
    model = network(metadata=True)
    with pytest.raises(RunError, match="needs age, sex and site"):
        write_page(tmp_path / "out", model, facts_of(model), RUNTIME)
    assert not list(tmp_path.iterdir())
