"""Our TFX components, one folder each: component (specification and class) and executor."""
