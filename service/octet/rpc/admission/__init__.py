"""Which requests are let in, which of them wait, and who goes next; all before any work is done on them."""
