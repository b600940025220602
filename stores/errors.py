class StoreError(Exception):
    """An activation store that is damaged, unfinished, or not what was asked for; says where, what and what to do."""
