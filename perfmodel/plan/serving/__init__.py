"""Serving plans: from a model, hardware, traffic and latency limits to a deployment."""
