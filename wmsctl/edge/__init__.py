"""The edges' caches: what is kept there is made to go."""
