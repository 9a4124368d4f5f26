"""The map store: its schema, and all that keeps it whole when writers are killed, raced or cut from power.

Files are written here and nowhere else. Imports physics, for shapes, and the suite, for what may change
in it.
"""
