"""Where the modules of another version are found."""

from pathlib import Path

from melfed.simulations.benchmarks.checkouts import module_name, search_path


def test_before_and_after_the_packages_got_a_common_name(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    (old / "common").mkdir(parents=True)
    (new / "src" / "melfed").mkdir(parents=True)
    assert (search_path(old), module_name(old, "common.records")) == (old, "common.records")
    assert (search_path(new), module_name(new, "common.records")) == (new / "src", "melfed.common.records")


def test_this_tree_is_found() -> None:
    here = Path(__file__).resolve().parents[3]
    assert (search_path(here) / "melfed" / "common" / "errors.py").is_file()
