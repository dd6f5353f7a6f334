"""What a run takes of the server's memory, and a run that does not fit."""

import pytest

from melfed.common.errors import RunError
from melfed.common.model.classifier import build_classifier, trainable_tensors
from melfed.common.study.protocol import StudyProtocol
from melfed.server.federation import memory
from melfed.server.federation.memory import BASE_BYTES, TORCH_BYTES, needed_memory, network_bytes, require_memory


def study_of(backbone: str = "resnet50", **federation: object) -> StudyProtocol:
    made = StudyProtocol(name="large").with_changes("model", backbone=backbone, pretrained=False, train="full")
    return made.with_changes("federation", **federation) if federation else made


def test_what_learns_is_counted_as_it_travels() -> None:
    study = study_of("simple_cnn")
    network = build_classifier(study.model, seed=0, state=None)
    learnt = sum(tensor.nbytes for tensor in trainable_tensors(network).values())
    assert network_bytes(study) == (learnt, sum(4 * each.numel() for each in network.state_dict().values()))
    head = StudyProtocol().with_changes("model", backbone="efficientnet_lite0", pretrained=True, train="head")
    learnt, whole = network_bytes(head)
    assert learnt < 20_000 < 13_000_000 < whole


@pytest.mark.parametrize(
    ("federation", "models"),
    [
        ({}, 4.5),
        ({"algorithm": "fedavgm"}, 6.5),
        ({"algorithm": "fedadam"}, 8.5),
        ({"tail_average": 0.5}, 6.5),
        ({"compression": "int8"}, 5.5),
        ({"robust": "median"}, 4.5 + 7),
    ],
)
def test_what_a_study_asks_for_counts(federation: dict[str, object], models: float) -> None:
    study = study_of("vgg16", **federation)
    learnt, _ = network_bytes(study)
    assert learnt > 530_000_000
    assert needed_memory(study, 7) == pytest.approx(
        BASE_BYTES + max(models, 3 + TORCH_BYTES / learnt) * learnt, rel=1e-3
    )


def test_a_small_model_needs_what_torch_does() -> None:
    learnt, whole = network_bytes(study_of("simple_cnn"))
    assert needed_memory(study_of("simple_cnn"), 3) == BASE_BYTES + TORCH_BYTES + whole + 2 * learnt


def test_a_run_that_does_not_fit_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    study = study_of("vgg16")
    needed = needed_memory(study, 2)
    monkeypatch.setattr(memory, "available_memory", lambda: needed)
    require_memory(study, 2)
    monkeypatch.setattr(memory, "available_memory", lambda: 1_200_000_000)
    words = (
        r"^study large needs 2\.8 GB of this server's memory with 2 clinics, and 1\.2 GB are left; end other programs"
    )
    with pytest.raises(RunError, match=words) as caught:
        require_memory(study, 2)
    assert "\n" not in str(caught.value)
    with pytest.raises(RunError, match=r"or federation\.robust none$"):
        require_memory(study_of("vgg16", robust="median"), 9)
