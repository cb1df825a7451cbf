"""How much a node, or a fleet, can answer: formulas, fitted to what was measured, computed for what was not.

`law` is what a server's time goes to, fitted to the points of `bench.curves`; `paper` the same for Gemma 3
12B on GPUs, out of data sheets; `report` the tables. docs/capacity.md says what the formulas mean.
"""
