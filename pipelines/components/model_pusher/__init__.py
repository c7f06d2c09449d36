"""A component that pushes a blessed model atomically to the folder that a server watches."""
