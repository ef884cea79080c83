"""The positions that are read from the names of a folder, before anything is segmented."""

from collections import Counter
from dataclasses import dataclass

from spheroseg.plate.conditions import NO_CONDITION, Condition
from spheroseg.plate.position import PlatePosition
from spheroseg.plate.wells import Well, smallest_plate


@dataclass(frozen=True)
class PreviewImage:
    """The name of one image, and its position or the reason why it has none."""

    name: str
    position: PlatePosition | None
    reason: str = ""
    condition: Condition = NO_CONDITION


@dataclass(frozen=True)
class Preview:
    """All images of a folder, read by one rule.

    preset: the name of the preset that was used, or the user's own pattern; "" if no preset fits any name.
    is_guessed: whether the preset was chosen automatically.
    wells: the number of wells of the plate, if the user gave it.
    notes: sentences that the user should read.
    """

    preset: str
    images: tuple[PreviewImage, ...]
    is_guessed: bool = False
    wells: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def placed(self) -> list[tuple[PreviewImage, PlatePosition]]:
        """The images that have a position, each with its position."""
        return [(image, image.position) for image in self.images if image.position]

    @property
    def failed(self) -> list[PreviewImage]:
        """The images that have no position."""
        return [image for image in self.images if not image.position]

    @property
    def clashes(self) -> list[list[str]]:
        """Names that share one position: the same plate, well, site, time, channel and z."""
        groups: dict[PlatePosition, list[str]] = {}
        for image, position in self.placed:
            groups.setdefault(position, []).append(image.name)
        return [names for names in groups.values() if len(names) > 1]

    def count_images_per_well(self, plate: str) -> Counter[Well]:
        """Return the number of images of each well of this plate."""
        return Counter(position.well for _, position in self.placed if position.plate == plate and position.well)

    @property
    def plates(self) -> dict[str, int]:
        """The name of each plate that has wells, with its number of wells.

        The number is the one that the user gave, or else that of the smallest plate format that has all the wells.
        """
        names = sorted({position.plate for _, position in self.placed if position.well})
        return {name: self.wells or smallest_plate(self.count_images_per_well(name)) for name in names}
