"""Data folders in every layout that is read, with made-up rows and pictures, and what a study finds in each.

`python -m tests.simulations.layouts` runs one round of a private study on each, in real processes, and prints a table.
`--only NAME` takes a part.
"""

import argparse
import io
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import h5py
import numpy as np
import openpyxl
from PIL import Image, ImageDraw

from tests.common.data.made_pictures import dicom_bytes, native
from tests.common.lesions import write

LESIONS: Final = 40
SIDE: Final = 48
STUDY: Final = """\
name: layouts
data: {image_size: 32}
partition: {by: iid, clinics: 2, validation: 0.2, test: 0.2}
model: {backbone: simple_cnn, pretrained: false}
training: {optimizer: sgd, learning_rate: 0.05, warmup_steps: 0, augment: false}
federation: {rounds: 1}
privacy: {unit: UNIT, epsilon: 8, recipe: manual, sampling_rate: 0.5, steps: 1}
"""
"""One private round; `UNIT` stands for what a layout names."""


@dataclass(frozen=True)
class Lesion:
    """One made-up lesion: a third are melanomas, and two lesions are one patient's."""

    number: int

    @property
    def melanoma(self) -> bool:
        """Whether it is a melanoma."""
        return self.number % 3 == 0

    @property
    def isic(self) -> str:
        """An id as the archive gives out."""
        return f"ISIC_{self.number:07d}"

    @property
    def patient(self) -> str:
        """Likewise of its patient."""
        return f"IP_{self.number // 2:07d}"

    @property
    def age(self) -> str:
        """Years, unknown of every tenth."""
        return "" if self.number % 10 == 9 else f"{30 + self.number}.0"

    def one_hot(self, classes: str) -> str:
        """1.0 below its class and 0.0 below the others, of codes with commas between them."""
        own = "MEL" if self.melanoma else "NV"
        return ",".join(str(float(name == own)) for name in classes.split(","))


@dataclass(frozen=True)
class Layout:
    """A way to publish lesions.

    Attributes:
        make: fills a folder with them.
        unit: the strongest that its tables name.
        read_as: what melfed calls it.
        pictures: of each lesion.
        options: of the command.
    """

    make: Callable[[Path], None]
    unit: str
    read_as: str
    pictures: int = 1
    options: tuple[str, ...] = ()

    @property
    def images(self) -> int:
        """How many pictures there are."""
        return LESIONS * self.pictures

    @property
    def melanomas(self) -> int:
        """How many of them show a melanoma."""
        return sum(lesion.melanoma for lesion in LESIONS_OF_ALL) * self.pictures

    @property
    def units(self) -> int:
        """How many patients, lesions or images a private study protects."""
        lesions = {"patient": math.ceil(LESIONS / 2), "lesion": LESIONS, "image": self.images}
        return lesions[self.unit]


LESIONS_OF_ALL: Final = tuple(map(Lesion, range(LESIONS)))


@cache
def pixels(number: int) -> np.ndarray:
    """A spot on skin, uint8 (48, 48, 3): no two numbers have one picture."""
    chance = np.random.default_rng(number)
    skin = np.clip(np.array([205, 160, 140]) + chance.normal(0, 12, (SIDE, SIDE, 3)), 0, 255)
    picture = Image.fromarray(skin.astype(np.uint8))
    left, top, right, bottom = (int(value) for value in chance.integers([4, 4, 26, 26], [20, 20, 44, 44]))
    colour = (40, 25, 30) if number % 3 == 0 else (120, 80, 60)
    ImageDraw.Draw(picture).ellipse((left, top, right, bottom), fill=colour)
    return np.asarray(picture)


