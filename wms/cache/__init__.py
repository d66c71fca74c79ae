"""The application's cache (row K1, layer 4): a small near cache in the process before Redis Cluster."""
