"""Commands: audit and replay of the data folder, beside a running server or without; crons of either."""
