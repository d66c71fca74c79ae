"""All resource types by their tokens."""

from __future__ import annotations

from typing import Any

from stacks.local.provider.handler import Handler
from stacks.local.provider.handlers.authority import AuthorityHandler
from stacks.local.provider.handlers.bucket import BucketHandler
from stacks.local.provider.handlers.certificate import CertificateHandler
from stacks.local.provider.handlers.database import DatabaseHandler
from stacks.local.provider.handlers.database_extension import DatabaseExtensionHandler
from stacks.local.provider.handlers.database_role import DatabaseRoleHandler
from stacks.local.provider.handlers.database_script import DatabaseScriptHandler
from stacks.local.provider.handlers.etcd_auth import EtcdAuthHandler
from stacks.local.provider.handlers.file import FileHandler
from stacks.local.provider.handlers.job import JobHandler
from stacks.local.provider.handlers.password import PasswordHandler
from stacks.local.provider.handlers.patroni_config import PatroniConfigHandler
from stacks.local.provider.handlers.process import ProcessHandler
from stacks.local.provider.handlers.redis_cluster import RedisClusterHandler
from stacks.local.provider.handlers.release import ReleaseHandler
from stacks.local.provider.handlers.supervisor import SupervisorHandler

HANDLERS: dict[str, Handler[Any]] = {
    "wms:index:Authority": AuthorityHandler(),
    "wms:index:Bucket": BucketHandler(),
    "wms:index:Certificate": CertificateHandler(),
    "wms:index:Database": DatabaseHandler(),
    "wms:index:DatabaseExtension": DatabaseExtensionHandler(),
    "wms:index:DatabaseRole": DatabaseRoleHandler(),
    "wms:index:DatabaseScript": DatabaseScriptHandler(),
    "wms:index:EtcdAuth": EtcdAuthHandler(),
    "wms:index:File": FileHandler(),
    "wms:index:Job": JobHandler(),
    "wms:index:Password": PasswordHandler(),
    "wms:index:PatroniConfig": PatroniConfigHandler(),
    "wms:index:Process": ProcessHandler(),
    "wms:index:RedisCluster": RedisClusterHandler(),
    "wms:index:Release": ReleaseHandler(),
    "wms:index:Supervisor": SupervisorHandler(),
}
