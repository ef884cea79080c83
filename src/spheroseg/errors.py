"""Every error that a person or a program outside can meet.

The facts about an error are class attributes: `code` names it in the database, the manifest and the metrics,
`retryable` says whether the same work can succeed at another time, `status` is its HTTP status. The message says
what to do.
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
    """A stack of several z planes or channels of which a person must choose, or does not have the chosen one."""

    code = "choose_plane"


class ImageTooLarge(BadImage):
    code = "image_too_large"
    status = 413


class FileTooLarge(SpherosegError):
    """More bytes than one file may have."""

    code = "file_too_large"
    status = 413


class BadArchive(SpherosegError):
    code = "bad_archive"
    status = 422


class UnreadableInput(SpherosegError):
    """The file or folder itself could not be read: permissions, a vanished disk."""

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
    """Pictures to train on or to be judged by are not where they should be."""

    code = "data_away"
    status = 422


class BadPlate(SpherosegError):
    """A well, a pattern for file names or a table of conditions that cannot be used; the message says where."""

    code = "bad_plate"
    status = 422


class StorageFull(SpherosegError):
    code = "disk_full"
    retryable = True
    status = 507


class StorageUnusable(SpherosegError):
    """The storage does not take what it is given, for another reason than a full disk."""

    code = "storage_unusable"
    retryable = True
    status = 503


class BadMessage(SpherosegError):
    """A message that cannot be understood; it is dead-lettered with its body."""

    code = "bad_message"


class BrokerAway(SpherosegError):
    """The queues cannot be reached now; what was asked of them may or may not have happened."""

    code = "broker_away"
    retryable = True
    status = 503

    def __init__(self, message: str, *, is_silence: bool = False) -> None:
        super().__init__(message)
        # No answer came in time, over a connection that looks alive.
        self.is_silence = is_silence


class DatabaseAway(SpherosegError):
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
    """It does not exist, or not for this user."""

    code = "not_found"
    status = 404


class Gone(SpherosegError):
    """It was there, and somebody has taken it away."""

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
    """The tables are not those that this version works with; the message names the command to run."""

    code = "schema_unusable"
    status = 503


class OutputUnusable(SpherosegError):
    code = "output_unusable"
    status = 422


class RunInUse(SpherosegError):
    code = "run_in_use"
    status = 409
