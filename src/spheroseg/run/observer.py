"""What a run reports while it works, for a progress bar or a log."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spheroseg.run.plan import RunPlan
    from spheroseg.run.process import RunProgress


class RunObserver:
    """Override the methods that you need. They are called in this order, and none of them may block for long."""

    def reading(self, read: int, total: int) -> None:
        """Called after each file that was listed: the number of files read so far, and of all files."""

    def planned(self, plan: "RunPlan") -> None:
        """Called once the images and their places on plates are known. Nothing has been written yet."""

    def left_out(self, count: int) -> None:
        """Called if `RunOptions.only` leaves out images, with their number."""

    def progress(self, progress: "RunProgress") -> None:
        """Called several times a second while images are segmented."""

    def writing(self) -> None:
        """Called before the tables and pictures are written."""
