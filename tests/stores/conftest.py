from support.sharing_places import hub, place, s3

__all__ = ["hub", "place", "s3"]
