"""What Syncline remembers beside its runs, one module for each thing; all of it in the one table."""
