"""The kernel tables, read where validation reads them."""

from perfmodel.validation.kernel_tables import FOLDER, Table, is_calibrate, load_roles, load_table, validate_groups

__all__ = ["FOLDER", "Table", "is_calibrate", "load_roles", "load_table", "validate_groups"]
