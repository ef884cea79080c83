"""Every error that a person or another program can see.

The facts about an error are class attributes. `code` names it in the database, the manifest and the metrics.
`retryable` says whether the same work may succeed at another time. `status` is its HTTP status. The text of an error
says what to do.
"""


class SpherosegError(Exception):
    code = "error"
    retryable = False
    status = 500


class BadImage(SpherosegError):
    code = "bad_image"
    status = 422


class UnsupportedImage(BadImage):
    code = "unsupported_image"


class ChoosePlane(BadImage):
    """A stack with several z planes or channels of which a person must choose one, or without the chosen one."""

    code = "choose_plane"


class ImageTooLarge(BadImage):
    code = "image_too_large"
    status = 413


class FileTooLarge(SpherosegError):
    """A file with more bytes than are allowed."""

    code = "file_too_large"
    status = 413


class BadArchive(SpherosegError):
    code = "bad_archive"
    status = 422


class UnreadableInput(SpherosegError):
    """A file or folder that cannot be read, because of its permissions or because it has vanished."""

    code = "unreadable"
    retryable = True
    status = 422


class InputChanged(SpherosegError):
    code = "input_changed"
    status = 409


class BadParameters(SpherosegError):
    code = "bad_parameters"
    status = 422


class ModelUnusable(SpherosegError):
    code = "model_unusable"
    status = 422


class DataAway(SpherosegError):
    """Images for training or evaluation that are missing or cannot be used."""

    code = "data_away"
    status = 422


class BadPlate(SpherosegError):
    """A well, a pattern for file names or a table of conditions that cannot be used. The text says which."""

    code = "bad_plate"
    status = 422


class StorageFull(SpherosegError):
    code = "disk_full"
    retryable = True
    status = 507


class StorageUnusable(SpherosegError):
    """The storage refuses a file for another reason than a full disk."""

    code = "storage_unusable"
    retryable = True
    status = 503


class BadMessage(SpherosegError):
    """A message that cannot be read. It is dead-lettered with its body."""

    code = "bad_message"


class BrokerAway(SpherosegError):
    """The queues are unreachable. The request may or may not have taken effect.

    is_silence: no answer came in time, over a connection that looks alive.
    """

    code = "broker_away"
    retryable = True
    status = 503

    def __init__(self, message: str, *, is_silence: bool = False) -> None:
        super().__init__(message)
        self.is_silence = is_silence


class DatabaseAway(SpherosegError):
    """The database is unreachable."""

    code = "database_away"
    retryable = True
    status = 503


class BadSettings(SpherosegError):
    code = "bad_settings"


class Unauthenticated(SpherosegError):
    code = "unauthenticated"
    status = 401


class Forbidden(SpherosegError):
    code = "forbidden"
    status = 403


class NotFound(SpherosegError):
    """A thing that does not exist, or that this user may not see."""

    code = "not_found"
    status = 404


class Gone(SpherosegError):
    """A thing that existed and has been removed."""

    code = "gone"
    status = 410


class Conflict(SpherosegError):
    code = "conflict"
    status = 409


class BadRequest(SpherosegError):
    code = "bad_request"
    status = 422


class UnsupportedMediaType(SpherosegError):
    code = "unsupported_media_type"
    status = 415


class SchemaUnusable(SpherosegError):
    """The tables are not at a revision that this version works with. The text names the command to run."""

    code = "schema_unusable"
    status = 503


class OutputUnusable(SpherosegError):
    code = "output_unusable"
    status = 422


class RunInUse(SpherosegError):
    code = "run_in_use"
    status = 409