def encoded(number: int, kind: str) -> bytes:
    """The same as a file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels(number)).save(buffer, kind)
    return buffer.getvalue()


def paint(folder: Path, names: Sequence[str]) -> None:
    """Write pictures under paths below a folder."""
    kinds = {".jpg": "JPEG", ".png": "PNG", ".bmp": "BMP"}
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(number, kinds[path.suffix]))


def table(path: Path, header: str, line: Callable[[Lesion], str]) -> None:
    """Write a table with a line a lesion; without a header where it is empty."""
    write(path, *([header] if header else []), *map(line, LESIONS_OF_ALL))


def isic_images(folder: Path, name: str = "images/{}.jpg") -> None:
    """A picture a lesion under its id."""
    paint(folder, [name.format(lesion.isic) for lesion in LESIONS_OF_ALL])


def isic2016(folder: Path) -> None:
    table(folder / "truth.csv", "", lambda each: f"{each.isic},{'malignant' if each.melanoma else 'benign'}")
    isic_images(folder)


def isic2017(folder: Path) -> None:
    table(
        folder / "truth.csv",
        "image_id,melanoma,seborrheic_keratosis",
        lambda each: f"{each.isic},{float(each.melanoma)},0.0",
    )
    table(
        folder / "metadata.csv",
        "image_id,age_approximate,sex",
        lambda each: f"{each.isic},{each.age or 'unknown'},male",
    )
    isic_images(folder)


def isic2018(folder: Path) -> None:
    classes = "MEL,NV,BCC,AKIEC,BKL,DF,VASC"
    table(folder / "truth.csv", f"image,{classes}", lambda each: f"{each.isic},{each.one_hot(classes)}")
    table(
        folder / "groups.csv",
        "image,lesion_id,diagnosis_confirm_type",
        lambda each: f"{each.isic},HAM_{each.number:07d},histopathology",
    )
    isic_images(folder)


def ham10000(folder: Path) -> None:
    table(
        folder / "HAM10000_metadata.csv",
        "lesion_id,image_id,dx,dx_type,age,sex,localization,dataset",
        lambda each: (
            f"HAM_{each.number:07d},{each.isic},{'mel' if each.melanoma else 'nv'},histo,{each.age},male,back,"
            f"{'vidir_modern' if each.number % 2 else 'rosendahl'}"
        ),
    )
    isic_images(folder, "HAM10000_images_part_1/{}.jpg")


def ham10000_re_export(folder: Path) -> None:
    table(
        folder / "train.csv",
        "Unnamed: 0;lesion_id;image_id;dx;dx_type;age;sex;localization;path",
        lambda each: (
            f"{each.number};HAM_{each.number:07d};{each.isic};{'melanoma' if each.melanoma else 'Nevus'};histo;"
            f"{each.age};MALE;back;/kaggle/input/{each.isic}.jpg"
        ),
    )
    isic_images(folder)


ISIC2019: Final = "MEL,NV,BCC,AK,BKL,DF,VASC,SCC,UNK"


def isic2019(folder: Path) -> None:
    def name(each: Lesion) -> str:
        return f"{each.isic}_downsampled" if each.number % 5 == 0 else each.isic

    table(folder / "truth.csv", f"image,{ISIC2019}", lambda each: f"{name(each)},{each.one_hot(ISIC2019)}")
    table(
        folder / "metadata.csv",
        "image,age_approx,anatom_site_general,lesion_id,sex",
        lambda each: f"{name(each)},{each.age},anterior torso,BCN_{each.number:07d},female",
    )
    paint(folder, [f"ISIC_2019_Training_Input/{name(each)}.jpg" for each in LESIONS_OF_ALL])


def fed_isic2019(folder: Path) -> None:
    table(
        folder / "train_test_split.csv",
        f"image,{ISIC2019},target,center,fold,fold2",
        lambda each: f"{each.isic},{each.one_hot(ISIC2019)},{int(not each.melanoma)},{each.number % 2},train,train_0",
    )
    isic_images(folder, "ISIC_2019_Training_Input_preprocessed/{}.jpg")


def isic2020(folder: Path) -> None:
    table(
        folder / "truth.csv",
        "image_name,patient_id,lesion_id,sex,age_approx,anatom_site_general_challenge,diagnosis,benign_malignant,target",
        lambda each: (
            f"{each.isic},{each.patient},IL_{each.number:07d},male,{each.age},torso,"
            + ("melanoma,malignant,1" if each.melanoma else "unknown,benign,0")
        ),
    )
    isic_images(folder, "train/{}.jpg")


LEVELS: Final = {
    True: ("Malignant", "Malignant melanocytic proliferations (Melanoma)", "Melanoma in situ", "", ""),
    False: ("Benign", "Benign melanocytic proliferations", "Nevus", "", ""),
}


def iddx(each: Lesion) -> str:
    """The archive's levels of a diagnosis, whole and one by one."""
    levels = LEVELS[each.melanoma]
    return ",".join(["::".join(filter(None, levels)), *levels])


IDDX: Final = "iddx_full,iddx_1,iddx_2,iddx_3,iddx_4,iddx_5"


