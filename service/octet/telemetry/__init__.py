"""What operators see of a server: metrics, traces, load reports."""
