"""What the sources of configs/presets/ say, preset by preset."""

from support.preset_tables import Table
from support.preset_values import seed000, seed001, seed002, seed003, seed004

TABLES: dict[str, Table] = {**seed000.TABLES, **seed001.TABLES, **seed002.TABLES, **seed003.TABLES, **seed004.TABLES}
