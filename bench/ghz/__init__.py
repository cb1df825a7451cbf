"""Load on a running server with ghz: its configurations, and what runs them and reads the result."""
