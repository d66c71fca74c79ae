"""Rules of a warehouse, without I/O: what a movement is and what it may do to a balance."""
