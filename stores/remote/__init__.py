"""Sharing stores: pushing them to, pulling them from, and reading them straight from S3, the hub, HTTP or a folder."""