def isic2024(folder: Path) -> None:
    table(
        folder / "train-metadata.csv",
        f"isic_id,target,patient_id,age_approx,sex,anatom_site_general,image_type,tbp_lv_A,attribution,lesion_id,{IDDX}",
        lambda each: (
            f"{each.isic},{int(each.melanoma)},{each.patient},{each.age},male,posterior torso,TBP tile: close-up,18.1,"
            f"Clinic,IL_{each.number:07d},{iddx(each)}"
        ),
    )
    with h5py.File(folder / "train-image.hdf5", "w") as file:
        for each in LESIONS_OF_ALL:
            file[each.isic] = np.void(encoded(each.number, "JPEG"))


def isic2024_of_the_challenge(folder: Path) -> None:
    table(folder / "truth.csv", "isic_id,malignant", lambda each: f"{each.isic},{float(each.melanoma)}")
    table(folder / "supplement.csv", f"isic_id,{IDDX}", lambda each: f"{each.isic},{iddx(each)}")
    table(
        folder / "metadata.csv",
        "isic_id,patient_id,sex,age_approx,anatom_site_general,tbp_lv_A,attribution",
        lambda each: f"{each.isic},{each.patient},male,{each.age},posterior torso,18.1,Clinic",
    )
    isic_images(folder, "ISIC_2024_Training_Input/{}.jpg")


MILK10K: Final = "AKIEC,BCC,BEN_OTH,BKL,DF,INF,MAL_OTH,MEL,NV,SCCKA,VASC"


def milk10k(folder: Path) -> None:
    kinds = {"dermoscopic": "ISIC_1", "clinical: close-up": "ISIC_2"}

    def both(line: Callable[[Lesion, str], str]) -> Iterator[str]:
        return (line(each, kind) for each in LESIONS_OF_ALL for kind in kinds)

    table(folder / "truth.csv", f"lesion_id,{MILK10K}", lambda each: f"IL_{each.number:07d},{each.one_hot(MILK10K)}")
    write(
        folder / "metadata.csv",
        "lesion_id,image_type,isic_id,attribution,image_manipulation,age_approx,sex,skin_tone_class,site",
        *both(
            lambda each, kind: (
                f"IL_{each.number:07d},{kind},{kinds[kind]}{each.number:06d},MILK study team,instrument only,"
                f"{each.age},male,3,head_neck_face"
            )
        ),
    )
    write(
        folder / "supplement.csv",
        "isic_id,diagnosis_full,diagnosis_confirm_type,invasion_thickness_interval",
        *both(
            lambda each, kind: (
                f"{kinds[kind]}{each.number:06d},{'Melanoma in situ' if each.melanoma else 'Nevus'},histopathology,"
            )
        ),
    )
    paint(
        folder,
        [
            f"images/IL_{each.number:07d}/{kinds[kind]}{each.number:06d}.jpg"
            for each in LESIONS_OF_ALL
            for kind in kinds
        ],
    )


def pad_ufes_20(folder: Path) -> None:
    def name(each: Lesion) -> str:
        return f"PAT_{each.number // 2}_{each.number}_7.png"

    table(
        folder / "metadata.csv",
        "patient_id,lesion_id,age,gender,fitspatrick,region,diagnostic,img_id,biopsed",
        lambda each: (
            f"PAT_{each.number // 2},{each.number},{each.number + 30},FEMALE,2.0,FACE,"
            f"{'MEL' if each.melanoma else 'NEV'},{name(each)},True"
        ),
    )
    paint(folder, [f"imgs_part_{each.number % 3 + 1}/{name(each)}" for each in LESIONS_OF_ALL])


def derm7pt(folder: Path) -> None:
    table(
        folder / "meta/meta.csv",
        "case_num,diagnosis,seven_point_score,location,sex,management,clinic,derm,case_id,notes",
        lambda each: (
            f"{each.number + 1},{'melanoma (less than 0.76 mm)' if each.melanoma else 'clark nevus'},3,back,female,"
            f"excision,NEL/Nel{each.number:03d}.jpg,NEL/NEL{each.number + 500:03d}.jpg,,"
        ),
    )
    names = [f"Nel{number:03d}" for number in range(LESIONS)]
    paint(folder, [f"images/NEL/{name}.jpg" for name in [*names, *(f"NEL{n + 500:03d}" for n in range(LESIONS))]])


