"""Shared edges; knows no cron and no run."""
