"""The variants of docs/dga-findings.md, a list for each of its tables."""

# What the search began with: dga.md's best. 64 rows choose together, per-page means stand for
# the rest.
OLD = {"tile": 64, "window": 256, "index": "t4", "int8_queries": False}
MASS = {**OLD, "keep": "mass", "level": .04}
SHARED = {**OLD, "keep": "sample", "level": 3e-4}  # sampling, 64 rows choose together


def vary(base, name, *values):
    return [{**base, name: value} for value in values]


LISTS = {
    # Against the level, one row a choice.
    "levels": vary({}, "level", 1e-4, 3e-4, 6e-4, 1e-3, 1.5e-3, 2e-3, 4e-3),
    "floor": [{"level": 1e-9, "index": "exact", "int8_queries": False}],
    "rules": [*vary(MASS, "level", .02, .04, .08),
              *vary({**OLD, "keep": "threshold"}, "level", 1e-4, 2e-4, 4e-4, 8e-4),
              *vary({**OLD, "keep": "sample"}, "level", 1e-4, 3e-4, 1e-3)],
    "rests": vary(MASS, "rest", "means", "index", "drop"),
    "tiles": [*vary(SHARED, "tile", 1, 8, 16, 32, 64, 128),
              *vary({}, "tile", 1, 2, 4, 16)],
    "indices": [*vary(MASS, "index", "exact", "t8", "t4", "t3", "c4", "c3", "c2", "p48b4", "p32b4"),
                *vary(SHARED, "index", "exact", "t4", "t3", "t2", "t1", "c3", "c2", "c1", "p32b4",
                      "p16b4", "p8b8"),
                *vary({}, "index", "s4", "s5", "t4", "t3", "c4")],
    "details": [*vary({}, "int8_queries", True, False), {"linear_exp": True},
                {"systematic": True}, {"by_value": True}, {"reduce": "max", "level": 3e-3},
                {"reduce": "rms", "level": 1.5e-3}, {"per_head": True, "level": 2e-3}],
    # What refined_prefill.h does: the largest share over a tile's rows and heads, 8-bit scores.
    "prompts": [{"reduce": "max", "level": 1.6e-3},
                *[{"reduce": "max", "tile": tile, "level": level, "index": "e4m3", "online": online}
                  for tile, level, online in [
                      (32, 1.6e-3, False), (32, 1.6e-3, True), (32, 5e-3, False), (32, 1e-2, False),
                      (32, 1e-2, True), (32, 2e-2, False), (32, 4e-2, False), (16, 5e-3, False),
                      (16, 1e-2, False), (64, 1e-2, False), (64, 2e-2, False), (64, 4e-2, False),
                      (64, 4e-2, True)]],
                {"reduce": "max", "tile": 32, "level": 1e-2, "index": "exact",
                 "int8_queries": False}],
    "windows": vary({}, "window", 64, 128, 256, 512),
    "pages": vary(MASS, "page", 16, 32, 64, 128),
    "failed": [*vary(SHARED, "every_row", 2, 4, 8), *vary(SHARED, "neighbours", 2),
               *vary({**SHARED, "layers": 2}, "heads", "same", "mean", "max"),
               *vary(MASS, "skip_below", .01, .03),
               *vary(MASS, "gate", (4, 1e-4), (4, 1e-3), (4, 1e-2)),
               {**MASS, "neighbours": 2}],
}
