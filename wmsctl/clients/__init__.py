"""How each server is spoken to. A client knows one protocol and returns frozen, typed snapshots; it decides
nothing.
"""
