"""The schema's history: numbered SQL files, applied in order by `python -m wms.migrations up`.

How to write one, so that it may run under load: no statement that rewrites or scans a large table while it
holds a strong lock; new constraints NOT VALID first; nothing dropped that the running release still reads. A
file that was applied anywhere is never edited again: the runner compares checksums and refuses.
"""
