"""The attention layer: losses, equations, gradient weights, many digits."""
