"""Whoever measures loads torch.ops.octet; here these tests do."""

import octet.ops  # noqa: F401
