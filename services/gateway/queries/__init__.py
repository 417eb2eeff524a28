"""What clients ask to know: searches over the read models, questions to graphs."""
