"""`octet bench serve`: load on a running server, and what it answers with.

`orders` says what is asked and when, out of `lengths`, `arrivals` and a seed; `content` makes the words and
pictures of it. `target` is what can be asked, in three forms: `octet_grpc`, `openai_http`, `vllm_grpc`.
`play` sends and takes the time, `figures` makes numbers of that, `run` goes through all loads, `report` and
`plot` show what came of it, and `watch` how far it has come.
"""
