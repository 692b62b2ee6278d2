"""What is given: sequences, decoder, constraints, and makers of them."""
