"""Grids of runs: tasks x goals x seeds x variants, with one teacher a task, one table and the plots."""
