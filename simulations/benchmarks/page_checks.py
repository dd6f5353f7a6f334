"""How many pictures the page's own checks let pass: as they are, and blurred.

    python -m melfed.simulations.benchmarks.page_checks --data DIR [--most 251] [--blur 2] [--json]

Runs the page's `picture.js` and `checks.js` in headless Chromium (selenium) on pictures of a labelled folder, by an
even step over its table. Blurred ones are blurred as a picture out of focus is, before they are given to the page: by a
Gaussian whose standard deviation is so many pixels of the 128 that the checks look at.
"""

import json
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from PIL import Image, ImageFilter, ImageOps

from melfed.common.data.records import read_table
from melfed.common.errors import RunError
from melfed.simulations.benchmarks.browser import chromium, served

SIDE: Final = 128
"""Of the square that is checked (`checks.js`)."""
SCRIPTS: Final = ("picture.js", "checks.js")
BLANK: Final = '<!doctype html><meta charset="utf-8"><title>checks</title><input id="files" type="file" multiple>'
AT_ONCE: Final = 50
CHECK: Final = """
const done = arguments[0];
(async () => {
  const {PictureError, read, square} = await import('./picture.js');
  const {SIDE, checks} = await import('./checks.js');
  const found = [];
  for (const file of document.getElementById('files').files) {
    try {
      found.push(checks(square(await read(file), SIDE)));
    } catch (error) {
      if (!(error instanceof PictureError)) throw error;
      found.push(null);
    }
  }
  return found;
})().then((found) => done({found}), (error) => done({error: String(error)}));
"""
Checked = dict[str, dict[str, Any]]
"""Of each check `value` and whether it is `good`."""


def checked(pictures: Sequence[Path]) -> Iterator[Checked | None]:
    """Yield what the page's checks say of each picture; None where the page cannot read it. Raises RunError."""
    static = resources.files("melfed.server.phone") / "static"
    with tempfile.TemporaryDirectory(prefix="melfed-checks-") as folder:
        for name in SCRIPTS:
            Path(folder, name).write_bytes((static / name).read_bytes())
        Path(folder, "index.html").write_text(BLANK, encoding="utf-8")
        with served(Path(folder)) as address, chromium() as browser:
            for first in range(0, len(pictures), AT_ONCE):
                # Opened anew each time: a file input adds to the files that it has.
                browser.get(f"{address}/index.html")
                names = [str(path.absolute()) for path in pictures[first : first + AT_ONCE]]
                browser.find_element("id", "files").send_keys("\n".join(names))
                answer = browser.execute_async_script(CHECK)
                if "error" in answer:
                    raise RunError(f"{names[0]} and those after it: the page's checks failed: {answer['error']}")
                yield from answer["found"]


def blurred(picture: Path, out: Path, pixels: float) -> Path:
    """Write a picture blurred by so many pixels of `SIDE`, as PNG; return `out`."""
    with Image.open(picture) as image:
        upright = ImageOps.exif_transpose(image).convert("RGB")
    upright.filter(ImageFilter.GaussianBlur(pixels * min(upright.size) / SIDE)).save(out, compress_level=1)
    return out


def counted(found: Sequence[Checked | None]) -> dict[str, Any]:
    """Return how many pictures pass all checks and each of them, and the median of each check's value."""
    read = [each for each in found if each is not None]
    result: dict[str, Any] = {"pictures": len(found), "unreadable": len(found) - len(read)}
    result["pass"] = sum(all(check["good"] for check in each.values()) for each in read)
    for name in read[0] if read else ():
        result[f"{name}_pass"] = sum(bool(each[name]["good"]) for each in read)
        result[f"{name}_median"] = statistics.median(each[name]["value"] for each in read)
    return result


def measure(data: Path, most: int, blur: float) -> dict[str, Any]:
    """Return the counts of a folder's pictures as they are, and blurred.

    Args:
        data: the labelled folder.
        most: pictures at most, by an even step over the table.
        blur: standard deviation, pixels of `SIDE`.
    """
    table = read_table(data)
    pictures = [table.root / record.image for record in table.records[:: max(1, -(-len(table.records) // most))]]
    with tempfile.TemporaryDirectory(prefix="melfed-blurred-") as folder:
        soft = [blurred(path, Path(folder, f"{number}.png"), blur) for number, path in enumerate(pictures)]
        return {"as_they_are": counted(list(checked(pictures))), "blurred": counted(list(checked(soft))), "blur": blur}


def main(
    data: Annotated[Path, typer.Option(help="labelled folder")],
    most: Annotated[int, typer.Option(min=1, help="pictures at most")] = 251,
    blur: Annotated[float, typer.Option(min=0, help="pixels of 128")] = 2.0,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Measure what the page's checks let pass."""
    sys.stdout.write(json.dumps(measure(data, most, blur), indent=None if as_json else 2) + "\n")


if __name__ == "__main__":
    typer.run(main)
