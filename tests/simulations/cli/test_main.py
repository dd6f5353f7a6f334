"""What the researcher's command says, above all where the input is wrong: one line, and nothing half-written."""

import csv
import json
import re
import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
from PIL import Image

from melfed.simulations.cli import main as cli
from melfed.simulations.phantom.dataset import PhantomSpec, write_phantom

Answer = tuple[int, str, str]
Command = Callable[..., Answer]

STUDY = """\
name: small
data: {image_size: 32}
partition: {minimum_images: 4}
model: {backbone: simple_cnn, pretrained: false}
federation: {rounds: 1}
"""


def test_the_version_is_printed(melfed_sim: Command) -> None:
    assert melfed_sim("--version") == (0, f"melfed {version('melfed')}\n", "")


@pytest.fixture
def melfed_sim(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """Run `melfed-sim` in this process; return exit code, stdout and stderr."""
    monkeypatch.setenv("MELFED_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object) -> Answer:
        monkeypatch.setattr("sys.argv", ["melfed-sim", *(str(argument) for argument in arguments)])
        with pytest.raises(SystemExit) as exit_info:
            cli.main()
        captured = capsys.readouterr()
        return int(exit_info.value.code or 0), captured.out, captured.err

    return run


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(STUDY)
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_phantom(tmp_path_factory.mktemp("cli") / "data", PhantomSpec(clinics=2, images=60, size=32))


def change_table(source: Path, target: Path, change: Callable[[list[dict[str, str]]], None]) -> Path:
    """Copy a data folder's table, changed; the images are linked."""
    target.mkdir()
    (target / "images").mkdir()
    for image in (source / "images").iterdir():
        shutil.copy2(image, target / "images" / image.name)
    with (source / "metadata.csv").open() as file:
        rows = list(csv.DictReader(file))
    names = list(rows[0])
    change(rows)
    with (target / "metadata.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
    return target


def refused(answer: Answer, code: int, *words: str) -> None:
    """Assert that a command failed with one line on stderr that holds all the words."""
    exit_code, out, err = answer
    assert exit_code == code, err
    assert out == ""
    lines = [line for line in err.splitlines() if line.strip()]
    assert len(lines) == 1, err
    assert lines[0].startswith("error: ")
    for word in words:
        assert word in lines[0]


def test_partition_prints_the_clinics(melfed_sim: Command, study: Path, images: Path) -> None:
    code, out, _ = melfed_sim("partition", study, "--data", images, "--json")
    assert code == 0
    clinics = json.loads(out)
    assert [clinic["name"] for clinic in clinics] == ["phantom_north", "phantom_south"]
    total = sum(clinic[part]["images"] for clinic in clinics for part in ("train", "validation", "test"))
    assert total == 60
    code, out, _ = melfed_sim("partition", study, "--data", images)
    assert code == 0
    assert "phantom_north" in out


def test_one_picture_under_several_names_is_said(
    melfed_sim: Command, study: Path, images: Path, tmp_path: Path
) -> None:
    images = Path(shutil.copytree(images, tmp_path / "images"))
    _, _, err = melfed_sim("partition", study, "--data", images)
    assert "several names" not in err
    first, second, *_ = sorted((images / "images").iterdir())
    second.write_bytes(first.read_bytes())
    _, _, err = melfed_sim("partition", study, "--data", images)
    assert "2 images are 1 picture under several names (1 of equal bytes" in " ".join(err.split())
    assert "kept together; `melfed-sim data` names them" in " ".join(err.split())
    _, out, _ = melfed_sim("data", images)
    assert "identical files" in out


def test_data_prints_the_inventory(melfed_sim: Command, images: Path) -> None:
    code, out, _ = melfed_sim("data", images, "--json")
    assert code == 0
    inventory = json.loads(out)
    assert inventory["images"] == 60
    assert inventory["layout"] == "melfed"
    code, out, _ = melfed_sim("data", images)
    assert code == 0
    assert "melanomas" in out


def test_keys_shows_every_key_with_its_range(melfed_sim: Command) -> None:
    code, out, _ = melfed_sim("keys")
    assert code == 0
    # A narrow terminal folds the cells.
    text = " ".join(out.replace("│", " ").split())
    assert re.search(r"training\.batch_size 64 images an optimiser step \(≥ 1, ≤ 65536\)", text)


def test_a_missing_folder(melfed_sim: Command, study: Path, tmp_path: Path) -> None:
    refused(melfed_sim("run", study, "--data", tmp_path / "none"), 4, "none")


def test_a_folder_without_a_table(melfed_sim: Command, study: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "notes.csv").write_text("a,b\n1,2\n")
    refused(melfed_sim("run", study, "--data", tmp_path / "data"), 4, "table")


def test_a_table_without_images(melfed_sim: Command, study: Path, images: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "metadata.csv").write_bytes((images / "metadata.csv").read_bytes())
    refused(melfed_sim("run", study, "--data", tmp_path / "data"), 4, "image")


def test_rows_without_images_and_images_without_rows_are_counted(
    melfed_sim: Command, images: Path, tmp_path: Path
) -> None:
    data = change_table(images, tmp_path / "data", lambda rows: rows.pop())
    next((data / "images").iterdir()).unlink()
    Image.new("RGB", (40, 40)).save(data / "images" / "extra.png")
    code, out, _ = melfed_sim("data", data, "--json")
    assert code == 0
    inventory = json.loads(out)
    assert len(inventory["images_without_row"]) in (1, 2)
    assert len(inventory["rows_without_image"]) in (0, 1)


def test_a_target_that_is_not_0_or_1(melfed_sim: Command, study: Path, images: Path, tmp_path: Path) -> None:
    def spoil(rows: list[dict[str, str]]) -> None:
        rows[3]["target"] = "2"

    data = change_table(images, tmp_path / "data", spoil)
    refused(melfed_sim("run", study, "--data", data), 4, "metadata.csv, line 5", "'2'")


def test_one_class_only(melfed_sim: Command, study: Path, images: Path, tmp_path: Path) -> None:
    def spoil(rows: list[dict[str, str]]) -> None:
        for row in rows:
            row["target"], row["diagnosis"] = "0", "nv"

    data = change_table(images, tmp_path / "data", spoil)
    refused(melfed_sim("run", study, "--data", data), 4, "60 images none is positive", "nv")


def test_two_clinics_asked_of_one_source(melfed_sim: Command, study: Path, images: Path) -> None:
    answer = melfed_sim("run", study, "--data", images, "--set", "data.sources=[phantom_north]")
    refused(answer, 3, "1 source", "iid")


def test_an_unknown_key_names_the_nearest(melfed_sim: Command, study: Path) -> None:
    study.write_text(STUDY + "traning: {batch_size: 3}\n")
    refused(melfed_sim("run", study), 3, "study.yaml:6", "traning", "did you mean training?")


def test_a_wrong_value_names_file_line_key_and_range(melfed_sim: Command, study: Path) -> None:
    study.write_text(STUDY.replace("rounds: 1", "rounds: 0"))
    refused(melfed_sim("run", study), 3, "study.yaml:5", "federation.rounds", "greater than or equal to 1", "not 0")


def test_an_unknown_backbone(melfed_sim: Command, study: Path) -> None:
    refused(melfed_sim("run", study, "--set", "model.backbone=resnet19"), 3, "resnet19", "resnet18")


def test_unknown_weights(melfed_sim: Command, study: Path, images: Path, tmp_path: Path) -> None:
    answer = melfed_sim(
        *("run", study, "--data", images, "--out", tmp_path / "run"),
        *("--set", "model.pretrained=true", "--set", "model.backbone=resnet18"),
        *("--set", f"model.weights={tmp_path / 'none.pth'}"),
    )
    refused(answer, 5, "none.pth")
    assert not (tmp_path / "run").exists()


def test_a_run_folder_that_exists(melfed_sim: Command, study: Path, images: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    refused(melfed_sim("run", study, "--data", images, "--out", tmp_path / "run"), 6, "--resume")
    assert list((tmp_path / "run").iterdir()) == []


def test_resuming_what_is_no_run(melfed_sim: Command, study: Path, images: Path, tmp_path: Path) -> None:
    refused(melfed_sim("run", study, "--data", images, "--resume", tmp_path / "run"), 6, "study.yaml")


def test_no_images_are_named(melfed_sim: Command, study: Path) -> None:
    refused(melfed_sim("run", study), 3, "--data")


def test_too_few_usable_images_are_refused_with_the_numbers(
    melfed_sim: Command, study: Path, images: Path, tmp_path: Path
) -> None:
    answer = melfed_sim("run", study, "--data", images, "--set", "partition.minimum_images=39")
    refused(answer, 4, "39", "phantom_north", "27 training images")


def test_more_cpus_than_there_are(melfed_sim: Command, study: Path, images: Path, tmp_path: Path) -> None:
    answer = melfed_sim("run", study, "--data", images, "--out", tmp_path / "run", "--set", "resources.cpus=1000")
    refused(answer, 3, "resources.cpus")
    assert not (tmp_path / "run").exists()


# Private studies.

# How many images there are decides nothing in a private study.
PRIVATE = (
    STUDY.replace("minimum_images: 4", "test: 0.2")
    + "privacy: {unit: patient, epsilon: 3.0, delta: 1.0e-5, recipe: manual}\n"
)


@pytest.fixture
def private(tmp_path: Path) -> Path:
    path = tmp_path / "private.yaml"
    path.write_text(PRIVATE)
    return path


@pytest.mark.parametrize(
    ("privacy", "words"),
    [
        (
            "{unit: patient, epsilon: 3.0, noise_multiplier: 0}",
            ("noise_multiplier is 0, so no epsilon holds",),
        ),
        ("{unit: patient, epsilon: 3.0, noise_multiplier: 1.5}", ("state epsilon or noise_multiplier: both are",)),
        ("{unit: patient}", ("state epsilon or noise_multiplier: neither is",)),
        ("{epsilon: 3.0}", ("privacy.unit is missing", "patient | lesion | image")),
        ("{unit: person, epsilon: 3.0}", ("privacy.unit", "'patient', 'lesion' or 'image'", 'not "person"')),
        ("{unit: patient, epsilon: 3.0, sampling_rate: 0}", ("privacy.sampling_rate", "greater than 0", "not 0")),
        ("{unit: patient, epsilon: 3.0, sampling_rate: 1.5}", ("sampling_rate", "less than or equal to 1", "not 1.5")),
        ("{unit: patient, epsilon: 0}", ("privacy.epsilon", "greater than 0", "not 0")),
        ("{unit: patient, epsilon: .inf}", ("privacy.epsilon",)),
        ("{unit: patient, epsilon: .nan}", ("privacy.epsilon",)),
        ("{unit: patient, noise_multiplier: -1}", ("privacy.noise_multiplier", "greater than or equal to 0", "not -1")),
        ("{unit: patient, epsilon: 3.0, delta: 0}", ("privacy.delta", "greater than 0", "not 0")),
        ("{unit: patient, epsilon: 3.0, delta: 1}", ("privacy.delta", "less than 1", "not 1")),
        ("{unit: patient, epsilon: 3.0, steps: 0}", ("privacy.steps", "greater than or equal to 1", "not 0")),
        ("{unit: patient, epsilon: 3.0, epsilo: 3.0}", ("unknown key privacy.epsilo", "did you mean privacy.epsilon?")),
    ],
)
def test_privacy_that_makes_no_sense(melfed_sim: Command, study: Path, privacy: str, words: tuple[str, ...]) -> None:
    study.write_text(f"{STUDY}privacy: {privacy}\n")
    refused(melfed_sim("run", study), 3, "study.yaml:6", *words)


@pytest.mark.parametrize("mode", ["central", "local"])
def test_a_baseline_cannot_be_private(melfed_sim: Command, private: Path, images: Path, mode: str) -> None:
    answer = melfed_sim("run", private, "--data", images, "--set", f"federation.mode={mode}")
    refused(answer, 3, f"privacy is for federation.mode federated and one_round, not {mode}", "privacy: null")


def test_patients_that_the_data_do_not_name(melfed_sim: Command, private: Path, images: Path, tmp_path: Path) -> None:
    def spoil(rows: list[dict[str, str]]) -> None:
        for row in rows:
            row["patient_id"] = ""

    data = change_table(images, tmp_path / "data", spoil)
    answer = melfed_sim("run", private, "--data", data, "--out", tmp_path / "run")
    refused(answer, 4, "images have no patient id, but the study protects patients", "weaker unit")
    assert not (tmp_path / "run").exists()


def test_an_epsilon_that_no_noise_reaches(melfed_sim: Command, private: Path, images: Path, tmp_path: Path) -> None:
    settings = ("--set", "privacy.epsilon=1e-6", "--set", "privacy.delta=1e-12", "--set", "federation.rounds=100")
    answer = melfed_sim("run", private, "--data", images, "--out", tmp_path / "run", *settings)
    refused(answer, 3, "epsilon", "allow a larger epsilon")
    assert not (tmp_path / "run").exists()


def test_a_delta_that_gives_a_patient_away_is_warned_of_before_training(
    melfed_sim: Command, private: Path, images: Path, tmp_path: Path
) -> None:
    # A run that cannot begin: the folder is taken.
    (tmp_path / "run").mkdir()
    at = ("run", private, "--data", images, "--out", tmp_path / "run")
    code, _, err = melfed_sim(*at, "--set", "privacy.delta=0.2")
    assert code == 6
    warnings = [line for line in err.splitlines() if line.startswith("warning: ")]
    assert warnings
    said = re.compile(r"warning: phantom_\w+: delta 0\.2 is not below 1/N for N = (\d+) units: .*")
    for line in warnings:
        match = said.fullmatch(line)
        assert match, line
        assert 5 <= int(match[1]) <= 60
    code, _, err = melfed_sim(*at)
    assert code == 6
    assert "warning" not in err


POLICY = "policy: {epsilon: 1, studies: any}\n"


def test_a_policy_for_a_clinic_that_is_not_there(
    melfed_sim: Command, private: Path, images: Path, tmp_path: Path
) -> None:
    (tmp_path / "clinic.yaml").write_text(POLICY)
    answer = melfed_sim("run", private, "--data", images, "--policy", f"west={tmp_path / 'clinic.yaml'}")
    refused(answer, 3, "no clinic 'west'", "phantom_north, phantom_south")


def test_a_policy_in_a_baseline(melfed_sim: Command, study: Path, images: Path, tmp_path: Path) -> None:
    (tmp_path / "clinic.yaml").write_text(POLICY)
    central = ("--set", "federation.mode=central", "--policy", tmp_path / "clinic.yaml")
    refused(melfed_sim("run", study, "--data", images, *central), 3, "--policy", "central baseline")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, ("clinic.yaml: no such clinic configuration file",)),
        ("policy: {studies: any}", ("clinic.yaml:1: policy.epsilon is missing",)),
        ("policy: {epsilon: 1, epsilom: 2}", ("clinic.yaml:1: unknown key policy.epsilom",)),
        ("policy: {epsilon: 1, unit: person}", ("clinic.yaml:1: policy.unit",)),
    ],
)
def test_a_policy_that_cannot_be_read(
    melfed_sim: Command, private: Path, images: Path, tmp_path: Path, text: str | None, words: tuple[str, ...]
) -> None:
    path = tmp_path / "clinic.yaml"
    if text is not None:
        path.write_text(text)
    answer = melfed_sim("run", private, "--data", images, "--out", tmp_path / "run", "--policy", path)
    refused(answer, 11, *words)
    assert not (tmp_path / "run").exists()


def test_a_neck_without_a_public_run(melfed_sim: Command, private: Path, images: Path, tmp_path: Path) -> None:
    import torch

    from melfed.common.model.classifier import build_trunk

    weights = tmp_path / "squeezenet1_1.pth"
    torch.save(build_trunk("squeezenet1_1", pretrained=True).state_dict(), weights)
    model = ("backbone=squeezenet1_1", "pretrained=true", "train=head", "neck=8", f"weights={weights}")
    settings = [part for key in model for part in ("--set", f"model.{key}")]
    answer = melfed_sim("run", private, "--data", images, "--out", tmp_path / "run", *settings)
    refused(answer, 3, "model.neck is 8", "no finished run")
    assert not (tmp_path / "run").exists()


def test_phantom_renders_a_folder_for_several_clinics(melfed_sim: Command, tmp_path: Path) -> None:
    options = ("--clinics", 2, "--images", 40, "--size", 32, "--seed", 3)
    code, out, _ = melfed_sim("phantom", tmp_path / "data", *options)
    assert code == 0
    assert "40 synthetic images of phantom_north, phantom_south" in out
    with (tmp_path / "data" / "metadata.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["source"] for row in rows} == {"phantom_north", "phantom_south"}
    assert (tmp_path / "data" / "SYNTHETIC.txt").is_file()
    with Image.open(tmp_path / "data" / rows[0]["image"]) as image:
        assert image.size == (32, 32)
    assert melfed_sim("phantom", tmp_path / "data", *options)[0] == 0
    refused(melfed_sim("phantom", tmp_path / "data", *options[:-1], 4), 4, "another")


def test_phantom_refuses_what_cannot_be_rendered(melfed_sim: Command, tmp_path: Path) -> None:
    refused(melfed_sim("phantom", tmp_path / "data", "--images", 3), 4, "too few")
    assert not (tmp_path / "data").exists()


def test_diagnoses_that_nobody_knows_stop_a_study_until_each_is_mapped(
    melfed_sim: Command, study: Path, images: Path, tmp_path: Path
) -> None:
    def spoil(rows: list[dict[str, str]]) -> None:
        for row in [row for row in rows if row["target"] == "1"][:2]:
            row["diagnosis"] = "Klasse 7"

    data = change_table(images, tmp_path / "odd", spoil)
    refused(melfed_sim("partition", study, "--data", data), 4, "'Klasse 7' (2)", "--diagnosis")
    code, out, err = melfed_sim("data", data)
    assert code == 4
    assert "NOT KNOWN: map it" in out
    assert "'Klasse 7' (2)" in err
    shown = json.loads(melfed_sim("data", data, "--json")[1])
    assert [use["word"] for use in shown["understood"]["words"] if use["reading"] == "unknown"] == ["Klasse 7"]
    for mapped, images_left in (("mel", 60), ("leave_out", 58)):
        code, out, _ = melfed_sim("partition", study, "--data", data, "--diagnosis", f"klasse 7={mapped}", "--json")
        assert code == 0
        parts = ("train", "validation", "test")
        assert sum(clinic[part]["images"] for clinic in json.loads(out) for part in parts) == images_left
    refused(melfed_sim("data", data, "--diagnosis", "Klasse 7"), 4, "WORD=CODE")
