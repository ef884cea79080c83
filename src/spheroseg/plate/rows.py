"""Names for the rows of the tables of a plate. A row maps column names to values, and None is a missing value."""

from typing import Any

# One object of one image, or one image without objects: the columns GROWTH_COLUMNS of export/growth_tables.py, and
# the columns of the user's own table of conditions.
GrowthRow = dict[str, Any]
# One well at one time: the columns WELL_COLUMNS of plate/well_curves.py.
WellRow = dict[str, Any]
# One condition at one time: the columns CONDITION_COLUMNS of plate/condition_statistics.py.
ConditionStatisticsRow = dict[str, Any]
# One growth model fitted to one well or one condition: the columns of plate/fit_table.py.
FitRow = dict[str, Any]
# One well at one chosen time: the columns of plate/endpoints.py.
EndpointRow = dict[str, Any]
# The dose-response curve of one drug: the columns of plate/ic50.py.
Ic50Row = dict[str, Any]
