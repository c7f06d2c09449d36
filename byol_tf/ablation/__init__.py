"""The paper's ablations: studies, their runs, their tables and plots."""
