"""HTTP: resources, their types, errors as problem+json (RFC 9457), and the OpenAPI description made from
both.
"""
