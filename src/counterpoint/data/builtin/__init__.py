"""Built-in data sets, one file each; a file here is a set, found by its name (`_` in the file is `-` in the
name).

A file defines `SPLITS` (names, the first is the default), `NEEDS` (packages), `LICENCE`, and `rows(split) ->
Rows`.
"""
