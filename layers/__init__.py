"""What stands between the network and its targets: priors, matching, losses."""
