from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Question(_message.Message):
    __slots__ = ("study", "digest", "run", "round", "deadline_seconds", "flower_run", "size", "without_counts", "delivery")
    STUDY_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    ROUND_FIELD_NUMBER: _ClassVar[int]
    DEADLINE_SECONDS_FIELD_NUMBER: _ClassVar[int]
    FLOWER_RUN_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    WITHOUT_COUNTS_FIELD_NUMBER: _ClassVar[int]
    DELIVERY_FIELD_NUMBER: _ClassVar[int]
    study: str
    digest: str
    run: str
    round: int
    deadline_seconds: float
    flower_run: int
    size: int
    without_counts: bool
    delivery: Delivery
    def __init__(self, study: _Optional[str] = ..., digest: _Optional[str] = ..., run: _Optional[str] = ..., round: _Optional[int] = ..., deadline_seconds: _Optional[float] = ..., flower_run: _Optional[int] = ..., size: _Optional[int] = ..., without_counts: _Optional[bool] = ..., delivery: _Optional[_Union[Delivery, _Mapping]] = ...) -> None: ...

class Delivery(_message.Message):
    __slots__ = ("facts", "signature", "certificate")
    FACTS_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    facts: str
    signature: bytes
    certificate: str
    def __init__(self, facts: _Optional[str] = ..., signature: _Optional[bytes] = ..., certificate: _Optional[str] = ...) -> None: ...

class DeliverReply(_message.Message):
    __slots__ = ("clinic", "failure")
    CLINIC_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    clinic: str
    failure: Failure
    def __init__(self, clinic: _Optional[str] = ..., failure: _Optional[_Union[Failure, _Mapping]] = ...) -> None: ...

class QuestionPart(_message.Message):
    __slots__ = ("question", "tensors")
    QUESTION_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    question: Question
    tensors: bytes
    def __init__(self, question: _Optional[_Union[Question, _Mapping]] = ..., tensors: _Optional[bytes] = ...) -> None: ...

class Description(_message.Message):
    __slots__ = ("clinic", "digest", "counts", "count_noise", "version", "budget", "approved", "synthetic", "round_minutes")
    class CountsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    CLINIC_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    COUNT_NOISE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    BUDGET_FIELD_NUMBER: _ClassVar[int]
    APPROVED_FIELD_NUMBER: _ClassVar[int]
    SYNTHETIC_FIELD_NUMBER: _ClassVar[int]
    ROUND_MINUTES_FIELD_NUMBER: _ClassVar[int]
    clinic: str
    digest: str
    counts: _containers.ScalarMap[str, int]
    count_noise: float
    version: str
    budget: float
    approved: _containers.RepeatedScalarFieldContainer[str]
    synthetic: bool
    round_minutes: int
    def __init__(self, clinic: _Optional[str] = ..., digest: _Optional[str] = ..., counts: _Optional[_Mapping[str, int]] = ..., count_noise: _Optional[float] = ..., version: _Optional[str] = ..., budget: _Optional[float] = ..., approved: _Optional[_Iterable[str]] = ..., synthetic: _Optional[bool] = ..., round_minutes: _Optional[int] = ...) -> None: ...

class DescribeReply(_message.Message):
    __slots__ = ("description", "failure")
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    description: Description
    failure: Failure
    def __init__(self, description: _Optional[_Union[Description, _Mapping]] = ..., failure: _Optional[_Union[Failure, _Mapping]] = ...) -> None: ...

class Account(_message.Message):
    __slots__ = ("epsilon", "head", "noise_multiplier", "evaluation_noise_multiplier")
    EPSILON_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    NOISE_MULTIPLIER_FIELD_NUMBER: _ClassVar[int]
    EVALUATION_NOISE_MULTIPLIER_FIELD_NUMBER: _ClassVar[int]
    epsilon: float
    head: str
    noise_multiplier: float
    evaluation_noise_multiplier: float
    def __init__(self, epsilon: _Optional[float] = ..., head: _Optional[str] = ..., noise_multiplier: _Optional[float] = ..., evaluation_noise_multiplier: _Optional[float] = ...) -> None: ...

class Answer(_message.Message):
    __slots__ = ("clinic", "weight", "loss", "account", "groups")
    CLINIC_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    LOSS_FIELD_NUMBER: _ClassVar[int]
    ACCOUNT_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    clinic: str
    weight: int
    loss: float
    account: Account
    groups: _containers.RepeatedCompositeFieldContainer[Group]
    def __init__(self, clinic: _Optional[str] = ..., weight: _Optional[int] = ..., loss: _Optional[float] = ..., account: _Optional[_Union[Account, _Mapping]] = ..., groups: _Optional[_Iterable[_Union[Group, _Mapping]]] = ...) -> None: ...

class Group(_message.Message):
    __slots__ = ("name", "size")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    name: str
    size: int
    def __init__(self, name: _Optional[str] = ..., size: _Optional[int] = ...) -> None: ...

class AnswerPart(_message.Message):
    __slots__ = ("answer", "tensors", "failure")
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    FAILURE_FIELD_NUMBER: _ClassVar[int]
    answer: Answer
    tensors: bytes
    failure: Failure
    def __init__(self, answer: _Optional[_Union[Answer, _Mapping]] = ..., tensors: _Optional[bytes] = ..., failure: _Optional[_Union[Failure, _Mapping]] = ...) -> None: ...

class Failure(_message.Message):
    __slots__ = ("kind", "reason", "clinic")
    KIND_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    CLINIC_FIELD_NUMBER: _ClassVar[int]
    kind: str
    reason: str
    clinic: str
    def __init__(self, kind: _Optional[str] = ..., reason: _Optional[str] = ..., clinic: _Optional[str] = ...) -> None: ...

class CancelRequest(_message.Message):
    __slots__ = ("flower_run",)
    FLOWER_RUN_FIELD_NUMBER: _ClassVar[int]
    flower_run: int
    def __init__(self, flower_run: _Optional[int] = ...) -> None: ...

class Cancelled(_message.Message):
    __slots__ = ("computations",)
    COMPUTATIONS_FIELD_NUMBER: _ClassVar[int]
    computations: int
    def __init__(self, computations: _Optional[int] = ...) -> None: ...
