"""Many runs at once: basins, reports, sweeps."""
