"""Serving: iterations of an engine, their memory, and the operating point that a load leads to."""