def bcn20000(folder: Path) -> None:
    table(
        folder / "bcn_20k_train.csv",
        "bcn_filename,age_approx,anatom_site_general,diagnosis,lesion_id,capture_date,sex,split",
        lambda each: (
            f"BCN_{each.number:010d}.jpg,{each.age},anterior torso,{'MEL' if each.melanoma else 'NV'},"
            f"BCN_{each.number:07d},2012-05-16,male,train"
        ),
    )
    paint(folder, [f"BCN_20k_train/BCN_{number:010d}.jpg" for number in range(LESIONS)])


def ph2(folder: Path) -> None:
    book = openpyxl.Workbook()
    sheet = book.active
    for line in (["PH² database"], [], ["Image Name", "Common Nevus", "Atypical Nevus", "Melanoma", "Asymmetry"]):
        sheet.append(line)
    for each in LESIONS_OF_ALL:
        sheet.append([f"IMD{each.number:03d}", *((None, None, "X") if each.melanoma else ("X", None, None)), 0])
    book.save(folder / "PH2_dataset.xlsx")
    names = [f"IMD{number:03d}" for number in range(LESIONS)]
    paint(folder, [f"PH2 Dataset images/{name}/{name}_Dermoscopic_Image/{name}.bmp" for name in names])


def ddi(folder: Path) -> None:
    table(
        folder / "ddi_metadata.csv",
        ",DDI_ID,DDI_file,skin_tone,malignant,disease",
        lambda each: (
            f"{each.number},{each.number + 1},{each.number + 1:06d}.png,56,{each.melanoma},"
            f"{'melanoma-in-situ' if each.melanoma else 'melanocytic-nevi'}"
        ),
    )
    paint(folder, [f"{number + 1:06d}.png" for number in range(LESIONS)])


def fitzpatrick17k(folder: Path) -> None:
    table(
        folder / "fitzpatrick17k.csv",
        "md5hash,fitzpatrick_scale,fitzpatrick_centaur,label,nine_partition_label,three_partition_label,qc,url",
        lambda each: (
            f"{each.number:032x},3,3,{'malignant melanoma' if each.melanoma else 'dermatofibroma'},malignant melanoma,"
            "malignant,,u"
        ),
    )
    paint(folder, [f"images/{number:032x}.jpg" for number in range(LESIONS)])


def archive_of_today(folder: Path) -> None:
    table(
        folder / "metadata.csv",
        "isic_id,attribution,copyright_license,age_approx,anatom_site_1,anatom_site_2,diagnosis_1,diagnosis_2,"
        "diagnosis_3,diagnosis_4,diagnosis_5,image_type,image_manipulation,lesion_id,patient_id,sex",
        lambda each: (
            f"{each.isic},Clinic,CC-0,{each.age},Trunk,Posterior trunk,{','.join(LEVELS[each.melanoma])},dermoscopic,"
            f"instrument only,IL_{each.number:07d},{each.patient},male"
        ),
    )
    isic_images(folder, "{}.jpg")


def archive_of_2023(folder: Path) -> None:
    table(
        folder / "metadata.csv",
        "isic_id,attribution,age_approx,anatom_site_general,benign_malignant,diagnosis,image_type,lesion_id,patient_id,sex",
        lambda each: (
            f"{each.isic},Clinic,{each.age},upper extremity,"
            f"{'malignant,melanoma' if each.melanoma else 'benign,nevus'},dermoscopic,IL_{each.number:07d},"
            f"{each.patient},male"
        ),
    )
    isic_images(folder, "{}.jpg")


def archive_until_2021(folder: Path) -> None:
    table(
        folder / "metadata.csv",
        "name,dataset.name,meta.clinical.age_approx,meta.clinical.sex,meta.clinical.anatom_site_general,"
        "meta.clinical.benign_malignant,meta.clinical.diagnosis",
        lambda each: (
            f"{each.isic},MSK-1,{each.age},male,anterior torso,"
            f"{'malignant,melanoma' if each.melanoma else 'benign,nevus'}"
        ),
    )
    isic_images(folder, "{}.jpg")


def folders_by_class(folder: Path) -> None:
    paint(
        folder,
        [f"train/{'Melanoma' if each.melanoma else 'benign'}/{each.number}.jpg" for each in LESIONS_OF_ALL],
    )


