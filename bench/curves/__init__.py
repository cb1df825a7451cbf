"""How throughput and first text change with what is asked: streams, prompt length, pictures, replicas.

`sweeps` measures, `plot` draws.
"""
