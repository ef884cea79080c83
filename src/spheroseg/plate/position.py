"""The position of one image on a plate and in time."""

from dataclasses import dataclass

from spheroseg.plate.wells import Well


@dataclass(frozen=True)
class PlatePosition:
    """Plate, well, site, time, channel and z of one image. None and "" mean that it is not known.

    well: None if the name has no well; then `sample` identifies the spheroid.
    time_h: hours since the beginning of the experiment.
    time_point: the number of the time point, if the name numbers its time points.
    """

    plate: str = ""
    well: Well | None = None
    sample: str = ""
    site: int | None = None
    time_h: float | None = None
    time_point: int | None = None
    channel: str = ""
    z: int | None = None

    @property
    def well_or_sample(self) -> str:
        """Name of the well, or of the sample if there is no well. Each has one growth curve."""
        return self.well.name if self.well else self.sample


NO_POSITION = PlatePosition()
