"""How tensors are stored: a folder per format, behind the `Store` protocol of `base`.

`registry` is the table of formats, `locate` finds out which format a path is of.  To add a format:
write a folder with a function that returns a `Store`, add one row to `registry.FORMATS`, and teach
`locate` the file's first bytes.  This module itself holds nothing.
"""
