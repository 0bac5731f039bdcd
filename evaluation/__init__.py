"""Scoring of images against a reference. Data sets and generators come in as arguments: only the programs know everything."""
