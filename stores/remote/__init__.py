"""Sharing stores: pushing them to, pulling them from, and reading them straight from S3, the hub, HTTP or a folder."""

from strata_sae.stores.remote.fetching import RemotePlace
from strata_sae.stores.remote.pull import Head, open_head, pull
from strata_sae.stores.remote.push import push
from strata_sae.stores.remote.transports import RetryPolicy, is_url

__all__ = ["Head", "RemotePlace", "RetryPolicy", "is_url", "open_head", "pull", "push"]
