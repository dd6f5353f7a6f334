"""Why a picture cannot be used."""


class PictureError(Exception):
    """A picture that cannot be used; the text is the reason, in one line, without the name of its file.

    Attributes:
        mendable: whether installing a package mends it.
    """

    def __init__(self, reason: str, *, mendable: bool = False) -> None:
        super().__init__(reason)
        self.mendable = mendable
