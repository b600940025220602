"""Sharing stores: pushing them to, pulling them from, and reading them straight from S3, the hub, HTTP or a folder."""

from stores.remote.head import Head, open_head
from stores.remote.patience import Patience
from stores.remote.place import RemotePlace
from stores.remote.pull import pull
from stores.remote.push import push
from stores.remote.transports import is_url

__all__ = ["Head", "Patience", "RemotePlace", "is_url", "open_head", "pull", "push"]
