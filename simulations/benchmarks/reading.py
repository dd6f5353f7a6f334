"""How long ISIC 2024 takes to be read: 401,059 made-up lines of its 55 columns and as many files, in seconds of CPU.

    python -m melfed.simulations.benchmarks.reading [--against CHECKOUT] [--rows 401059] [--json]

With the folder of an older checkout both versions read one and the same table, whose columns of diagnoses have the
names of an archive export, since older versions do not know ISIC 2024's. Each reading is a process of its own; of
several, the fastest counts.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from melfed.simulations.benchmarks.checkouts import module_name, search_path

ROWS = 401_059
PATIENTS = 1_042

_REPOSITORY = Path(__file__).resolve().parents[2]
_READ = """
import importlib, sys, time
from pathlib import Path
records = importlib.import_module(sys.argv[2])
assert Path(records.__file__).is_relative_to(Path.cwd()), records.__file__  # not the code that is installed
before = time.process_time()
table = records.read_table(Path(sys.argv[1]))
print(time.process_time() - before, end=" ")
print(len(table.records), sum(record.target for record in table.records), table.layout)
"""
_NUMBERS = (
    *(f"tbp_lv_{name}{place}" for name in "ABCHL" for place in ("", "ext")),
    *("tbp_lv_areaMM2", "tbp_lv_area_perim_ratio", "tbp_lv_color_std_mean", "tbp_lv_deltaA", "tbp_lv_deltaB"),
    *("tbp_lv_deltaL", "tbp_lv_deltaLB", "tbp_lv_deltaLBnorm", "tbp_lv_eccentricity"),
)
_MORE_NUMBERS = (
    *("tbp_lv_minorAxisMM", "tbp_lv_nevi_confidence", "tbp_lv_norm_border", "tbp_lv_norm_color"),
    *("tbp_lv_perimeterMM", "tbp_lv_radial_color_std_max", "tbp_lv_stdL", "tbp_lv_stdLExt", "tbp_lv_symm_2axis"),
    *("tbp_lv_symm_2axis_angle", "tbp_lv_x", "tbp_lv_y", "tbp_lv_z"),
)
_LEVELS = tuple(f"iddx_{level}" for level in range(1, 6))
COLUMNS = (
    *("isic_id", "target", "patient_id", "age_approx", "sex", "anatom_site_general", "clin_size_long_diam_mm"),
    *("image_type", "tbp_tile_type", *_NUMBERS, "tbp_lv_location", "tbp_lv_location_simple", *_MORE_NUMBERS),
    *("attribution", "copyright_license", "lesion_id", "iddx_full", *_LEVELS, "mel_mitotic_index", "mel_thick_mm"),
    "tbp_lv_dnn_lesion_confidence",
)
"""Of `train-metadata.csv`, in its order."""

_DIAGNOSES = (
    ("Benign",),
    ("Benign", "Benign melanocytic proliferations", "Nevus", "Nevus, Atypical, Dysplastic, or Clark"),
    ("Malignant", "Malignant melanocytic proliferations (Melanoma)", "Melanoma in situ"),
    ("Malignant", "Malignant adnexal epithelial proliferations - Follicular", "Basal cell carcinoma"),
)
_WEIGHTS = (996, 2, 1, 1)
_SITES = ("posterior torso", "lower extremity", "anterior torso", "upper extremity", "head/neck", "")


@dataclass(frozen=True)
class ReadingTime:
    """One version's reading of a folder.

    Attributes:
        version: `this` or the folder of the other.
        table: names of whose columns.
        cpu_seconds: of all threads, user and system, with the start of Python.
        alone: of the reading by itself.
        rows: records that came out of it.
        melanomas: positives among them.
    """

    version: str
    table: str
    cpu_seconds: float
    alone: float
    rows: int
    melanomas: int


def write_table(path: Path, rows: int, archive: bool, seed: int = 0) -> None:
    """Write made-up lines.

    Args:
        path: of the file.
        rows: how many.
        archive: whether the levels of diagnoses are called `diagnosis_1` to `diagnosis_5`.
        seed: of the values.
    """
    names = [name.replace("iddx_", "diagnosis_") if archive and name in _LEVELS else name for name in COLUMNS]
    with path.open("w", encoding="utf-8") as file:
        file.write(",".join(names) + "\n")
        file.writelines(_lines(rows, random.Random(seed)))  # noqa: S311 (no secret)


def _lines(rows: int, source: random.Random) -> Iterator[str]:
    for number in range(rows):
        levels = source.choices(_DIAGNOSES, _WEIGHTS)[0]
        measured = [f"{source.uniform(0, 90):.13f}" for _ in range(8)]
        numbers = [measured[place % 8] for place in range(len(_NUMBERS) + len(_MORE_NUMBERS))]
        quoted = [f'"{level}"' if "," in level else level for level in (*levels, "", "", "", "", "")[:5]]
        cells = [
            *(f"ISIC_{number:07d}", str(int(levels[0] == "Malignant")), f"IP_{source.randrange(PATIENTS):07d}"),
            *(f"{5 * source.randrange(2, 18)}.0", source.choice(("male", "female", "")), source.choice(_SITES)),
            *("3.04", "TBP tile: close-up", "3D: XP", *numbers[: len(_NUMBERS)], "Right Leg - Upper", "Right Leg"),
            *(*numbers[len(_NUMBERS) :], "Department of Dermatology of a made-up clinic", "CC-BY"),
            *(f"IL_{number:07d}" if len(levels) > 1 else "", f'"{"::".join(levels)}"', *quoted, "", "", "97.5"),
        ]
        yield ",".join(cells) + "\n"


def measure(checkout: Path, folder: Path, times: int) -> ReadingTime:
    """Read a data folder by the code of a checkout, several times, and return the fastest."""
    best, alone, said = float("inf"), float("inf"), ""
    known = (checkout / "common/data/records.py").is_file()
    module = module_name(checkout, "common.data.records" if known else "common.records")
    for _ in range(times):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        environment = {**os.environ, "PYTHONPATH": str(search_path(checkout))}
        command = [sys.executable, "-c", _READ, str(folder), module]
        said = subprocess.run(  # noqa: S603 (this interpreter)
            command, cwd=checkout, env=environment, check=True, capture_output=True, text=True
        ).stdout
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
        best, alone = min(best, spent), min(alone, float(said.split()[0]))
    _, rows, melanomas, layout = said.split(maxsplit=3)
    version = "this" if checkout == _REPOSITORY else str(checkout)
    return ReadingTime(version, layout.strip(), round(best, 2), round(alone, 2), int(rows), int(melanomas))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, help="folder of an older checkout")
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--times", type=int, default=2, help="readings of each, of which the fastest counts")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        for number in range(options.rows):
            Path(data, f"ISIC_{number:07d}.jpg").touch()
        readings = []
        for archive in (False, True):
            write_table(data / "metadata.csv", options.rows, archive)
            readings.append(measure(_REPOSITORY, data, options.times))
        if options.against:
            readings.append(measure(options.against.resolve(), data, 1))
    if options.json:
        print(json.dumps([asdict(reading) for reading in readings], indent=1))
        return
    for reading in readings:
        print(
            f"{reading.cpu_seconds:8.2f} s, {reading.alone:.2f} s without Python's start, "
            f"{reading.rows} rows ({reading.table}), {reading.version}"
        )
    if options.against:
        whole = readings[2].cpu_seconds / readings[1].cpu_seconds
        alone = readings[2].alone / readings[1].alone
        print(f"{whole:.1f} times as fast on the same table, {alone:.1f} times without Python's start")


if __name__ == "__main__":
    main()
