"""Which numbers the rows of tables have, in order: `tables.py` writes them, kernels read them."""

from enum import IntEnum

Run = IntEnum(  # of `geometry.Run`
    "Run",
    "WEIGHTS SAMPLES PERIOD IN_ROWS OUT_ROWS IN_OFFSET OUT_OFFSET GRAD_IN_OFFSET GRAD_OUT_OFFSET",
    start=0,
)
# Of the window kernels: a tile, output rows of a run; of an input gradient, rows of a phase; a program's tiles.
Tile = IntEnum("Tile", "RUN BEGIN END", start=0)
PhaseTile = IntEnum("PhaseTile", "RUN PHASE BEGIN END", start=0)
Span = IntEnum("Span", "BEGIN END", start=0)
Norm = IntEnum("Norm", "PLAIN WEIGHT SPECTRAL", start=0)  # values of KIND
# Of a job of `pack`: one layer under one set; whether its weights are never rounded to TF32.
Pack = IntEnum("Pack", "KIND OUT CHANNELS TAPS PACKED FIRST EXACT", start=0)
# Of a job of `finish`: one layer of one stack; the numbers of its sets follow, each as `Set` says.
Finish = IntEnum("Finish", "KIND OUT CHANNELS TAPS DEPTH GRAD FIRST_GRAD SETS", start=0)
Set = IntEnum("Set", "INNER BEGIN END SLOT", start=0)
MOST_SETS = 2  # of a layer of one stack: a real and a generated one
FINISH_FIELDS = Finish.SETS + MOST_SETS * len(Set)
# Of a job of `iterate`: rows and columns of the matrix, and where its vectors begin among all jobs'.
Spectral = IntEnum("Spectral", "OUTS SIZE FIRST_OUT FIRST_COLUMN", start=0)
Chunk = IntEnum("Chunk", "PAIR FIRST END", start=0)  # of maps: a pair's elements from the first one on
# Of a pair of maps: its first chunk, the end, its elements, and how many elements lie before each map's first.
Pair = IntEnum("Pair", "FIRST END COUNT LEAD_REAL LEAD_GENERATED", start=0)
# Of scores: their count and target, how many elements lie before them; of their gradient the first element, or -1.
Part = IntEnum("Part", "COUNT TARGET LEAD GRAD", start=0)
