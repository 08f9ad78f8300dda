"""The interface between the client and the stores: what a database has to do to hold collections.

`_async/interface.py` lists the methods of a store; `requests` holds the values that they take, `loads` and `versions`
the protocols of bulk loads and of version syncs. A store trusts its arguments: the client has checked them.
"""
