"""`make demo`: a platform, a load, the loss of the primary's node, and what it cost, measured."""
