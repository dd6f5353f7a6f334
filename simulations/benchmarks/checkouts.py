"""Other versions of melfed on disk, to compare with: where Python finds their modules, and by what names."""

from pathlib import Path


def search_path(checkout: Path) -> Path:
    """Return the folder for PYTHONPATH. Before 0.2 the packages lay in the repository itself, without `melfed`."""
    return checkout / "src" if (checkout / "src" / "melfed").is_dir() else checkout


def module_name(checkout: Path, name: str) -> str:
    """Return what a module is called there, by its name below `melfed`."""
    return f"melfed.{name}" if search_path(checkout) != checkout else name
