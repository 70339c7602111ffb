"""Fits the kernel constants in hardware_specs/efficiency to the measured tables that ship with the package."""
