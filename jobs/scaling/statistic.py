"""Medians with intervals, and a model of time against ranks."""

import math


def median(values):
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else 0.5 * (ordered[half - 1] + ordered[half])


def interval(values):
    """Order statistics that hold the median with a probability of at least 95 %, and that
    probability; fewer than six values cannot, and give their range."""
    ordered = sorted(values)
    n = len(ordered)
    best = 0
    for cut in range(n // 2 + 1):
        outside = 2.0 * sum(math.comb(n, i) for i in range(cut + 1)) / 2.0**n
        if 1.0 - outside >= 0.95:
            best = cut
    held = 1.0 - 2.0 * sum(math.comb(n, i) for i in range(best + 1)) / 2.0**n
    return ordered[best], ordered[n - 1 - best], max(0.0, held)


def solve(matrix, right):
    """A small linear system by elimination; None if it is singular."""
    n = len(right)
    rows = [list(row) + [b] for row, b in zip(matrix, right)]
    for i in range(n):
        pivot = max(range(i, n), key=lambda r: abs(rows[r][i]))
        if abs(rows[pivot][i]) < 1e-14:
            return None
        rows[i], rows[pivot] = rows[pivot], rows[i]
        for r in range(n):
            if r != i:
                factor = rows[r][i] / rows[i][i]
                rows[r] = [x - factor * y for x, y in zip(rows[r], rows[i])]
    return [rows[i][n] / rows[i][i] for i in range(n)]


# Terms of the model in the order in which they are tried; a study has few points.
TERMS = {"parallel": lambda p: 1.0 / p, "serial": lambda p: 1.0,
         "logarithmic": lambda p: math.log2(p) if p > 1 else 0.0}


def fit(points, weak):
    """Non-negative c_i of t(p) = Σ c_i f_i(p), least squares of the relative error.

    A weak study has constant work a rank, so there the first term is constant.
    @param points  (ranks, seconds), at least two
    """
    terms = dict(TERMS)
    if weak:
        terms = {"work": lambda p: 1.0, "logarithmic": TERMS["logarithmic"],
                 "linear": lambda p: p - 1.0}
    names = list(terms)[:max(1, min(len(terms), len(points) - (len(points) > 2)))]
    while names:
        rows = [[terms[name](p) / t for name in names] for p, t in points]
        normal = [[sum(r[i] * r[j] for r in rows) for j in range(len(names))]
                  for i in range(len(names))]
        found = solve(normal, [sum(r[i] for r in rows) for i in range(len(names))])
        if found is not None and min(found) >= 0.0:
            values = dict(zip(names, found))
            predict = lambda p: sum(c * terms[name](p) for name, c in values.items())
            error = max(abs(predict(p) / t - 1.0) for p, t in points)
            return {"terms": values, "largest_relative_error": error}, predict
        drop = names[-1] if found is None else names[found.index(min(found))]
        names.remove(drop)
    return {"terms": {}, "largest_relative_error": None}, lambda p: float("nan")
