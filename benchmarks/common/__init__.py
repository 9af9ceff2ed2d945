"""What the benches share: rounds and records, pools and workers, the timed loops, tables and plots."""
