"""Three endpoints of the service as FastAPI and SQLAlchemy are usually written: what bench/aims.py compares with."""
