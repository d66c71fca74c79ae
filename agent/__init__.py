"""The node agent of a PostgreSQL member: Patroni, started with shorter waits, a death watch and a heartbeat."""
