"""Attacks on models and on what was certified."""
