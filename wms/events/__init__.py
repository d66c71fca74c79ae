"""Events: from the outbox of the database through one Redis Stream to every process."""
