"""Placement of experts: replicas, ranks, traffic between layers, and a bound beside every plan."""
