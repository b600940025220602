"""Complete linkage of many points, by the chain of nearest neighbours."""

import numpy as np

from strata_sae.pipeline.kernels.machine.compiled.loops import _compile


@_compile()
def complete_linkage(distance_EE: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The E - 1 joins of points into one tree, in no order: exact, in E^2 steps.

    distance_EE: symmetric; overwritten. The distance of two clusters is the largest of any two of their points.
    Returns: of each join a point of either cluster, int64, and their distance. Where a chain can go on to several that
    are equally near it goes back to where it came from, else to the lowest. Source: Murtagh, The Computer Journal 26
    (1983), 354; Muellner, arXiv 1109.2378, section 3.2.
    """
    n = len(distance_EE)
    first, second = np.empty(n - 1, np.int64), np.empty(n - 1, np.int64)
    height = np.empty(n - 1, distance_EE.dtype)
    is_left = np.ones(n, np.bool_)
    chain, length = np.empty(n, np.int64), 0
    lowest = 0
    for join in range(n - 1):
        if length == 0:
            while not is_left[lowest]:
                lowest += 1
            chain[0], length = lowest, 1
        while True:
            last = chain[length - 1]
            before = chain[length - 2] if length > 1 else -1
            nearest, least = before, distance_EE[last, before] if length > 1 else np.inf
            for other in range(n):
                if is_left[other] and other != last and distance_EE[last, other] < least:
                    nearest, least = other, distance_EE[last, other]
            if nearest == before:
                break
            chain[length] = nearest
            length += 1
        length -= 2
        a, b = min(last, before), max(last, before)
        first[join], second[join], height[join] = a, b, least
        is_left[a] = False  # b stands for both
        for other in range(n):
            if is_left[other] and other != b:
                joined = max(distance_EE[a, other], distance_EE[b, other])
                distance_EE[b, other] = distance_EE[other, b] = joined
    return first, second, height