def dicom(folder: Path) -> None:
    table(
        folder / "befunde.csv",
        "Accession Number;Diagnose",
        lambda each: f"A{each.number};{'Melanom' if each.melanoma else 'Nävus'}",
    )
    for each in LESIONS_OF_ALL:
        made = native(np.kron(pixels(each.number), np.ones((2, 2, 1), np.uint8))[:64, :64])
        made.PatientID, made.PatientName, made.PatientSex, made.PatientAge = f"{each.number // 2}", "A^B", "F", "060Y"
        made.AccessionNumber = f"A{each.number}"
        made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{each.number + 1}"
        path = folder / f"PAT{each.number // 2:03d}/IM{each.number:04d}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(dicom_bytes(made))


LAYOUTS: Final = {
    "ISIC 2016": Layout(isic2016, "image", "ISIC 2016"),
    "ISIC 2017": Layout(isic2017, "image", "ISIC 2017"),
    "ISIC 2018": Layout(isic2018, "lesion", "ISIC 2018"),
    "HAM10000": Layout(ham10000, "lesion", "HAM10000", options=("--set", "partition.by=source")),
    "HAM10000, a re-export": Layout(ham10000_re_export, "lesion", "HAM10000"),
    "ISIC 2019": Layout(isic2019, "lesion", "ISIC 2019"),
    "Fed-ISIC2019's split": Layout(fed_isic2019, "image", "ISIC 2019", options=("--set", "partition.by=source")),
    "ISIC 2020": Layout(isic2020, "patient", "ISIC 2020"),
    "ISIC 2024 in HDF5": Layout(isic2024, "patient", "ISIC 2024"),
    "ISIC 2024, three tables": Layout(isic2024_of_the_challenge, "patient", "ISIC 2024"),
    "MILK10k / ISIC 2025": Layout(milk10k, "lesion", "MILK10k", pictures=2),
    "PAD-UFES-20": Layout(pad_ufes_20, "patient", "PAD-UFES-20"),
    "Derm7pt": Layout(derm7pt, "lesion", "Derm7pt", pictures=2),
    "BCN20000": Layout(bcn20000, "lesion", "BCN20000"),
    "PH2": Layout(ph2, "image", "PH2"),
    "DDI": Layout(ddi, "image", "DDI"),
    "Fitzpatrick17k": Layout(fitzpatrick17k, "image", "Fitzpatrick17k"),
    "ISIC archive of today": Layout(archive_of_today, "patient", "ISIC archive"),
    "ISIC archive of 2023": Layout(archive_of_2023, "patient", "ISIC archive"),
    "ISIC archive until 2021": Layout(archive_until_2021, "image", "ISIC archive"),
    "folders by class": Layout(
        folders_by_class, "image", "folders by class", options=("--classes", "benign=0,melanoma=1")
    ),
    "DICOM and a table": Layout(dicom, "patient", "melfed"),
}
"""All of them by name."""


def command(layout: Layout, folder: Path) -> list[str]:
    """Fill a folder with a layout's data and a private study, and return the arguments of `melfed-sim` that runs it."""
    (folder / "data").mkdir()
    layout.make(folder / "data")
    (folder / "study.yaml").write_text(STUDY.replace("UNIT", layout.unit))
    places = ("--data", folder / "data", "--out", folder / "run", "--cache", folder / "cache")
    return ["run", str(folder / "study.yaml"), *map(str, places), *layout.options]


def main() -> None:
    """Print the table, a row as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", choices=list(LAYOUTS))
    chosen = parser.parse_args()
    print("| layout | read as | images | melanomas | units | rounds | seconds |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name in chosen.only or LAYOUTS:
        with tempfile.TemporaryDirectory() as place:
            started = time.monotonic()
            words = [sys.executable, "-m", "melfed.simulations.cli.main", *command(LAYOUTS[name], Path(place))]
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            seconds = time.monotonic() - started
            if done.returncode:
                print(f"| {name} | exit {done.returncode}: {done.stderr.strip().splitlines()[-1]} |", flush=True)
                continue
            summary = json.loads(Path(place, "run/summary.json").read_text())
            data, units = summary["data"], f"{summary['data']['groups']} ({summary['privacy']['unit']}s)"
            counts = f"{data['images']} | {data['melanomas']} | {units} | {len(summary['rounds'])}"
            print(f"| {name} | {data['layout']} | {counts} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
