"""What exists: accelerators, networks, clusters, models and software, each number with its source."""
