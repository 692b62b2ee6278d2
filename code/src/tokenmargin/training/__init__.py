"""Step rules and runs, exact to any ||W||."""
