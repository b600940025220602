"""The cheapest way to give every row a column of its own.

Row after row takes a column by the shortest augmenting path over those before it, found as Dijkstra's algorithm finds
it; what rows and columns pay keeps every reduced cost at or above 0. Source: Crouse, On implementing 2D rectangular
assignment algorithms, 2016; ties go as in SciPy's linear_sum_assignment.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

import numpy as np

from strata_sae.pipeline.kernels.machine.compiled.loops import compiled


@compiled
def cheapest_columns(cost):
    """The column of each row, int64 [R], of a float64 matrix [R, C] with R <= C and no NaN."""
    n_rows, n_columns = cost.shape
    row_pays, column_pays = np.zeros(n_rows), np.zeros(n_columns)
    column_of, row_of = np.full(n_rows, -1), np.full(n_columns, -1)
    path, left, length = np.full(n_columns, -1), np.empty(n_columns, np.int64), np.empty(n_columns)
    row_seen, column_seen = np.empty(n_rows, np.bool_), np.empty(n_columns, np.bool_)
    for first in range(n_rows):
        row_seen[:], column_seen[:], length[:] = False, False, np.inf
        for place in range(n_columns):
            left[place] = n_columns - place - 1
        n_left, row, shortest, sink = n_columns, first, 0.0, -1
        while sink == -1:
            row_seen[row] = True
            nearest, lowest = -1, np.inf
            for place in range(n_left):
                column = left[place]
                reached = shortest + cost[row, column] - row_pays[row] - column_pays[column]
                if reached < length[column]:
                    path[column], length[column] = row, reached
                if length[column] < lowest or (length[column] == lowest and row_of[column] == -1):
                    lowest, nearest = length[column], place
            shortest, column = lowest, left[nearest]
            if row_of[column] == -1:
                sink = column
            else:
                row = row_of[column]
            column_seen[column] = True
            n_left -= 1
            left[nearest] = left[n_left]
        row_pays[first] += shortest
        for row in range(n_rows):
            if row_seen[row] and row != first:
                row_pays[row] += shortest - length[column_of[row]]
        for column in range(n_columns):
            if column_seen[column]:
                column_pays[column] -= shortest - length[column]
        row = -1
        while row != first:
            row = path[sink]
            row_of[sink] = row
            column_of[row], sink = sink, column_of[row]
    return column_of
