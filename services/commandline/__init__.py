"""Commands that read the data folder: crons, audit, replay. They work beside a running server and without."""
