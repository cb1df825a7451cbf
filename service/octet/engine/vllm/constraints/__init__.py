"""What decoding is held to: checked before anything is done, and followed within limits.

One library, llguidance, compiles and follows every constraint. `schema` and `lexemes` put into its terms what
it holds an answer to as a whole, and refuse the rest; `checker` has everything compiled once in a process
that can be stopped; `backend` is what follows it in vLLM's engine core.
"""
