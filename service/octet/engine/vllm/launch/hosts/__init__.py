"""Several machines that serve one model together: how they find each other, and notice when one is gone."""
