"""Measuring a machine: what is run on a device, what is fitted to it, and the description that comes of it."""
