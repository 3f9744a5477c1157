"""Reports: programs and their plans -> one page to look at."""
