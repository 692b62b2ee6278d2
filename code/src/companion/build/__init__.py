"""What builds the book: dependencies, execution, rendering, checks. A change here executes nothing."""
