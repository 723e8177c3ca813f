"""The network, and what turns it into a face detector."""
