"""Own TFX components: a folder each, of component (specification and class) and executor."""
