"""What `octet bench` measures the kernels with: shapes, timing, roofs, and the report; servers: `serving`."""
