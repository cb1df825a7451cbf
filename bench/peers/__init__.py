"""Octet beside its peers: the engine alone in process, vLLM's gRPC server, vLLM's OpenAI server.

`bursts` is what each is asked, `engine_alone` the engine in a process of its own (which is asked in `lines`),
`peer` the four of them, `cpu` what their processes compute, `report` the table and the aims.
"""
