"""Classical mass estimators on the views that networks see.

Imports gen alone.
"""
