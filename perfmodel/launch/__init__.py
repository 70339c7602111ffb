"""Launch files of other tools: plans and estimates as their flags, and their flags as a scenario of ours.

Every flag is data: one table per tool and version under `tables/`, with its source; nothing is written that is not
in the table.
"""

from perfmodel.launch.exports import EXPORTS, Exported, export_plan
from perfmodel.launch.imports import IMPORTS, Imported, import_launch
from perfmodel.launch.tables import Flag, Table, load_table, versions

__all__ = [
    "EXPORTS",
    "IMPORTS",
    "Exported",
    "Flag",
    "Imported",
    "Table",
    "export_plan",
    "import_launch",
    "load_table",
    "versions",
]
