"""Step rules and runs, in log scale, so that no exponential under- or overflows; what float64 cannot resolve is refused."""
