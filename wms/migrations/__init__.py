"""The schema's history: numbered SQL files, applied in order by `python -m wms.migrations up`.

How to write one, so that it may run under load: no statement that rewrites or scans a large table while it
holds a strong lock; new constraints NOT VALID first; nothing dropped that the running release still reads. A
file that was applied anywhere is never edited again: the runner compares checksums and refuses.

A file whose first line is `-- migrate: no transaction` is for what PostgreSQL refuses within one, above all CREATE
INDEX CONCURRENTLY. Its statements run one by one, and all of them again after the runner was killed: write them so
that they may. A concurrently built index that is there already is left alone, and an invalid leftover of one is dropped
first. After `-- migrate: each` comes a SELECT that gives the statements to run. That is how a partitioned table gets
an index, which PostgreSQL cannot build concurrently on the table as a whole: CREATE INDEX … ON ONLY it, one CREATE
INDEX CONCURRENTLY for each partition, ALTER INDEX … ATTACH PARTITION for each.
"""
