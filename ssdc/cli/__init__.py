"""The command line: one command a file, named in the table of `ssdc.cli.main`."""
