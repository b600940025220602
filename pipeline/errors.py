"""The errors a user can cause. Each message says where, what was found, what is allowed, and what to do.

Exception
 ├── ConfigError       a config, a corpus or a command line that cannot work; exit code 2
 ├── CheckpointError   a run folder that does not hold what it should; exit code 1
 └── stores.StoreError an activation store that does not hold what it should; exit code 1
"""


class ConfigError(Exception):
    """Input that cannot work: a config key, a corpus, a model, a site."""


class CheckpointError(Exception):
    """A run folder, checkpoint or result that is damaged or belongs to another config."""
