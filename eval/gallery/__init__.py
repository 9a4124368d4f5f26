"""One galaxy of a store, and all of them: what was stored, what is true, and what each network says of it.

`stored.py` reads one galaxy and asks the networks, `figure.py` draws it (`kinmass show STORE GALAXY`). `index.py` reads
what a whole store can be sorted by, `pages.py` and `server.py` show it as a local web page (`kinmass gallery`).
"""
