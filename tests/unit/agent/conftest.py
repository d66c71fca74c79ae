"""Keeps Patroni's import from changing what every later test of the same run writes."""

from __future__ import annotations

import os

from patroni.file_perm import pg_perm

# It sets the umask of the whole process to 0077 when it is first imported, which is now.
os.umask(pg_perm.orig_umask)
