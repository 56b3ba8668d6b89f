"""What the bench measures in python: work.py DIR N SECONDS [warm] opens, reads and closes DIR/0 to
DIR/N-1 and prints files/s, the median of short batches; without arguments it ends at once."""

import json  # what a small program loads
import sys
import time


def small(directory, number):
    with open(f"{directory}/{number}", "rb") as f:
        if not f.read():
            sys.exit(f"{f.name} is empty")


def files(directory, n, seconds, warm):
    for i in range(n if warm else 0):
        small(directory, i)
    rates, size, i = [], 1, 0
    until = time.perf_counter() + seconds
    began = 0.0
    while began < until and (warm or i + size <= n):
        began = time.perf_counter()
        for i in range(i, i + size):
            small(directory, i % n)
        i += 1
        took = time.perf_counter() - began
        if took < 1e-3:
            size *= 2
        else:
            rates.append(size / took)
    return sorted(rates)[len(rates) // 2]


if len(sys.argv) > 3:
    print(json.dumps(files(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), "warm" in sys.argv[4:])))
