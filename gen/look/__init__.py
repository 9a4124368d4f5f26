"""`kinmass check`: a file or a suite in words with a verdict, and as a suite file to start from.

Headers and a bounded sample are read, never all of a file. Imports every other room but
`storage` and `mock`.
"""
