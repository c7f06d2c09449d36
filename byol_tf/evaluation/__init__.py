"""Evaluation of a frozen encoder: features once, then one module a protocol."""
