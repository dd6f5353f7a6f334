"""A small clinic's table, and studies of it."""

from melfed.common.study.protocol import DataSpec, PartitionSpec, StudyProtocol


def a_study(seed: int = 0, minimum: int = 4, **data: object) -> StudyProtocol:
    return StudyProtocol(
        data=DataSpec(image_size=32, **data), partition=PartitionSpec(minimum_images=minimum), seed=seed
    )


def table(*rows: str) -> str:
    return "\n".join(["image,target,patient_id,source", *rows]) + "\n"
