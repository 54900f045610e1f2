"""What the command line is made of: parsers from signatures, and how results are printed."""
