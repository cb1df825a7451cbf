"""Thin gRPC servicers: they translate, call the engine, and write what it gives; the rules live elsewhere."""
