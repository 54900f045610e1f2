"""The works, one file each, found by their names. A file defines TITLE, UNIT and `cases(options)`; see `work.Case`."""
