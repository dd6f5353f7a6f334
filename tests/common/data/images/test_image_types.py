"""How a picture was taken, by the words of the ISIC archive and of clinics."""

import pytest

from melfed.common.data.images.image_types import read_image_type, read_manipulation


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        *[("dermoscopic", "dermoscopic"), ("Dermoscopy", "dermoscopic"), ("contact polarized", "dermoscopic")],
        *[("non-contact polarized", "dermoscopic"), ("Auflichtmikroskopie", "dermoscopic")],
        *[("clinical: close-up", "clinical"), ("clinical: overview", "overview"), ("Makroaufnahme", "clinical")],
        *[("overview", "overview"), ("photo", "clinical"), ("Klinisches Bild", "clinical")],
        *[("TBP tile: close-up", "tbp tile"), ("TBP tile: overview", "tbp overview"), ("total body", "tbp tile")],
        *[("RCM: macroscopic", "rcm"), ("confocal", "rcm"), ("ultrasound", None), ("", None)],
    ],
)
def test_kinds_of_pictures(text: str, kind: str | None) -> None:
    assert read_image_type(text) == kind


@pytest.mark.parametrize("text", ["instrument only", "None", "no", "Unaltered", "original"])
def test_a_picture_as_it_was_taken(text: str) -> None:
    assert read_manipulation(text) is None


@pytest.mark.parametrize(("text", "said"), [("Altered", "altered"), (" synthetic", "synthetic")])
def test_what_was_done_to_it(text: str, said: str) -> None:
    assert read_manipulation(text) == said
